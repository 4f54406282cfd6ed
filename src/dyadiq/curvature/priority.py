"""A sum over many units estimated from few, each unit taken at most once: sampling by priority.

Used by `sampled_trace`. Unit i has a known size ``s_i >= 0`` and an unknown value nearly proportional to it. Its key is
``u_i / s_i``, u_i uniform on (0, 1]; units are looked at in ascending order of keys, for as long as one likes. When the
next key is t, a unit was taken with probability ``pi_i = min(1, t s_i)``. Units with ``t s_i >= 1`` are certain: they
are all there, and nothing about them is estimated. Of the others the ratio of value to size is:

    total = sum_certain y_i + B H,    B = sum_rest (y_i / pi_i) / sum_rest (s_i / pi_i),
    var   = sum_rest (1 - pi_i) / pi_i^2 (y_i - B s_i)^2  n / (n - 1)

H being the sum of the sizes of all units that are not certain, taken or not, and n the number of those taken.

Where a few units carry most of the sum, this is far better than draws with replacement, which take these few again and
again. When all units were taken the total is exact and its error zero.
Sources: Duffield, Lund and Thorup 2007, priority sampling; Saerndal, Swensson and Wretman 1992, section 5.6, ratios.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PrioritySample", "Total"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Total:
    """An estimated sum.

    Attributes:
        value: The sum.
        stderr: Its standard error.
        estimated: The part of it that is estimated, not counted.
        n_effective: Of how many equal contributions that part was estimated; inf if there is none.
    """

    value: float
    stderr: float
    estimated: float
    n_effective: float


class PrioritySample:
    """The order in which units are looked at, and the estimates after so many."""

    def __init__(self, sizes: Floats, rng: np.random.Generator) -> None:
        """Draw the keys; units of size zero are never taken."""
        self._sizes = sizes
        keys = np.full(len(sizes), np.inf)
        positive = sizes > 0.0
        keys[positive] = (1.0 - rng.random(len(sizes)))[positive] / sizes[positive]
        self.order = np.argsort(keys, kind="stable")[: int(positive.sum())]
        self._keys = np.append(keys[self.order], np.inf)
        self._sum = float(sizes.sum())

    def total(self, values: Floats) -> Total:
        """Return the sum over all units, from the values of the first units of ``order``.

        Example:
            >>> sizes = np.array([9.0, 0.0, 1.0, 1.0, 1.0, 1.0])
            >>> sample = PrioritySample(sizes, np.random.default_rng(0))
            >>> sample.total(2.0 * sizes[sample.order])  # all units that count: exact
            Total(value=26.0, stderr=0.0, estimated=0.0, n_effective=inf)
            >>> sample.total(2.0 * sizes[sample.order[:4]]).value  # values in proportion to sizes: no error either
            26.0
        """
        taken = self._sizes[self.order[: len(values)]]
        threshold = self._keys[len(values)]
        rest = threshold * taken < 1.0
        certain = float(values[~rest].sum())
        if not rest.any() and len(values) == len(self.order):
            return Total(certain, 0.0, 0.0, math.inf)
        y, s, p = values[rest], taken[rest], threshold * taken[rest]
        missing = max(self._sum - float(taken[~rest].sum()), 0.0)
        if len(y) < 2:
            return Total(certain, math.inf, math.inf, len(y))
        ratio = float((y / p).sum()) / float((s / p).sum())
        variance = float(((1.0 - p) / p**2 * (y - ratio * s) ** 2).sum()) * len(y) / (len(y) - 1)
        return Total(certain + ratio * missing, math.sqrt(variance), ratio * missing, _effective(y / p))


def _effective(values: Floats) -> float:
    """Return ``(sum v)^2 / sum v^2``: of how many equal contributions a sum consists; 0 if all are zero."""
    squares = float(np.square(values).sum())
    return float(values.sum()) ** 2 / squares if squares > 0.0 else 0.0
