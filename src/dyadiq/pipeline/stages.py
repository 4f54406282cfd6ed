"""The stages of a run, in order. A new stage is one file and one line here."""

from __future__ import annotations

from dyadiq.pipeline import (
    allocate,
    analyze,
    capture,
    compare,
    data,
    evaluate,
    export,
    finetune,
    float_model,
    lower,
    quantize,
    report,
    verify,
)
from dyadiq.pipeline.stage import Stage

__all__ = ["STAGES"]

STAGES: tuple[Stage, ...] = (
    data.STAGE,
    float_model.STAGE,
    capture.STAGE,
    analyze.STAGE,
    allocate.STAGE,
    quantize.STAGE,
    finetune.STAGE,
    lower.STAGE,
    export.STAGE,
    verify.STAGE,
    evaluate.STAGE,
    compare.STAGE,
    report.STAGE,
)
