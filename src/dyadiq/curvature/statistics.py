"""Mean and standard error over samples, and the table made of them.

Used by every method of this package.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.tables import Sensitivity

__all__ = ["mean_with_stderr", "to_entries"]


def mean_with_stderr(samples: NDArray[np.float64]) -> Sensitivity:
    """Return the mean of at least two samples and its standard error ``s / sqrt(N)``.

    Example:
        >>> mean_with_stderr(np.array([1.0, 3.0]))
        Sensitivity(value=2.0, stderr=1.0)
    """
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused by name, in `sound`
        return Sensitivity(float(samples.mean()), float(samples.std(ddof=1) / math.sqrt(len(samples))))


def to_entries(measured: Mapping[tuple[str, int], Sensitivity]) -> dict[str, dict[int, Sensitivity]]:
    """Return rows by decision, in the order given.

    Example:
        >>> to_entries({("w", 4): Sensitivity(1.0, 0.0)})
        {'w': {4: Sensitivity(value=1.0, stderr=0.0)}}
    """
    entries: dict[str, dict[int, Sensitivity]] = {}
    for (name, bits), sensitivity in measured.items():
        entries.setdefault(name, {})[bits] = sensitivity
    return entries
