"""Dyadic rescaling in single precision, where that is proven to give the same integers.

Used by `compile`; kernels take three instructions for sixteen channels then, instead of more than ten in 64 bits.

A multiply-add whose sum lies between 2**23 and 2**24 rounds to an integer, once: with ``MAGIC = 1.5 * 2**23`` the bits
of ``fl(x * scale + (MAGIC + after))`` are those of MAGIC plus the integer nearest to ``x * scale + after``, or the even
one of two. That and ``((x * m + r) >> s) + after`` are both steps that only rise with x, so they are equal, as far as a
clip to ``[low, high]`` can see, exactly when every step ``low < k <= high`` begins at the same x: two comparisons a
step, which float64 makes without error, since a product of two singles has 48 bits. Only ties are in the way, and small
multipliers have many; a scale that is one unit in the last place larger or smaller may break them the right way. Blocks
with a channel that has no proof are computed in 64 bits.

Kernels must round to nearest even when x becomes a single, and in the multiply-add.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dyadiq.engine.plan import Branch, Finish

__all__ = ["MAGIC", "SingleRescale", "find_single", "single_words"]

MAGIC = 1.5 * 2.0**23
_MAX_SHIFT = 46  # k << shift must stay in int64
_MAX_STEPS = 1 << 12
_MAX_VALUE = 2.0**22  # MAGIC plus or minus this stays between 2**23 and 2**24

Range = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class SingleRescale:
    """``bits(fl(x * scale + offset)) - bits(MAGIC)`` by channel, float32; a scale of -1 says that there is no proof."""

    scale: NDArray[np.float32]
    offset: NDArray[np.float32]


def find_single(
    multiplier: NDArray[np.int64],
    shift: NDArray[np.int64],
    x: Range,
    limits: tuple[int, int],
    after: int = 0,
) -> SingleRescale | None:
    """Return singles that give ``((x * multiplier + rounding) >> shift) + after`` within limits; None: for no channel.

    Args:
        multiplier: By channel.
        shift: By channel.
        x: Smallest and largest value by channel.
        limits: Smallest and largest result that matter: what lies below stays at or below, and above alike.
        after: Added to the result.

    Example:
        >>> single = find_single(np.array([3]), np.array([3]), (np.array([0]), np.array([100])), (0, 255))
        >>> codes = np.arange(6, dtype=np.float32) * single.scale + single.offset
        >>> codes.view(np.int32) - np.float32(MAGIC).view(np.int32)
        array([0, 0, 1, 1, 2, 2], dtype=int32)
        >>> [(x * 3 + 4) >> 3 for x in range(6)]
        [0, 0, 1, 1, 2, 2]
    """
    low, high = limits
    if not 0 <= high - low <= _MAX_STEPS or max(map(abs, (low, high, after))) > _MAX_STEPS:
        return None
    if shift.max() > _MAX_SHIFT or multiplier.min() < 0:
        return None
    multiplier, shift, start, end = (v.reshape(-1, 1) for v in np.broadcast_arrays(multiplier, shift, *x))
    steps = np.arange(low + 1, high + 1, dtype=np.int64) - after  # of x * scale
    rounding = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
    first = -((rounding - (steps << shift)) // np.maximum(multiplier, 1))
    reached, missed = first <= end, first > start
    exact = np.ldexp(multiplier.astype(np.float64), -shift).astype(np.float32)
    scale, proven = exact, np.zeros_like(exact, dtype=bool)
    for candidate in (exact, np.nextafter(exact, np.float32(1)), np.nextafter(exact, np.float32(0))):
        holds = _rounds_up(_times(candidate, np.maximum(first, start)), steps, after) | ~reached
        holds &= ~_rounds_up(_times(candidate, np.minimum(first - 1, end)), steps, after) | ~missed
        good = holds.all(axis=1, keepdims=True) | (multiplier == 0)
        scale = np.where(good & ~proven, candidate, scale)
        proven |= good
    for edge in (start, end):
        proven &= np.abs(_times(scale, edge) + after) < _MAX_VALUE
    scale = np.where(proven, np.where(multiplier > 0, scale, np.float32(0)), np.float32(-1))
    return SingleRescale(scale.ravel(), np.full(scale.size, MAGIC + after, dtype=np.float32)) if proven.any() else None


def single_words(
    dyadic: Range, x: Range, finish: Finish, code_offset: int, residual: tuple[Branch, Range] | None
) -> NDArray[np.int32] | None:
    """Return the bits of scales and offsets of a convolution's end, and of its residual's, one row each; or None.

    Args:
        dyadic: Multiplier and shift of the accumulator, by channel.
        x: Range of the accumulator.
        finish: Zero point and limits.
        code_offset: Added to codes in memory.
        residual: What is added, and the range of its codes by channel.
    """
    if finish.sign:
        return None
    low, high = finish.low + code_offset, finish.high + code_offset
    rows = []
    if residual is not None:
        branch, codes = residual
        one, zero = np.ones_like(dyadic[0]), np.zeros_like(dyadic[1])
        m, s = (one, zero) if branch.multiplier is None or branch.shift is None else (branch.multiplier, branch.shift)
        if s.max() > _MAX_SHIFT:
            return None
        source = (codes[0] + branch.before, codes[1] + branch.before)
        rounding = np.where(s > 0, np.int64(1) << np.maximum(s - 1, 0), 0)
        start, end = (int(edge((v * m + rounding) >> s)) for edge, v in zip((np.min, np.max), source, strict=True))
        single = find_single(m, s, source, (start, end))
        if single is None or start < branch.low or end > branch.high:
            return None
        rows, low, high = [single.scale, single.offset], low - end, high - start
    main = find_single(*dyadic, x, (low, high), finish.zero_point + code_offset)
    if main is None:
        return None
    scale = np.where(rows[0] < 0, np.float32(-1), main.scale) if rows else main.scale
    return np.stack([scale, main.offset, *rows]).view(np.int32)


def _times(scale: NDArray[np.float32], x: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the exact product of scale and x, which becomes a single first."""
    return scale.astype(np.float64) * x.astype(np.float32).astype(np.float64)


def _rounds_up(product: NDArray[np.float64], step: NDArray[np.int64], after: int) -> NDArray[np.bool_]:
    """Whether ``product + after`` rounds to ``step + after`` or more, ties to even."""
    half, even = step - 0.5, (step + after) % 2 == 0
    rounds_up: NDArray[np.bool_] = (product > half) | ((product == half) & even)
    return rounds_up
