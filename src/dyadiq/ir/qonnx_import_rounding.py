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
from math import ceil, floor, lcm

from dyadiq.ir.dyadic import MAX_MULTIPLIER, MAX_SHIFT, to_dyadic

__all__ = ["FINEST", "ROUNDING_MODES", "Rescale", "find_rescale", "nearest_rescale", "rounded"]

ROUNDING_MODES = ("HALF_EVEN", "HALF_UP", "HALF_DOWN", "FLOOR", "CEIL", "UP", "DOWN")
_MAX_STEPS = 4096  # steps of one channel that are listed for the proof
_MAX_PRODUCT = 1 << 61
_NEAR = Fraction(1, 1 << 11)  # of a step
_FINENESS = (0, 4, 8, 12, 16, 20)  # bits below an accumulator's step, tried for offsets that lie between steps
FINEST = _FINENESS[-1]
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
    ratio: tuple[int, int, int] = (0, 0, 1)  # alpha and beta over one denominator: integers are faster than fractions

    @classmethod
    def of(cls, alpha: Fraction, beta: Fraction, low: int, high: int, limits: tuple[int, int], mode: str) -> _Channel:
        d = lcm(alpha.denominator, beta.denominator)
        ratio = (alpha.numerator * (d // alpha.denominator), beta.numerator * (d // beta.denominator), d)
        return cls(alpha, beta, low, high, *limits, mode, ratio)

    def value(self, code: int) -> int:
        a, b, d = self.ratio
        if self.mode == "HALF_EVEN":
            result, rest = divmod(2 * (a * code + b) + d, 2 * d)
            result -= rest == 0 and result % 2
        else:
            result = rounded(Fraction(a * code + b, d), self.mode)
        return min(max(result, self.bottom), self.top)

    def first_code(self, level: int) -> int:
        """Return the smallest code whose value rounds to ``level`` or more."""
        at, closed = _threshold(level, self.mode)
        a, b, d = self.ratio
        code, rest = divmod((at.numerator * d - b * at.denominator), a * at.denominator)
        return code if closed and rest == 0 else code + 1

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
    *,
    finest: int = FINEST,
) -> Rescale | None:
    """Return a proven rescale of all channels, or None if none of the forms is right for every code.

    Args:
        alpha: Factor per channel, positive.
        beta: Offset per channel.
        low: Smallest code that can occur, per channel.
        high: Largest code that can occur, per channel.
        limits: Range of the result.
        mode: One of `ROUNDING_MODES`.
        finest: Bits below an accumulator's step that may be tried; weights become as much wider.

    Example:
        >>> quarter = [Fraction(1, 4)]
        >>> find_rescale(quarter, [Fraction(0)], [-8], [8], (-8, 7), "HALF_EVEN")
        Rescale(gain=(1,), bias=(0,), multiplier=(1,), shift=(2,), composed=True)
        >>> find_rescale(quarter, [Fraction(0)], [-8], [8], (-8, 7), "FLOOR")
        Rescale(gain=(1,), bias=(-2,), multiplier=(1,), shift=(2,), composed=False)
    """
    every = [_Channel.of(a, b, lo, hi, limits, mode) for a, b, lo, hi in zip(alpha, beta, low, high, strict=True)]
    channels = list(dict.fromkeys(every))  # channels that are alike are proven once
    place = {c: i for i, c in enumerate(channels)}
    order = [place[c] for c in every]
    for candidate in _candidates(channels, finest):
        if candidate is not None and all(_is_proven(c, candidate, i) for i, c in enumerate(channels)):
            return candidate.spread(order)
    return None


def nearest_rescale(
    alpha: Sequence[Fraction],
    beta: Sequence[Fraction],
    low: Sequence[int],
    high: Sequence[int],
    limits: tuple[int, int],
) -> Rescale | None:
    """Return an approximate rescale, half up, whose values before rounding are within 2^-11 of the right ones.

    None where numbers are too large for any. A result then differs by one at most, and only near ties.

    Example:
        >>> nearest_rescale([Fraction(1, 3)], [Fraction(0)], [-100], [100], (-8, 7))
        Rescale(gain=(1,), bias=(0,), multiplier=(1431655765,), shift=(32,), composed=False)
    """
    ends = zip(alpha, beta, low, high, strict=True)
    channels = [_Channel.of(a, b, lo, hi, limits, "HALF_UP") for a, b, lo, hi in ends]
    for fineness in _FINENESS:
        found = _approximate(channels, Fraction(0), fineness)
        if found is not None and all(_is_near(c, found, i) for i, c in enumerate(channels)):
            return found
    return None


def _is_near(c: _Channel, r: Rescale, i: int) -> bool:
    """Whether values before rounding are near the right ones at both ends of the codes, and so between them."""
    ratio = Fraction(r.multiplier[i], 1 << r.shift[i])
    return all(
        abs((r.gain[i] * code + r.bias[i]) * ratio - c.alpha * code - c.beta) <= _NEAR for code in (c.low, c.high)
    )


def _candidates(channels: list[_Channel], finest: int) -> Iterator[Rescale | None]:
    """Return forms to try, the cheapest first."""
    mode = channels[0].mode
    offset = {"FLOOR": -_HALF, "CEIL": _HALF}.get(mode, Fraction(0))
    yield _multiplied(channels, offset)
    yield _exact(channels, offset, ties_down=mode == "CEIL")
    yield _exact(channels, offset, ties_down=mode != "CEIL")
    if mode in ("UP", "DOWN"):  # one of them fits where all values have one sign
        yield _exact(channels, -_HALF, ties_down=False)
        yield _exact(channels, _HALF, ties_down=True)
    if mode == "HALF_EVEN":
        yield _composed(channels)
    for fineness in _FINENESS:
        if fineness <= finest:
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


def _multiplied(channels: list[_Channel], offset: Fraction) -> Rescale | None:
    """Return the exact form whose gain is a multiplier, so that weights stay narrow; None where there is none."""
    grid = _on_grid(channels, offset)
    if grid is None or all(g == 1 for g, _, _ in grid) or any(b % g for g, b, _ in grid):
        return None
    gain, bias, shift = zip(*grid, strict=True)
    return Rescale((1,) * len(grid), tuple(b // g for b, g in zip(bias, gain, strict=True)), gain, shift)


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
    factor, bias = r.gain[i] * r.multiplier[i], r.bias[i] * r.multiplier[i]
    same = c.alpha == Fraction(factor, unit)
    if c.mode == "FLOOR":
        return same and c.beta - _HALF == Fraction(bias, unit)
    rounded = unit == 1 or (r.composed and c.mode == "HALF_EVEN")
    return same and c.beta == Fraction(bias, unit) and rounded


def _apply(c: _Channel, r: Rescale, i: int, code: int) -> int:
    x, shift = r.gain[i] * code + r.bias[i], r.shift[i]
    half = 1 << shift >> 1
    if r.composed:
        result = ((x + 3 * half - 1) >> (shift + 1)) + ((x + half) >> (shift + 1))
    else:
        result = (x * r.multiplier[i] + (half if shift else 0)) >> shift
    return min(max(result, c.bottom), c.top)
