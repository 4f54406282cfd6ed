"""Of which bits the bits of a wire are copies: those that take logic are made once, and all else is wiring.

Used by `area`, which counts LUTs, and `estimate`, which counts registers. A bit is named by the wire that makes it and
its place there; a constant by `ZERO` or `ONE`. Copies are what a shift moves, what repeats a sign, and the bits of a
sum that only one operand reaches.
"""

from __future__ import annotations

from dyadiq.fpga.netlist import Netlist, Op, width

__all__ = ["ONE", "ZERO", "Bit", "MadeBits", "is_constant"]

Bit = tuple[int, int]
ZERO: Bit = (-1, 0)
ONE: Bit = (-1, 1)


def is_constant(bit: Bit) -> bool:
    """Return whether a bit is `ZERO` or `ONE`."""
    return bit[0] < 0


class MadeBits:
    """Bits of the wires of a netlist, each worked out once from those of its operands.

    Example:
        >>> from dyadiq.fpga.netlist import Netlist, Value
        >>> net = Netlist()
        >>> total = net.add(net.input(0, 7), Value(net.input(0, 7).wire, shift=2))
        >>> MadeBits(net).of(total.wire)
        ((0, 0), (0, 1), (2, 2), (2, 3), (2, 4), (2, 5))
    """

    def __init__(self, net: Netlist) -> None:
        """Work out nothing yet."""
        self._net = net
        self._known: dict[int, tuple[Bit, ...]] = {}

    def of(self, wire: int) -> tuple[Bit, ...]:
        """Return the bits of a wire, the lowest first."""
        waiting = [wire]
        while waiting:
            op = self._net.ops[waiting[-1]]
            unknown = [source for source in (op.a, op.b) if source >= 0 and source not in self._known]
            if unknown:
                waiting += unknown
            else:
                now = waiting.pop()
                if now not in self._known:
                    self._known[now] = self._made(now, op)
        return self._known[wire]

    def read(self, wire: int, shift: int, n_places: int) -> list[Bit]:
        """Return the bits of ``wire << shift``, which repeats its sign as often as it takes."""
        bits = self.of(wire)
        beyond = n_places - shift - len(bits)
        repeated = bits[-1] if self._net.ops[wire].low < 0 else ZERO
        return [*[ZERO] * shift, *bits, *[repeated] * beyond][:n_places]

    def variable(self, wire: int) -> list[Bit]:
        """Return the bits of a wire that are no constants."""
        return [bit for bit in self.of(wire) if not is_constant(bit)]

    def _made(self, wire: int, op: Op) -> tuple[Bit, ...]:
        places = range(width(op.low, op.high))
        if op.kind == "const":
            return tuple(ONE if op.arg >> place & 1 else ZERO for place in places)
        if op.kind == "shl":
            fill = [ONE if op.arg2 >> place & 1 else ZERO for place in range(op.arg)]
            return (*fill, *self.of(op.a))
        if op.kind == "shr":
            return tuple(self.read(op.a, 0, op.arg + len(places))[op.arg :])
        own: list[Bit] = [(wire, place) for place in places]
        if op.kind in ("add", "sub") and op.arg > 0:
            own[: op.arg] = self.read(op.a, 0, min(op.arg, len(own)))
        elif op.kind == "sub" and op.arg < 0:
            own[:1] = self.read(op.b, 0, 1)
        elif op.kind == "addc":
            unmoved = min((op.arg & -op.arg).bit_length() - 1, len(own))
            own[:unmoved] = self.read(op.a, 0, unmoved)
        elif op.kind == "clip":
            source = self.read(op.a, 0, len(own))
            own = [self._forced(wire, at, source) if is_constant(source[at]) else bit for at, bit in enumerate(own)]
        return tuple(own)

    def _forced(self, wire: int, place: int, source: list[Bit]) -> Bit:
        """Return the bit of a clip whose source is constant there: constant, or that of others that are set alike."""
        op = self._net.ops[wire]
        limits = [op.arg] * (op.arg > self._net.ops[op.a].low) + [op.arg2] * (op.arg2 < self._net.ops[op.a].high)

        def pattern(at: int) -> tuple[int, ...]:
            return source[at][1], *(limit >> at & 1 for limit in limits)

        if len(set(pattern(place))) == 1:
            return source[place]
        alike = (at for at in range(place + 1) if is_constant(source[at]) and pattern(at) == pattern(place))
        return wire, next(alike)
