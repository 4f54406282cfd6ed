"""Stage ``compare``: uniform plans beside the chosen one, calibrated, reconstructed, fine-tuned and measured alike."""

from __future__ import annotations

from typing import Any

from dyadiq.pipeline.allocate import priced_uniform_plan
from dyadiq.pipeline.evaluate import evaluate_program
from dyadiq.pipeline.quantized import calibrated, finetune_, reconstruct
from dyadiq.pipeline.sources import dataset
from dyadiq.pipeline.stage import Stage, StageContext, write_json

__all__ = ["STAGE"]


def _run(context: StageContext) -> None:
    from dyadiq.core.store import load_table
    from dyadiq.ir.packed import packed_size_parts
    from dyadiq.quant.lower import lower

    facts = load_table(context.path("analyze", "sensitivity.safetensors")).facts
    data = dataset(context)
    points: list[dict[str, Any]] = []
    for bits in context.recipe.compare.uniform_bits:
        plan = priced_uniform_plan(facts, bits, bits)
        qmod = calibrated(context, plan)
        reconstruct(context, qmod)
        finetune_(context, qmod, context.scratch / f"training-{bits}.safetensors")
        program = lower(qmod)
        fixed_bytes, weight_bytes = packed_size_parts(program)
        points.append(
            {
                "label": f"W{bits}A{bits}",
                "weight_bits": bits,
                "activation_bits": bits,
                "accuracy": evaluate_program(program, data.test),
                "validation_accuracy": evaluate_program(program, data.validation),
                "size_bytes": fixed_bytes + sum(weight_bytes.values()),
                "bops": plan.costs["bops"],
            }
        )
    write_json(context.folder / "uniform.json", points)


STAGE = Stage(
    "compare",
    "measure uniform plans",
    ("data", "float", "capture", "distill", "analyze"),
    ("data", "model", "quant", "calibrate", "reconstruct", "finetune", "compare"),
    _run,
)
