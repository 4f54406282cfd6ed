"""The stages of a run, in order. A new stage is one file and two lines here."""

from __future__ import annotations

from dyadiq.pipeline.allocate import STAGE as ALLOCATE
from dyadiq.pipeline.analyze import STAGE as ANALYZE
from dyadiq.pipeline.capture import STAGE as CAPTURE
from dyadiq.pipeline.compare import STAGE as COMPARE
from dyadiq.pipeline.data import STAGE as DATA
from dyadiq.pipeline.distill import STAGE as DISTILL
from dyadiq.pipeline.evaluate import STAGE as EVALUATE
from dyadiq.pipeline.export import STAGE as EXPORT
from dyadiq.pipeline.finetune import STAGE as FINETUNE
from dyadiq.pipeline.float_model import STAGE as FLOAT
from dyadiq.pipeline.hardware import STAGE as HARDWARE
from dyadiq.pipeline.lower import STAGE as LOWER
from dyadiq.pipeline.quantize import STAGE as QUANTIZE
from dyadiq.pipeline.reconstruct import STAGE as RECONSTRUCT
from dyadiq.pipeline.report import STAGE as REPORT
from dyadiq.pipeline.stage import Stage
from dyadiq.pipeline.verify import STAGE as VERIFY

__all__ = ["STAGES"]

STAGES: tuple[Stage, ...] = (
    DATA,
    FLOAT,
    CAPTURE,
    DISTILL,
    ANALYZE,
    ALLOCATE,
    QUANTIZE,
    RECONSTRUCT,
    FINETUNE,
    LOWER,
    EXPORT,
    VERIFY,
    EVALUATE,
    COMPARE,
    HARDWARE,
    REPORT,
)
