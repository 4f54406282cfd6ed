"""From a plan to a trained `QuantModule`: shared by the stages of the chosen plan and the uniform ones beside it.

So that every plan is calibrated and fine-tuned alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyadiq.core.plan import BitPlan
from dyadiq.pipeline.sources import calibration_batches, dataset, float_model, graph
from dyadiq.pipeline.stage import StageContext

if TYPE_CHECKING:
    from dyadiq.quant.module import QuantModule

__all__ = ["calibrated", "finetune_", "reconstruct"]


def calibrated(context: StageContext, plan: BitPlan) -> QuantModule:
    """Return the network quantized as the plan says, ranges taken from training samples or distilled inputs."""
    from dyadiq.quant.quantize import quantize
    from dyadiq.quant.refine import refine_ranges_

    batches = list(calibration_batches(context, context.recipe.calibrate.n_samples))
    qmod = quantize(
        graph(context),
        plan,
        batches,
        config=context.recipe.quant.to_config(),
        seed=context.recipe.seed,
        progress=context.progress,
    )
    if context.recipe.calibrate.refine:
        refine_ranges_(qmod, batches, progress=context.progress)
    return qmod


def reconstruct(context: StageContext, qmod: QuantModule) -> dict[str, Any]:
    """Run the recipe's post-training methods on a calibrated module, in place, and return what they did."""
    from dyadiq.quant.reconstruct import reconstruct_
    from dyadiq.quant.reconstruction import ReconstructConfig
    from dyadiq.rounding import RoundingConfig

    section = context.recipe.reconstruct
    if not section.methods:
        return {"methods": [], "errors": {}, "notes": []}
    result = reconstruct_(
        qmod,
        calibration_batches(context, section.n_samples),
        section.methods,
        config=ReconstructConfig(
            rounding=RoundingConfig(damping=section.damping, sweeps=section.sweeps),
            iterations=section.iterations,
            batch_size=section.batch_size,
            learning_rate=section.learning_rate,
        ),
        seed=context.recipe.seed,
        progress=context.progress,
    )
    errors = {name: {"nearest": before, "now": now} for name, (before, now) in result.errors.items()}
    return {"methods": list(result.methods), "errors": errors, "notes": list(result.notes)}


def finetune_(context: StageContext, qmod: QuantModule, checkpoint: Path) -> dict[str, Any]:
    """Fine-tune as the recipe says and return the history; nothing happens at ``epochs = 0``."""
    from dyadiq.core.store import load_table
    from dyadiq.train import TrainConfig
    from dyadiq.train.blockwise import BlockwiseConfig, omega_order
    from dyadiq.train.finetune import finetune
    from dyadiq.train.sparsify_config import SparsifyConfig

    settings = context.recipe.finetune.model_dump()
    distill, sparsify = settings.pop("distill"), settings.pop("sparsify")
    blockwise_frac = settings.pop("blockwise_frac")
    del settings["real_data"]  # a promise, checked by the recipe
    if settings["epochs"] == 0:
        return {"history": [], "best_epoch": None}
    blockwise = None
    if blockwise_frac:
        table = load_table(context.path("analyze", "sensitivity.safetensors"))
        blockwise = BlockwiseConfig(omega_order(table, qmod), blockwise_frac)
    data = dataset(context)
    qmod.batchnorm_frozen = not settings["freeze_bn_epoch"]  # live until that epoch, if the recipe names one
    result = finetune(
        qmod,
        data.train,
        config=TrainConfig(**settings, seed=context.recipe.seed),
        validation=data.validation,
        teacher=float_model(context) if distill else None,
        sparsify=None if sparsify is None else SparsifyConfig(**sparsify),
        blockwise=blockwise,
        checkpoint=checkpoint,
        progress=context.progress,
    )
    polished = {} if result.polished is None else {"polished": dict(result.polished)}
    return {"history": list(result.history), "best_epoch": result.best_epoch, **polished}
