"""Samples drawn where the curvature is: by how unsure the network is about them, and weighted so that means stay true.

Used by `sampled_trace`. One forward pass over all samples gives

    h_n = 1 - sum_c p_nc^2 = tr(S_n S_n^T)       the trace of the output metric, cross entropy

to which a sample's curvature is nearly proportional, and which is tiny for the samples that a trained network is sure
about. Sample n is drawn with probability ``q_n = (1 - floor) h_n / sum h + floor / N``, with replacement, and counts
with the weight ``1 / (N q_n)``: every weighted mean is unbiased for the mean over all samples. The floor bounds the
weights by ``1 / floor``. Source: importance sampling, e.g. Owen 2013, chapter 9 (defensive mixtures, section 9.11).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FLOOR", "Draws", "draw", "effective_size"]

Floats = NDArray[np.float64]

FLOOR = 0.1


@dataclass(frozen=True)
class Draws:
    """Indices of samples and their weights, mean about 1."""

    indices: NDArray[np.int64]
    weights: Floats


def draw(uncertainty: Floats, n: int, rng: np.random.Generator, *, floor: float = FLOOR) -> Draws:
    """Return ``n`` samples drawn by their uncertainty.

    Args:
        uncertainty: ``h_n >= 0``; all equal if none is positive.
        n: Draws, with replacement.
        rng: Of the draws.
        floor: Share of the probability that is spread evenly, in (0, 1].

    Example:
        >>> drawn = draw(np.array([0.0, 0.3, 0.9]), 1000, np.random.default_rng(0))
        >>> bool(abs((drawn.weights * (drawn.indices == 0)).mean() - 1 / 3) < 0.1)  # unbiased for the rare ones too
        True
    """
    size = len(uncertainty)
    total = float(uncertainty.sum())
    even = np.full(size, 1.0 / size)
    probability = even if total <= 0.0 else (1.0 - floor) * uncertainty / total + floor * even
    probability = probability / probability.sum()
    indices = rng.choice(size, size=n, p=probability).astype(np.int64)
    return Draws(indices, 1.0 / (size * probability[indices]))


def effective_size(values: Floats) -> float:
    """Return ``(sum v)^2 / sum v^2``: of how many equal contributions a mean of these consists; 0 if all are zero.

    Example:
        >>> effective_size(np.array([1.0, 1.0, 0.0])), effective_size(np.array([100.0, 1.0, 1.0])) < 1.05
        (2.0, True)
    """
    squares = float(np.square(values).sum())
    return float(values.sum()) ** 2 / squares if squares > 0.0 else 0.0
