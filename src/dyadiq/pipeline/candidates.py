"""Weights as the recipe will round them: the perturbations that sensitivities and refinement measure.

Used by the stages ``analyze`` and ``allocate``, which declare `ROUNDING` and the stages data, capture and distill.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dyadiq.pipeline.sources import calibration_batches
from dyadiq.pipeline.stage import StageContext

if TYPE_CHECKING:
    from dyadiq.ir.graph import Graph

__all__ = ["ROUNDING", "candidates"]

ROUNDING = tuple(f"reconstruct.{key}" for key in ("methods", "n_samples", "damping", "sweeps"))


def candidates(context: StageContext, canonical: Graph) -> dict[tuple[str, int], NDArray[np.float64]] | None:
    """Return weights as ``gptq`` will round them, where the recipe says so; None: to the nearest."""
    from dyadiq.quant.candidates import rounded_candidates
    from dyadiq.rounding import RoundingConfig

    section = context.recipe.reconstruct
    if "gptq" not in section.methods:
        return None
    return rounded_candidates(
        canonical,
        calibration_batches(context, section.n_samples),
        context.recipe.analyze.bits,
        config=context.recipe.quant.to_config(),
        rounding=RoundingConfig(damping=section.damping, sweeps=section.sweeps),
        seed=context.recipe.seed,
        progress=context.progress,
    )
