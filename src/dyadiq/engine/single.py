"""Dyadic rescaling in single precision, where that is proven to give the same integers.

Used by `compile`; kernels take three instructions for sixteen channels then, instead of more than ten in 64 bits.

A multiply-add whose sum lies between 2**23 and 2**24 rounds to an integer, once: with ``MAGIC = 1.5 * 2**23`` the bits
of ``fl(x * scale + (MAGIC + after))`` are those of MAGIC plus the integer nearest to ``x * scale + after``, or the even
one of two. That and ``((x * m + r) >> s) + after`` are both steps that only rise with x, so they are equal, as far as a
clip to ``[low, high]`` can see, exactly when every step ``low < k <= high`` begins at the same x: two comparisons a
step, which float64 makes without error, since a product of two singles has 48 bits. Only ties are in the way, and small
multipliers have many; a scale a few units in the last place larger or smaller may break them the right way, the more
when the line turns about another x, which is what a multiple of 2**s added to x first, and taken away behind, does.
Blocks with a channel that has no proof are computed in 64 bits.

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
_MAX_INPUT, _MAX_BEFORE = 1 << 30, 1 << 24  # their sum is an int32

Range = tuple[NDArray[np.int64], NDArray[np.int64]]


# Rescalings near the exact one: units in the last place of the scale; how many times 2**shift is added to x first,
# which is where the line turns; and how many times 2**-shift the result is raised, by what else is added to x.
_NEAR = [(0, 0, 0), *((ulps, 0, 0) for ulps in (1, -1, 2, -2, 3, -3))]
_TURNED = [
    (ulps, turns, raised)
    for raised in (0, 1, 2, 3, 4)
    for turns in (0, -1, 1, -2, 2, -4, 4, -8, 8)
    for ulps in (0, 1, -1, 2, -2, 3, -3)
]


@dataclass(frozen=True)
class SingleRescale:
    """``bits(fl((x + before) * scale + offset)) - bits(MAGIC)`` by channel; where there is no proof, scale is -1."""

    before: NDArray[np.int32]
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]


def find_single(
    multiplier: NDArray[np.int64],
    shift: NDArray[np.int64],
    x: Range,
    limits: tuple[int, int],
    after: int = 0,
    *,
    may_turn: bool = True,
) -> SingleRescale | None:
    """Return singles that give ``((x * multiplier + rounding) >> shift) + after`` within limits; None: for no channel.

    Args:
        multiplier: By channel.
        shift: By channel.
        x: Smallest and largest value by channel.
        limits: Smallest and largest result that matter: what lies below stays at or below, and above alike.
        after: Added to the result.
        may_turn: Whether `before` may be other than 0.

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
    numbers = [np.array(v, dtype=np.int64) for v in np.broadcast_arrays(multiplier, shift, *x)]
    n = len(numbers[0])
    steps = np.arange(low + 1, high + 1, dtype=np.int64) - after  # of the rescaled x
    before, scale = np.zeros(n, dtype=np.int64), np.full(n, -1, dtype=np.float32)
    left = np.arange(n)
    for ulps, turns, raised in _NEAR + _TURNED if may_turn else _NEAR:
        candidate = _scale(numbers[0][left], numbers[1][left], ulps)
        added = (turns << numbers[1][left]) + _raising(numbers[0][left], numbers[1][left], raised)
        good = _holds(tuple(v[left, None] for v in numbers), candidate[:, None], added[:, None], steps, after)
        scale[left[good]], before[left[good]] = candidate[good], added[good]
        left = left[~good]
        if not left.size:
            break
    offset = MAGIC + after - np.where(scale > 0, (before * numbers[0]) >> numbers[1], 0)
    single = SingleRescale(before.astype(np.int32), scale, offset.astype(np.float32))
    return single if left.size < n else None


def _scale(multiplier: NDArray[np.int64], shift: NDArray[np.int64], ulps: int) -> NDArray[np.float32]:
    """Return ``multiplier / 2**shift``, some units in the last place up or down; 0 stays."""
    scale = np.ldexp(multiplier.astype(np.float64), -shift).astype(np.float32)
    return (scale.view(np.int32) + np.where(multiplier > 0, ulps, 0).astype(np.int32)).view(np.float32)


def _raising(multiplier: NDArray[np.int64], shift: NDArray[np.int64], raised: int) -> NDArray[np.int64]:
    """Return what added to x adds ``raised / 2**shift``, and an integer; 0 where the multiplier has no inverse."""
    if not raised:
        return np.zeros_like(shift)
    pairs = zip(multiplier.tolist(), shift.tolist(), strict=True)
    return np.array([pow(m, -1, 1 << s) * raised % (1 << s) if m % 2 else 0 for m, s in pairs], dtype=np.int64)


def _holds(
    numbers: tuple[NDArray[np.int64], ...],
    scale: NDArray[np.float32],
    before: NDArray[np.int64],
    steps: NDArray[np.int64],
    after: int,
) -> NDArray[np.bool_]:
    """Whether every step begins where it must, by channel; numbers: multiplier, shift, first and last x."""
    multiplier, shift, start, end = numbers
    rounding = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
    first = -((rounding - (steps << shift)) // np.maximum(multiplier, 1))
    moved = steps + ((before * multiplier) >> shift)  # before is added to x, and this much too much comes out
    reached = _times(scale, np.clip(first, start, end) + before)
    missed = _times(scale, np.clip(first - 1, start, end) + before)
    even = (steps + after) % 2 == 0
    holds = (first > end) | (reached > moved - 0.5) | ((reached == moved - 0.5) & even)
    holds &= (first <= start) | (missed < moved - 0.5) | ((missed == moved - 0.5) & ~even)
    proven: NDArray[np.bool_] = (holds | (multiplier == 0)).all(axis=1) & (np.abs(before) < _MAX_BEFORE).ravel()
    for edge in (start, end):
        proven &= (np.abs(_times(scale, edge)) + abs(after) < _MAX_VALUE).ravel()
        proven &= (np.abs(edge) < _MAX_INPUT).ravel()
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
        rounding = np.where(s > 0, np.int64(1) << np.maximum(s - 1, 0), 0)
        start, end = (int(edge((v * m + rounding) >> s)) for edge, v in zip((np.min, np.max), source, strict=True))
        if start < branch.low or end > branch.high:
            return None
        low, high = low - end, high - start
        if not is_wide:
            added = find_single(m, s, source, (start, end), may_turn=False)
            if added is None:
                return None
            rows, proven = [added.scale, added.offset], added.scale >= 0
    main = find_single(*dyadic, x, (low, high), finish.zero_point + code_offset)
    if main is None:
        return None
    scale = np.where(proven, main.scale, np.float32(-1))
    moved = (bias + main.before).astype(np.int32)
    return np.stack([moved, *(row.view(np.int32) for row in (scale, main.offset, *rows))])


def _times(scale: NDArray[np.float32], x: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the exact product of scale and x, which becomes a single first."""
    return scale.astype(np.float64) * x.astype(np.float32).astype(np.float64)
