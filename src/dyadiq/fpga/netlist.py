"""A netlist of word-level integer operations: adders, clips, maxima and free wiring.

Made by `trace`, cut into stages by `pipeline`, printed by `verilog`, priced by `area`. Knows no program, no file
format and no external package.

A *wire* is an integer with a proven interval; its width follows from it. A *value* is an affine view of a wire,
``value = (-1)^negative * (wire << shift) + offset``: signs, powers of two, biases and zero points wait there until an
adder absorbs them. Equal operations share one wire.

    kind       meaning                                     delay
    input      element ``arg`` of the inputs               0
    const      arg                                         0
    add        a + (b << arg), arg >= 0                    1
    sub        a - (b << arg); (a << -arg) - b if arg < 0  1
    addc       a + arg                                     1
    subc       arg - a                                     1
    shl        (a << arg) + arg2, 0 <= arg2 < 2^arg        0
    shr        a >> arg (floor)                            0
    clip       min(max(a, arg), arg2)                      1
    max        max(a, b)                                   1
    nonneg     1 if a >= 0 else 0                          0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["DELAYS", "Netlist", "Op", "Value", "constant", "width"]

DELAYS = {
    "input": 0,
    "const": 0,
    "add": 1,
    "sub": 1,
    "addc": 1,
    "subc": 1,
    "shl": 0,
    "shr": 0,
    "clip": 1,
    "max": 1,
    "nonneg": 0,
}


class Op(NamedTuple):
    """One operation, which makes the wire of the same index; operands ``a`` and ``b`` are wires, or -1."""

    kind: str
    a: int
    b: int
    arg: int
    arg2: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Value:
    """An affine view of a wire: ``(-1)^negative * wire * 2^shift + offset``; only ``offset`` if ``wire`` is -1."""

    wire: int
    shift: int = 0
    negative: bool = False
    offset: int = 0

    def plus(self, offset: int) -> Value:
        """Return the value plus a constant, at no cost."""
        return Value(self.wire, self.shift, self.negative, self.offset + offset)


def constant(number: int) -> Value:
    """Return a value that is always the same number."""
    return Value(-1, offset=number)


def width(low: int, high: int) -> int:
    """Return the bits of an interval: unsigned if ``low >= 0``, else two's complement; at least 1.

    Example:
        >>> width(0, 255), width(-8, 7), width(-9, 7), width(0, 0)
        (8, 4, 5, 1)
    """
    if low >= 0:
        return max(1, high.bit_length())
    return 1 + max((-low - 1).bit_length(), max(high, 0).bit_length())


class Netlist:
    """Operations in topological order, with methods that append to them.

    Attributes:
        ops: One operation per wire.
        levels: Adders in a row from the inputs to each wire.

    Example:
        >>> net = Netlist()
        >>> x, y = net.input(-8, 7), net.input(-8, 7)
        >>> z = net.clip(net.add(x, Value(y.wire, shift=1, offset=3)), 0, 7)
        >>> net.run(np.array([[1, 2], [7, 7]]), [z]).tolist()
        [[7], [7]]
    """

    def __init__(self) -> None:
        """Start empty."""
        self.ops: list[Op] = []
        self.levels: list[int] = []
        self._known: dict[tuple[str, int, int, int, int], int] = {}
        self._n_inputs = 0

    def width(self, wire: int) -> int:
        """Return the bits of a wire."""
        return width(self.ops[wire].low, self.ops[wire].high)

    def bounds(self, value: Value) -> tuple[int, int]:
        """Return the interval of a value whose shift is not negative."""
        if value.wire < 0:
            return value.offset, value.offset
        op = self.ops[value.wire]
        ends = [(-end if value.negative else end) << value.shift for end in (op.low, op.high)]
        return min(ends) + value.offset, max(ends) + value.offset

    def input(self, low: int, high: int) -> Value:
        """Append an input element whose codes lie in an interval."""
        self._n_inputs += 1
        return self._value("input", low=low, high=high, arg=self._n_inputs - 1)

    def add(self, x: Value, y: Value, bounds: tuple[int, int] | None = None) -> Value:
        """Return ``x + y``.

        Args:
            x: One summand; its shift may be negative on the way to an integer.
            y: The other.
            bounds: A tighter interval of the *wire* that the adder makes, if one is known.
        """
        offset = x.offset + y.offset
        if x.wire < 0 or y.wire < 0:
            return replace(y if x.wire < 0 else x, offset=offset)
        if x.negative != y.negative:
            plus, minus = (y, x) if x.negative else (x, y)
            wire = self._value("sub", plus.wire, minus.wire, minus.shift - plus.shift, bounds=bounds)
            negative = False
        else:
            first, second = (x, y) if (x.shift, x.wire) <= (y.shift, y.wire) else (y, x)
            wire = self._value("add", first.wire, second.wire, second.shift - first.shift, bounds=bounds)
            negative = x.negative
        if wire.wire < 0:  # a sum that is always the same
            number = wire.offset * (-1 if negative else 1)
            return constant(offset + _shifted(number, min(x.shift, y.shift)))
        return Value(wire.wire, min(x.shift, y.shift), negative, offset)

    def wire_of(self, value: Value) -> int:
        """Return a wire that holds a value as it is: an adder for its offset, wiring for its shift.

        The offset is split at the shift, ``(w << s) + c = ((w + (c >> s)) << s) + (c mod 2^s)``, so that the adder
        is no wider than it must be.
        """
        if value.wire < 0:
            return self._append("const", arg=value.offset, low=value.offset, high=value.offset)
        assert value.shift >= 0, "values that are read must be integers"
        base, fill = value.offset >> value.shift, value.offset & ((1 << value.shift) - 1)
        if value.negative:
            made = self._value("subc", value.wire, arg=base)
        else:
            made = self._value("addc", value.wire, arg=base) if base else Value(value.wire)
        if value.shift:
            made = self._value("shl", made.wire, arg=value.shift, arg2=fill)
        return made.wire

    def shift_right(self, value: Value, count: int) -> Value:
        """Return ``floor(value / 2^count)``."""
        if count == 0 or value.wire < 0:
            return value if count == 0 else constant(value.offset >> count)
        wire = self.wire_of(value)
        op = self.ops[wire]
        if op.kind == "shl":
            if op.arg >= count:
                rest = op.arg - count
                return Value(op.a, rest, offset=op.arg2 >> count)
            wire, count = op.a, count - op.arg
        return self._value("shr", wire, arg=count)

    def clip(self, value: Value, low: int, high: int) -> Value:
        """Return ``min(max(value, low), high)``; a pending offset becomes an adder only where that is cheaper."""
        have = self.bounds(value)
        if low <= have[0] and high >= have[1]:
            return value
        if have[1] <= low or have[0] >= high:
            return constant(low if have[1] <= low else high)
        if value.shift == 0 and not value.negative:
            c = value.offset
            op = self.ops[value.wire]
            moved = clip_luts(op.low, op.high, low - c, high - c)
            if moved <= clip_luts(*have, low, high) + width(*have):
                return self._value("clip", value.wire, arg=max(low - c, op.low), arg2=min(high - c, op.high)).plus(c)
        return self._value("clip", self.wire_of(value), arg=max(low, have[0]), arg2=min(high, have[1]))

    def maximum(self, x: Value, y: Value) -> Value:
        """Return ``max(x, y)``."""
        bounds = self.bounds(x), self.bounds(y)
        if bounds[0][0] >= bounds[1][1]:
            return x
        if bounds[1][0] >= bounds[0][1]:
            return y
        same = (x.shift, x.negative, x.offset) == (y.shift, y.negative, y.offset) and not x.negative
        if same:  # order is kept by a common positive affine map
            made = self._value("max", *sorted((x.wire, y.wire)))
            return Value(made.wire, x.shift, offset=x.offset) if made.wire >= 0 else made
        return self._value("max", *sorted((self.wire_of(x), self.wire_of(y))))

    def sign(self, value: Value) -> Value:
        """Return +1 where the value is at least 0, else -1."""
        low, high = self.bounds(value)
        if low >= 0 or high < 0:
            return constant(1 if low >= 0 else -1)
        if (low, high, value.shift, value.offset, value.negative) == (-1, 1, 1, -1, False):
            return value  # already such a sign
        return replace(self._value("nonneg", self.wire_of(value)), shift=1, offset=-1)

    def run(self, inputs: NDArray[np.int64], values: Sequence[Value]) -> NDArray[np.int64]:
        """Evaluate values on input elements: what the hardware computes, in int64.

        Shapes:
            inputs ``[N, number of inputs]``; returns ``[N, len(values)]``.
        """
        last = [len(self.ops)] * len(self.ops)
        for i, op in reversed(list(enumerate(self.ops))):
            for source in (op.a, op.b):
                if source >= 0 and last[source] == len(self.ops):
                    last[source] = i
        kept = {value.wire for value in values}
        wires: dict[int, NDArray[np.int64]] = {}
        for i, op in enumerate(self.ops):
            wires[i] = _evaluate(op, wires, inputs)
            for source in {op.a, op.b} - kept:
                if source >= 0 and last[source] == i:
                    del wires[source]
            if last[i] == len(self.ops) and i not in kept:
                del wires[i]
        out = np.empty((len(inputs), len(values)), dtype=np.int64)
        for k, value in enumerate(values):
            out[:, k] = value.offset
            if value.wire >= 0:
                out[:, k] += (-1 if value.negative else 1) * (wires[value.wire] << value.shift)
        return out

    def _value(
        self,
        kind: str,
        a: int = -1,
        b: int = -1,
        arg: int = 0,
        arg2: int = 0,
        *,
        low: int = 0,
        high: int = 0,
        bounds: tuple[int, int] | None = None,
    ) -> Value:
        """Append an operation and return its wire as a value; a constant if its interval is one number."""
        if kind != "input":
            low, high = self._interval(kind, a, b, arg, arg2)
            if bounds is not None:
                low, high = max(low, bounds[0]), min(high, bounds[1])
        if low == high and kind != "input":
            return constant(low)
        return Value(self._append(kind, a, b, arg, arg2, low, high))

    def _append(
        self, kind: str, a: int = -1, b: int = -1, arg: int = 0, arg2: int = 0, low: int = 0, high: int = 0
    ) -> int:
        key = (kind, a, b, arg, arg2)
        if key not in self._known:
            self._known[key] = len(self.ops)
            self.ops.append(Op(kind, a, b, arg, arg2, low, high))
            self.levels.append(max((self.levels[s] for s in (a, b) if s >= 0), default=0) + DELAYS[kind])
        return self._known[key]

    def _interval(self, kind: str, a: int, b: int, arg: int, arg2: int) -> tuple[int, int]:
        low, high = self.ops[a].low, self.ops[a].high
        if kind in ("add", "sub", "max"):
            low2, high2 = self.ops[b].low, self.ops[b].high
            if kind == "add":
                return low + (low2 << arg), high + (high2 << arg)
            if kind == "max":
                return max(low, low2), max(high, high2)
            up, up2 = max(-arg, 0), max(arg, 0)
            return (low << up) - (high2 << up2), (high << up) - (low2 << up2)
        if kind == "subc":
            return arg - high, arg - low
        if kind == "shl":
            return (low << arg) + arg2, (high << arg) + arg2
        if kind == "shr":
            return low >> arg, high >> arg
        if kind == "clip":
            return max(low, arg), min(high, arg2)
        return (low + arg, high + arg) if kind == "addc" else (int(low >= 0), int(high >= 0))


def clip_luts(low: int, high: int, clip_low: int, clip_high: int) -> int:
    """Return about how many LUTs it takes to clip an interval: free sign and overflow tests, or comparators.

    Example:
        >>> clip_luts(-100, 100, 0, 15), clip_luts(-100, 100, 3, 15)
        (5, 13)
    """
    below, above = clip_low > low, clip_high < high
    bits_in, bits_out = width(low, high), width(max(low, clip_low), min(high, clip_high))
    luts = bits_out if below or above else 0
    power = clip_high + 1 > 0 and (clip_high + 1) & clip_high == 0
    if above:
        luts += -(-(bits_in - bits_out) // 5) if power else bits_in
    if below:
        mirrored = clip_low == 0 or (power and clip_low == -clip_high - 1)
        luts += (0 if clip_low == 0 else -(-(bits_in - bits_out) // 5)) if mirrored else bits_in
    return luts


def _shifted(number: int, shift: int) -> int:
    return number << shift if shift >= 0 else number >> -shift


def _evaluate(op: Op, wires: dict[int, NDArray[np.int64]], inputs: NDArray[np.int64]) -> NDArray[np.int64]:
    if op.kind == "input":
        return inputs[:, op.arg]
    if op.kind == "const":
        return np.full(len(inputs), op.arg, dtype=np.int64)
    a = wires[op.a]
    if op.kind in ("add", "sub", "max"):
        b = wires[op.b]
        if op.kind == "add":
            return a + (b << op.arg)
        if op.kind == "max":
            return np.maximum(a, b)
        return (a << max(-op.arg, 0)) - (b << max(op.arg, 0))
    if op.kind == "clip":
        clipped: NDArray[np.int64] = np.clip(a, op.arg, op.arg2)
        return clipped
    if op.kind == "subc":
        return op.arg - a
    if op.kind == "shl":
        return (a << op.arg) + op.arg2
    if op.kind == "shr":
        return a >> op.arg
    return a + op.arg if op.kind == "addc" else (a >= 0).astype(np.int64)
