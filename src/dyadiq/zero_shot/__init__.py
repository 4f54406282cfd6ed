"""Calibration without data: inputs distilled from what batch norms remember of the training data.

Used by `analyze` and `quantize` where no batches are given, by the pipeline, and as `dyadiq.distill`.
"""

from __future__ import annotations

from dyadiq.zero_shot.distill import N_IMAGES, distill
from dyadiq.zero_shot.distilled import Distilled
from dyadiq.zero_shot.once import distill_once

__all__ = ["N_IMAGES", "Distilled", "distill", "distill_once"]
