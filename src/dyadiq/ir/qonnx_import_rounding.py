"""Finds integers that round a real affine function of codes exactly as QONNX does, and proves it.

Used by `qonnx_import` only; exact rationals, no floating point. The question, for each channel: given
``f(code) = clip(round(alpha * code + beta), low, high)`` with one of QONNX's seven rounding rules, find ``gain``,
``bias``, ``multiplier`` and ``shift`` so that the program's own rule, half towards plus infinity, gives the same
integer for every code that can occur:

    single    clip(((gain * code + bias) * multiplier + 2^(shift-1)) >> shift)
    composed  clip(((x + h - 1 + 2h) >> (shift+1)) + ((x - h + 2h) >> (shift+1))),  x = gain * code + bias,
              h = 2^(shift-1); this is half to even, from two floors: the first steps at the odd halves from above,
              the second at the even ones

Proof: both sides never fall as code rises, so they are equal everywhere if they are at every code where ``f`` steps, at
the code before, and at both ends. Where there are too many steps to list, only forms that are equal by algebra count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

from dyadiq.ir.dyadic import MAX_MULTIPLIER, MAX_SHIFT, to_dyadic

__all__ = ["ROUNDING_MODES", "Rescale", "find_rescale", "rounded"]

ROUNDING_MODES = ("HALF_EVEN", "HALF_UP", "HALF_DOWN", "FLOOR", "CEIL", "UP", "DOWN")
_MAX_STEPS = 4096  # steps of one channel that are listed for the proof
_MAX_PRODUCT = 1 << 61
_FINENESS = (0, 4, 8, 12, 16, 20)  # bits below an accumulator's step, tried for offsets that lie between steps
_HALF = Fraction(1, 2)


@dataclass(frozen=True, slots=True)
class Rescale:
    """How a requantize computes the rounding, one entry per channel.

    Attributes:
        gain: Factor of the codes, folded into weights.
        bias: Added to the scaled codes.
        multiplier: Of the requantize.
        shift: Of the requantize.
        composed: Whether two requantizes are added (half to even); then all shifts are equal and multipliers 1.
    """

    gain: tuple[int, ...]
    bias: tuple[int, ...]
    multiplier: tuple[int, ...]
    shift: tuple[int, ...]
    composed: bool = False

    @property
    def plain(self) -> bool:
        """Whether codes can be used as they are."""
        return all(b == 0 for b in self.bias)

    def spread(self, order: Sequence[int]) -> Rescale:
        """Return the rescale whose channel i is this one's channel ``order[i]``."""
        parts = (self.gain, self.bias, self.multiplier, self.shift)
        gain, bias, multiplier, shift = (tuple(part[i] for i in order) for part in parts)
        return Rescale(gain, bias, multiplier, shift, composed=self.composed)


@dataclass(frozen=True, slots=True)
class _Channel:
    """One channel's question."""

    alpha: Fraction
    beta: Fraction
    low: int
    high: int
    bottom: int
    top: int
    mode: str

    def value(self, code: int) -> int:
        v = self.alpha * code + self.beta
        return min(max(rounded(v, self.mode), self.bottom), self.top)

    def first_code(self, level: int) -> int:
        """Return the smallest code whose value rounds to ``level`` or more."""
        at, closed = _threshold(level, self.mode)
        code = (at - self.beta) / self.alpha
        return ceil(code) if closed else floor(code) + 1

    def steps(self) -> Iterator[int]:
        """Return the codes that prove equality."""
        yield from (self.low, self.high)
        start, stop = self.value(self.low) + 1, self.value(self.high)
        for level in range(start, stop + 1):
            code = self.first_code(level)
            yield from (c for c in (code - 1, code) if self.low <= c <= self.high)

    def n_steps(self) -> int:
        return self.value(self.high) - self.value(self.low)


