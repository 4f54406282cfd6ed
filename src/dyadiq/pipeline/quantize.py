"""Stage ``quantize``: the chosen plan with ranges calibrated on training samples, or on distilled inputs."""

from __future__ import annotations

from dyadiq.pipeline.quantized import calibrated
from dyadiq.pipeline.stage import Stage, StageContext

__all__ = ["STAGE"]


def _run(context: StageContext) -> None:
    from dyadiq.core.store import load_plan
    from dyadiq.quant.store import save_quant_module

    qmod = calibrated(context, load_plan(context.path("allocate", "plan.json")))
    save_quant_module(context.folder / "module.safetensors", qmod)


STAGE = Stage(
    "quantize",
    "calibrate the ranges",
    ("data", "capture", "distill", "allocate"),
    ("data", "quant", "calibrate"),
    _run,
)
