"""Integers as sums of few signed powers of two: what a constant multiplication costs in adders.

Used by `quant.fake_quant` (weights limited to so many digits) and `train.sparsify` (which chooses the limits); the
oracle of their torch versions. A code with n nonzero digits in non-adjacent form takes n - 1 adders to multiply by; a
weight of 0 digits is pruned. Source: Reitwiesner 1960 (the non-adjacent form has the fewest nonzero digits); the
number of them is the number of ones in ``n xor 3 n``.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dyadiq.core.errors import QuantError

__all__ = ["MAX_DIGITS", "count_digits", "digit_grids", "nearest_codes"]

MAX_DIGITS = 9  # a code of 16 bits has no more (43,691 has so many)


def count_digits(codes: ArrayLike) -> NDArray[np.int64]:
    """Return the nonzero signed digits of every code.

    Example:
        >>> count_digits([0, 1, -4, 3, 7, 11, 127]).tolist()
        [0, 1, 1, 2, 2, 3, 2]
    """
    magnitude = np.abs(np.asarray(codes, dtype=np.int64))
    ones = np.ascontiguousarray(magnitude ^ (3 * magnitude)).view(np.uint8)
    return np.asarray(np.unpackbits(ones).reshape(*magnitude.shape, 64).sum(-1), dtype=np.int64)


@cache
def digit_grids(low: int, high: int) -> tuple[NDArray[np.float64], ...]:
    """Return the codes of [low, high] with at most 0, 1, 2, ... digits, each ascending; the last grid has all codes.

    Raises:
        QuantError: 0 lies outside, so that nothing could be pruned.

    Example:
        >>> [grid.tolist() for grid in digit_grids(-3, 3)[:2]]
        [[0.0], [-2.0, -1.0, 0.0, 1.0, 2.0]]
    """
    if not low <= 0 <= high:
        raise QuantError(f"codes from {low} to {high} do not hold 0; digits can be limited only where 0 is a code.")
    codes = np.arange(low, high + 1)
    digits = count_digits(codes)
    return tuple(codes[digits <= n].astype(np.float64) for n in range(int(digits.max()) + 1))


def nearest_codes(ratios: ArrayLike, limits: ArrayLike, low: int, high: int) -> NDArray[np.int64]:
    """Return the code in [low, high] nearest to each ratio among those with at most ``limit`` digits; ties go up.

    Args:
        ratios: Real values over the scale.
        limits: Most digits of each; broadcastable.
        low: Smallest code.
        high: Largest code.

    Raises:
        QuantError: 0 is no code.

    Example:
        >>> nearest_codes([6.6, 6.6, 6.6, -6.6], [0, 1, 2, 1], -127, 127).tolist()
        [0, 8, 7, -8]
    """
    grids = digit_grids(low, high)
    values, most = np.broadcast_arrays(np.asarray(ratios, dtype=np.float64), np.asarray(limits))
    result = np.zeros(values.shape, dtype=np.int64)
    for n, grid in enumerate(grids):
        chosen = most == n if n < len(grids) - 1 else most >= n
        middle = (grid[1:] + grid[:-1]) / 2
        result[chosen] = grid[np.searchsorted(middle, values[chosen], side="right")].astype(np.int64)
    return result