def rounded(v: Fraction, mode: str) -> int:
    """Return a rounded value, as QONNX does it.

    Example:
        >>> [rounded(Fraction(-5, 2), mode) for mode in ROUNDING_MODES]
        [-2, -3, -2, -3, -2, -3, -2]
    """
    if mode == "HALF_EVEN":
        return round(v)
    if mode == "FLOOR":
        return floor(v)
    if mode == "CEIL":
        return ceil(v)
    size = abs(v)
    sign = 1 if v >= 0 else -1
    magnitude = {
        "HALF_UP": lambda: floor(size + _HALF),
        "HALF_DOWN": lambda: ceil(size - _HALF),
        "UP": lambda: ceil(size),
        "DOWN": lambda: floor(size),
    }
    return sign * magnitude[mode]()


def _threshold(level: int, mode: str) -> tuple[Fraction, bool]:
    """Return where values begin to round to ``level`` or more, and whether the point itself does."""
    half = level - _HALF
    outward = level >= 1  # away from zero
    return {
        "HALF_EVEN": (half, level % 2 == 0),
        "HALF_UP": (half, outward),
        "HALF_DOWN": (half, not outward),
        "FLOOR": (Fraction(level), True),
        "CEIL": (Fraction(level - 1), False),
        "UP": (Fraction(level - 1), False) if outward else (Fraction(level), True),
        "DOWN": (Fraction(level), True) if outward else (Fraction(level - 1), False),
    }[mode]


def find_rescale(
    alpha: Sequence[Fraction],
    beta: Sequence[Fraction],
    low: Sequence[int],
    high: Sequence[int],
    limits: tuple[int, int],
    mode: str,
) -> Rescale | None:
    """Return a proven rescale of all channels, or None if none of the forms is right for every code.

    Args:
        alpha: Factor per channel, positive.
        beta: Offset per channel.
        low: Smallest code that can occur, per channel.
        high: Largest code that can occur, per channel.
        limits: Range of the result.
        mode: One of `ROUNDING_MODES`.

    Example:
        >>> quarter = [Fraction(1, 4)]
        >>> find_rescale(quarter, [Fraction(0)], [-8], [8], (-8, 7), "HALF_EVEN")
        Rescale(gain=(1,), bias=(0,), multiplier=(1,), shift=(2,), composed=True)
        >>> find_rescale(quarter, [Fraction(0)], [-8], [8], (-8, 7), "FLOOR")
        Rescale(gain=(1,), bias=(-2,), multiplier=(1,), shift=(2,), composed=False)
    """
    every = [_Channel(a, b, lo, hi, *limits, mode) for a, b, lo, hi in zip(alpha, beta, low, high, strict=True)]
    channels = list(dict.fromkeys(every))  # channels that are alike are proven once
    place = {c: i for i, c in enumerate(channels)}
    order = [place[c] for c in every]
    for candidate in _candidates(channels):
        if candidate is not None and all(_is_proven(c, candidate, i) for i, c in enumerate(channels)):
            return candidate.spread(order)
    return None


def _candidates(channels: list[_Channel]) -> Iterator[Rescale | None]:
    """Return forms to try, the cheapest first."""
    mode = channels[0].mode
    offset = {"FLOOR": -_HALF, "CEIL": _HALF}.get(mode, Fraction(0))
    yield _exact(channels, offset, ties_down=mode == "CEIL")
    yield _exact(channels, offset, ties_down=mode != "CEIL")
    if mode in ("UP", "DOWN"):  # one of them fits where all values have one sign
        yield _exact(channels, -_HALF, ties_down=False)
        yield _exact(channels, _HALF, ties_down=True)
    if mode == "HALF_EVEN":
        yield _composed(channels)
    for fineness in _FINENESS:
        yield _approximate(channels, offset, fineness)


def _dyadic(value: Fraction) -> int | None:
    """Return e for a value n / 2^e, or None."""
    e = value.denominator.bit_length() - 1
    return e if value.denominator == 1 << e else None


