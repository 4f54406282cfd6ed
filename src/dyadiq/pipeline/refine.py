"""The measurements of ``[allocate.refine]``: whole plans on samples that propose, and on others that guard.

Used by the stage ``allocate``. Training samples are drawn where the network is unsure, from eight times as many;
distilled inputs are split in two. Losses are kept in the stage's scratch folder, so that a killed search goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import DataError
from dyadiq.pipeline.candidates import candidates
from dyadiq.pipeline.sources import calibration_batches, graph
from dyadiq.pipeline.stage import StageContext, read_json

if TYPE_CHECKING:
    from dyadiq.core.facts import NetworkFacts
    from dyadiq.curvature.plan_losses import PlanLosses
    from dyadiq.ir.graph import Graph
    from dyadiq.recipe_sections import RefineSection

__all__ = ["measurements"]

_POOL = 8


def measurements(
    context: StageContext,
    facts: NetworkFacts,
    section: RefineSection,
    bits: Sequence[int],
    activation_bits: Sequence[int],
) -> tuple[PlanLosses, PlanLosses]:
    """Return the measurement that proposes and the one that guards.

    Raises:
        DataError: Fewer samples than both need.
    """
    from dyadiq.curvature.plan_losses import plan_losses
    from dyadiq.ir.passes import canonicalize

    canonical = canonicalize(graph(context))
    proposing, guarding = _samples(context, canonical, facts, section)
    measure = partial(
        plan_losses,
        canonical,
        facts=facts,
        bits=bits,
        activation_bits=activation_bits,
        candidates=candidates(context, canonical),
        seed=context.recipe.seed,
    )
    kept = context.scratch / "plans"
    return measure([proposing], folder=kept / "proposing"), measure([guarding], folder=kept / "guarding")


def _samples(
    context: StageContext, canonical: Graph, facts: NetworkFacts, section: RefineSection
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    from dyadiq.curvature.unsure import draw_unsure, uncertainty_of

    n = section.n_samples + section.n_guard
    pool = np.concatenate(calibration_batches(context, _POOL * n))
    if read_json(context.path("distill", "distilled.json")) is not None:
        if len(pool) < 4:
            raise DataError(f"allocate.refine: needs at least 4 distilled inputs, got {len(pool)}. Distill more.")
        return pool[::2], pool[1::2]
    if len(pool) < n:
        raise DataError(
            f"allocate.refine: n_samples = {section.n_samples} and n_guard = {section.n_guard} need {n} training "
            f"samples, there are {len(pool)}. Ask for fewer."
        )
    drawn = pool[draw_unsure(uncertainty_of(canonical, [pool], facts), n, seed=context.recipe.seed)]
    return drawn[: section.n_samples], drawn[section.n_samples :]
