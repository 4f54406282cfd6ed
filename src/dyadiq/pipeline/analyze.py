"""Stage ``analyze``: how much the loss grows when one tensor gets fewer bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dyadiq.pipeline.candidates import ROUNDING, candidates
from dyadiq.pipeline.sources import calibration_batches, graph
from dyadiq.pipeline.stage import Stage, StageContext

if TYPE_CHECKING:
    from dyadiq.allocation import RegretRule

__all__ = ["STAGE"]


def _run(context: StageContext) -> None:
    from dyadiq.core.store import save_table
    from dyadiq.cost import network_facts
    from dyadiq.curvature import analyze
    from dyadiq.ir.packed import packed_size_parts
    from dyadiq.ir.passes import canonicalize
    from dyadiq.ir.probe import probe_program

    section = context.recipe.analyze
    config = context.recipe.quant.to_config()
    canonical = canonicalize(graph(context))
    fixed_bytes, _ = packed_size_parts(probe_program(canonical, config))
    facts = network_facts(canonical, config, fixed_size_bytes=fixed_bytes)
    table = analyze(
        canonical,
        calibration_batches(context, section.n_samples),
        section.method,
        bits=section.bits,
        activation_bits=section.activation_bits,
        seed=context.recipe.seed,
        precision=section.precision,
        unreached=section.unreached,
        folder=context.scratch / "pieces",
        progress=context.progress,
        facts=facts,
        stop=_rule(context),
        spectrum=section.spectrum,
        candidates=candidates(context, canonical),
    )
    save_table(context.folder / "sensitivity.safetensors", table)


def _rule(context: StageContext) -> RegretRule | None:
    """Return the rule to stop by, where the recipe says so."""
    from dyadiq.allocation import RegretRule

    section = context.recipe.analyze
    if section.budget is None:
        return None
    return RegretRule(
        section.budget,
        section.bits,
        section.activation_bits or section.bits,
        limit=section.max_regret,
        seed=context.recipe.seed,
    )


STAGE = Stage(
    "analyze",
    "measure sensitivities",
    ("data", "capture", "distill"),
    ("data", "quant", "analyze", *ROUNDING),
    _run,
    shared=True,
)
