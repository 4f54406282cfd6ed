"""Dyadic rescaling in single precision, where that is proven to give the same integers.

Used by `compile`; kernels take three instructions for sixteen channels then, instead of more than ten in 64 bits.

A multiply-add whose sum lies between 2**23 and 2**24 rounds to an integer, once: with ``MAGIC = 1.5 * 2**23`` the bits
of ``fl(x * scale + MAGIC + after)`` are those of MAGIC plus ``x * scale + after``, rounded. Accumulators are rounded
down. For every result the least x that gives it says how much less than ``2**(s-1)``, or more, may be added to
``x * m`` before the shift: some h of an interval. The c nearest to 0 with ``c * m`` in it modulo ``2**s`` makes of

    (x + c) * m = x * m + h + 2**s * q

the floor of ``(x + c) * m / 2**s``, less q. All of that is exact as long as m, and the sum with x where results are not
clipped, fit 24 bits; m is odd, since powers of two are divided out. Results only rise with x, so clipped ones are right
too.

What is added to an accumulator has codes of 8 bits, and is rounded to nearest, even of two: nothing is added to x. That
and the dyadic rescaling are steps that begin at the same x, for every result, or there is no proof: two comparisons a
step, which float64 makes without error. Ties are in the way; a scale a few units in the last place larger or smaller
may break them the right way.

Blocks with a channel that has no proof are computed in 64 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dyadiq.engine.plan import Branch, Finish

__all__ = ["MAGIC", "SingleRescale", "find_nearest", "find_single", "single_words"]

MAGIC = 1.5 * 2.0**23
_MAX_SHIFT = 39  # k << shift must stay in int64
_MAX_EXACT = 1 << 24  # integers up to here are singles
_MAX_VALUE = 1 << 22  # MAGIC plus or minus this stays between 2**23 and 2**24
_MAX_INPUT, _MAX_BEFORE = 1 << 30, 1 << 24  # their sum is an int32
_MAX_STEPS = 1 << 12  # that are compared one by one
_NEAR_ULPS = (0, 1, -1, 2, -2, 3, -3)  # units in the last place of a scale

Range = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class SingleRescale:
    """``bits(fl((x + before) * scale + offset)) - bits(MAGIC)`` by channel; where there is no proof, scale is -1."""

    before: NDArray[np.int32]
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]


def find_single(
    multiplier: NDArray[np.int64], shift: NDArray[np.int64], x: Range, limits: tuple[int, int], after: int = 0
) -> SingleRescale:
    """Return singles that, rounded down, give ``((x * multiplier + rounding) >> shift) + after`` within limits.

    Args:
        multiplier: By channel.
        shift: By channel.
        x: Smallest and largest value by channel.
        limits: Smallest and largest result that matter: what lies below stays at or below, and above alike.
        after: Added to the result.

    Example:
        >>> single = find_single(np.array([3]), np.array([3]), (np.array([0]), np.array([100])), (0, 255))
        >>> single.before, single.scale, single.offset - MAGIC
        (array([4], dtype=int32), array([0.375], dtype=float32), array([-1.], dtype=float32))
        >>> [(x * 3 + 4) >> 3 for x in range(6)]
        [0, 0, 1, 1, 2, 2]
    """
    m, s, start, end = (np.array(v, dtype=np.int64) for v in np.broadcast_arrays(multiplier, shift, *x))
    proven = (m >= 0) & (m < _MAX_EXACT) & (s <= _MAX_SHIFT) & (max(map(abs, (*limits, after))) < _MAX_VALUE)
    m, s = np.where(proven, m, 0), np.where(proven, s, 0)
    twos = np.minimum(np.log2(np.maximum(m & -m, 1)).astype(np.int64), s)
    m, s = m >> twos, s - twos
    low, high = np.clip(limits, -2 * _MAX_VALUE, 2 * _MAX_VALUE) - np.clip(after, -_MAX_VALUE, _MAX_VALUE)
    less, more, edges = _room((m, s, start, end), (int(low), int(high)))
    numbers = zip(m.tolist(), s.tolist(), less.tolist(), more.tolist(), strict=True)
    before = np.array([_nearest_multiple(m_c, 1 << s_c, *ends) for m_c, s_c, *ends in numbers], dtype=np.int64)
    moved = after - ((before * m) >> s)
    for edge in edges:
        proven &= np.abs(edge + before) <= _MAX_EXACT
    for edge in (start, end):
        proven &= (np.abs(edge) < _MAX_INPUT) & (np.abs((edge + before) / 2.0**s * m + moved) < _MAX_VALUE - 1)
    proven &= (np.abs(before) < _MAX_BEFORE) & (np.abs(moved) < _MAX_VALUE)
    scale = np.where(proven, np.ldexp(m.astype(np.float64), -s), -1.0)
    return SingleRescale(
        np.where(proven, before, 0).astype(np.int32), scale.astype(np.float32), (MAGIC + moved).astype(np.float32)
    )


def _room(
    numbers: tuple[NDArray[np.int64], ...], limits: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return the least and greatest h of the same results, and the least and greatest x that tell them apart.

    Numbers: multiplier, shift, first and last x.
    """
    m, s, start, end = (v[:, None] for v in numbers)
    low, high = limits
    exact = high - low > _MAX_STEPS  # too many to look at
    steps = np.array([low + 1, high]) if exact else np.arange(low + 1, max(high, low + 1) + 1)
    half, size = _rounding(s), np.int64(1) << s
    first = -((half - steps * size) // np.maximum(m, 1))  # x with the result of a step
    reached, missed = np.clip(first, start, end), np.clip(first - 1, start, end)
    edges = missed.min(axis=1), reached.max(axis=1)
    if exact:
        return half.ravel(), half.ravel(), edges
    less = np.where((first <= end) & (m > 0), reached * m + half - steps * size, half).min(axis=1)
    more = np.where((first > start) & (m > 0), steps * size - 1 - missed * m - half, size - 1 - half).min(axis=1)
    half, size = half.ravel(), size.ravel()
    return half - np.minimum(less, half), half + np.minimum(more, size - 1 - half), edges


def _nearest_multiple(m: int, size: int, low: int, high: int) -> int:
    """Return the c nearest to 0 with ``low <= c * m % size <= high``; arguments as of `_first_multiple`."""
    up, down = _first_multiple(m, size, low, high), -_first_multiple(-m, size, low, high)
    return up if up <= -down else down


def _first_multiple(m: int, size: int, low: int, high: int) -> int:
    """Return the least c >= 0 with ``low <= c * m % size <= high``; 0 <= low <= high < size, m odd, 0 or size 1.

    Example:
        >>> [_first_multiple(5, 16, low, low) for low in (0, 1, 8)], _first_multiple(5, 16, 1, 4)
        ([0, 13, 8], 4)
    """
    m %= size
    if low == 0 or m == 0:
        return 0
    if 2 * m > size:  # counted from the other end: the size halves from turn to turn
        m, low, high = size - m, size - high, size - low
    c = -(-low // m)
    if c * m <= high:
        return c
    turns = _first_multiple(-size % m, m, low % m, high % m)  # around the size, until a multiple lies between
    return -(-(low + size * turns) // m)


def find_nearest(
    multiplier: NDArray[np.int64], shift: NDArray[np.int64], x: Range, limits: tuple[int, int]
) -> SingleRescale | None:
    """Return singles that, rounded to nearest, give ``(x * multiplier + rounding) >> shift`` within limits.

    Args:
        multiplier: By channel.
        shift: By channel.
        x: Smallest and largest value by channel.
        limits: Smallest and largest result that matter.

    Returns:
        Singles that add nothing to x before; None where no channel has a proof.

    Example:
        >>> single = find_nearest(np.array([3]), np.array([3]), (np.array([0]), np.array([100])), (0, 255))
        >>> codes = np.arange(6, dtype=np.float32) * single.scale + single.offset
        >>> codes.view(np.int32) - np.float32(MAGIC).view(np.int32)
        array([0, 0, 1, 1, 2, 2], dtype=int32)
    """
    low, high = limits
    if not 0 <= high - low <= _MAX_STEPS or max(map(abs, limits)) > _MAX_STEPS:
        return None
    if shift.max() > _MAX_SHIFT or multiplier.min() < 0:
        return None
    numbers = [np.array(v, dtype=np.int64) for v in np.broadcast_arrays(multiplier, shift, *x)]
    n = len(numbers[0])
    steps = np.arange(low + 1, high + 1, dtype=np.int64)
    scale, left = np.full(n, -1, dtype=np.float32), np.arange(n)
    for ulps in _NEAR_ULPS:
        candidate = _scale(numbers[0][left], numbers[1][left], ulps)
        good = _holds(tuple(v[left, None] for v in numbers), candidate[:, None], steps)
        scale[left[good]] = candidate[good]
        left = left[~good]
    none = np.zeros(n)
    return SingleRescale(none.astype(np.int32), scale, (MAGIC + none).astype(np.float32)) if left.size < n else None


def _rounding(shift: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``2**(shift - 1)``, and 0 for shift 0."""
    return (np.int64(1) << shift) >> 1


def _scale(multiplier: NDArray[np.int64], shift: NDArray[np.int64], ulps: int) -> NDArray[np.float32]:
    """Return ``multiplier / 2**shift``, some units in the last place up or down; 0 stays."""
    scale = np.ldexp(multiplier.astype(np.float64), -shift).astype(np.float32)
    return (scale.view(np.int32) + np.where(multiplier > 0, ulps, 0).astype(np.int32)).view(np.float32)


def _holds(
    numbers: tuple[NDArray[np.int64], ...], scale: NDArray[np.float32], steps: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether every step begins where it must, by channel; numbers: multiplier, shift, first and last x."""
    multiplier, shift, start, end = numbers
    first = -((_rounding(shift) - (steps << shift)) // np.maximum(multiplier, 1))
    reached, missed = _times(scale, np.clip(first, start, end)), _times(scale, np.clip(first - 1, start, end))
    even = steps % 2 == 0
    holds = (first > end) | (reached > steps - 0.5) | ((reached == steps - 0.5) & even)
    holds &= (first <= start) | (missed < steps - 0.5) | ((missed == steps - 0.5) & ~even)
    proven: NDArray[np.bool_] = (holds | (multiplier == 0)).all(axis=1)
    for edge in (start, end):
        proven &= ((np.abs(_times(scale, edge)) < _MAX_VALUE) & (np.abs(edge) < _MAX_INPUT)).ravel()
    return proven


def single_words(
    dyadic: Range,
    x: Range,
    bias: NDArray[np.int64],
    finish: Finish,
    code_offset: int,
    residual: tuple[Branch, Range, bool] | None,
) -> NDArray[np.int32] | None:
    """Return what ends a convolution: bias, scale and offset, and scale and offset of its residual if that is in bytes.

    Args:
        dyadic: Multiplier and shift of the accumulator, by channel.
        x: Range of the accumulator.
        bias: Of the accumulator.
        finish: Zero point and limits.
        code_offset: Added to codes in memory.
        residual: What is added, the range of its codes by channel, and whether it is int32.

    Returns:
        Bits, one row each; None where nothing is proven.
    """
    if finish.sign:
        return None
    low, high = finish.low + code_offset, finish.high + code_offset
    rows, proven = [], np.ones(len(bias), dtype=bool)
    if residual is not None:
        branch, codes, is_wide = residual
        if is_wide and branch.multiplier is not None:
            return None
        one, zero = np.ones_like(bias), np.zeros_like(bias)
        m, s = (one, zero) if branch.multiplier is None or branch.shift is None else (branch.multiplier, branch.shift)
        if s.max() > _MAX_SHIFT:
            return None
        source = (codes[0] + branch.before, codes[1] + branch.before)
        start, end = (int(edge((v * m + _rounding(s)) >> s)) for edge, v in zip((np.min, np.max), source, strict=True))
        if start < branch.low or end > branch.high:
            return None
        low, high = low - end, high - start
        if not is_wide:
            added = find_nearest(m, s, source, (start, end))
            if added is None:
                return None
            rows, proven = [added.scale, added.offset], added.scale >= 0
    main = find_single(*dyadic, x, (low, high), finish.zero_point + code_offset)
    scale = np.where(proven, main.scale, np.float32(-1))
    if not (scale >= 0).any():
        return None
    moved = (bias + main.before).astype(np.int32)
    return np.stack([moved, *(row.view(np.int32) for row in (scale, main.offset, *rows))])


def _times(scale: NDArray[np.float32], x: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the exact product of scale and x, which becomes a single first."""
    return scale.astype(np.float64) * x.astype(np.float32).astype(np.float64)