def _on_grid(channels: list[_Channel], offset: Fraction) -> list[tuple[int, int, int]] | None:
    """Return gain, bias, shift per channel: ``alpha * code + beta + offset = (gain * code + bias) / 2^shift``."""
    found = []
    for c in channels:
        beta = c.beta + offset
        e_alpha, e_beta = _dyadic(c.alpha), _dyadic(beta)
        if e_alpha is None or e_beta is None:
            return None
        shift = max(e_alpha, e_beta)
        gain, bias = int(c.alpha * (1 << shift)), int(beta * (1 << shift))
        while shift > 0 and gain % 2 == 0 and bias % 2 == 0:
            gain, bias, shift = gain // 2, bias // 2, shift - 1
        if gain > MAX_MULTIPLIER or shift > MAX_SHIFT - 2 or _largest(c, gain, bias) >= _MAX_PRODUCT:
            return None
        found.append((gain, bias, shift))
    return found


def _largest(c: _Channel, gain: int, bias: int) -> int:
    return max(abs(c.low), abs(c.high)) * gain + abs(bias)


def _exact(channels: list[_Channel], offset: Fraction, *, ties_down: bool) -> Rescale | None:
    grid = _on_grid(channels, offset)
    if grid is None:
        return None
    if ties_down:  # a half of the finest step less: only ties notice
        grid = [(2 * g, 2 * b - 1, s + 1) for g, b, s in grid]
    gain, bias, shift = zip(*grid, strict=True)
    return Rescale(gain, bias, (1,) * len(grid), shift)


def _composed(channels: list[_Channel]) -> Rescale | None:
    grid = _on_grid(channels, Fraction(0))
    if grid is None:
        return None
    shift = max(1, *(s for _, _, s in grid))
    grid = [(g << (shift - s), b << (shift - s), shift) for g, b, s in grid]
    largest = max(_largest(c, g, b) for c, (g, b, _) in zip(channels, grid, strict=True))
    if largest + (3 << shift) >= _MAX_PRODUCT or max(g for g, _, _ in grid) > MAX_MULTIPLIER:
        return None
    gain, bias, shifts = zip(*grid, strict=True)
    return Rescale(gain, bias, (1,) * len(grid), shifts, composed=True)


def _approximate(channels: list[_Channel], offset: Fraction, fineness: int) -> Rescale | None:
    """Return the nearest dyadic form; it counts only if the proof by steps agrees."""
    gain = 1 << fineness
    parts = []
    for c in channels:
        bias = round((c.beta + offset) * gain / c.alpha)
        largest = _largest(c, gain, bias)
        bits = min(31, (_MAX_PRODUCT // max(largest, 1)).bit_length() - 1)
        ratio = c.alpha / gain
        if bits < 2 or not Fraction(1, 1 << 50) < ratio < 1 << 30:
            return None
        multiplier, shift = to_dyadic(float(ratio), bits)
        if largest * multiplier >= _MAX_PRODUCT:
            return None
        parts.append((gain, bias, multiplier, shift))
    gains, biases, multipliers, shifts = zip(*parts, strict=True)
    return Rescale(gains, biases, multipliers, shifts)


def _is_proven(c: _Channel, r: Rescale, i: int) -> bool:
    """Whether the i-th channel is right for every code that can occur."""
    if c.n_steps() > _MAX_STEPS:
        return _is_algebra(c, r, i)
    return all(c.value(code) == _apply(c, r, i, code) for code in c.steps())


def _is_algebra(c: _Channel, r: Rescale, i: int) -> bool:
    """Whether the form is equal for every integer, without listing any."""
    unit = 1 << r.shift[i]
    same = r.multiplier[i] == 1 and c.alpha == Fraction(r.gain[i], unit)
    if c.mode == "FLOOR":
        return same and c.beta - _HALF == Fraction(r.bias[i], unit)
    rounded = unit == 1 or (r.composed and c.mode == "HALF_EVEN")
    return same and c.beta == Fraction(r.bias[i], unit) and rounded


def _apply(c: _Channel, r: Rescale, i: int, code: int) -> int:
    x, shift = r.gain[i] * code + r.bias[i], r.shift[i]
    half = 1 << shift >> 1
    if r.composed:
        result = ((x + 3 * half - 1) >> (shift + 1)) + ((x + half) >> (shift + 1))
    else:
        result = (x * r.multiplier[i] + (half if shift else 0)) >> shift
    return min(max(result, c.bottom), c.top)
