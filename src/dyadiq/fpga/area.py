"""How many LUTs a netlist takes on a Xilinx part, counted per operation without synthesis.

Used by `estimate` and `layer_trace`. An adder bit is one LUT in front of the carry chain where both operands reach it;
where one operand is a constant, the carry chain takes the other alone (or inverted). Adders that join the same two bits
share the LUT, one inverted where the other is not: a sum and a difference of the same two, and repeated signs. Clips
are LUTs, or part of an adder's LUT, or the synchronous reset of a register (`_ClipUses`).
The rules follow what `synth` counts, ``lut``, within 2 %; benchmarks/lut_model.py compares the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from dyadiq.fpga.made_bits import Bit, MadeBits, is_constant
from dyadiq.fpga.netlist import Netlist, Op, width

__all__ = ["estimate_luts", "needed_wires", "wire_luts"]

_LUT_INPUTS = 6
_TEST_BITS = 5  # bits that a LUT tests beside what was tested before


def estimate_luts(net: Netlist, wires: Iterable[int]) -> int:
    """Return the LUTs of everything that the given wires need.

    Example:
        >>> from dyadiq.fpga.netlist import Netlist
        >>> net = Netlist()
        >>> total = net.add(net.input(-8, 7), net.input(-8, 7))
        >>> estimate_luts(net, [total.wire])
        4
    """
    return sum(wire_luts(net, wires).values())


def wire_luts(net: Netlist, wires: Iterable[int], stages: Sequence[int] | None = None) -> dict[int, int]:
    """Return the LUTs of every wire that the given ones need; what several wires share counts for the first.

    Args:
        net: The netlist.
        wires: What is asked for; goes into registers.
        stages: Stage of every wire, as in `pipeline.Schedule`; None: all wires are in one.
    """
    kept = set(wires)
    needed = needed_wires(net, kept)
    uses = _ClipUses(net, stages)
    pairs: dict[int, set[tuple[Bit, Bit]]] = {}
    luts = dict.fromkeys(needed, 0)
    for wire in needed:
        op = net.ops[wire]
        if op.kind in ("add", "sub"):
            pairs[wire] = uses.read_by_adder(wire, op)
        elif op.kind in ("addc", "subc"):
            uses.read_with_constant(wire, op)
        elif op.kind == "max":
            uses.deep = True
            luts[wire] = net.width(op.a) + net.width(op.b)
        if op.kind in ("clip", "max", "nonneg"):
            for source in {op.a, op.b} - {-1}:
                uses.read_whole(source, wire)
    for wire in kept:
        uses.read_whole(wire, None)
    clips = [wire for wire in needed if net.ops[wire].kind == "clip"]
    uses.deep = uses.deep or any(_tests(net, net.ops[wire]) for wire in clips)
    luts |= {wire: uses.luts(wire) for wire in clips}
    made: set[tuple[Bit, Bit, bool]] = set()
    for wire, joined in pairs.items():
        known, inverted = len(made), net.ops[wire].kind == "sub" and not uses.deep
        made.update((a, b, inverted) for a, b in joined)
        luts[wire] = len(made) - known
    return luts


def needed_wires(net: Netlist, wires: Iterable[int]) -> list[int]:
    """Return all wires that the given ones are made of, themselves included, ascending."""
    seen = set(wires)
    stack = list(seen)
    while stack:
        op = net.ops[stack.pop()]
        for source in (op.a, op.b):
            if source >= 0 and source not in seen:
                seen.add(source)
                stack.append(source)
    return sorted(seen)


class _ClipUses:
    """How the bits of clips are used, on which their LUTs depend.

    A bit that adders of the same stage read as second operand only is taken into their LUTs. A bit that a carry chain
    needs inverted is a second LUT, unless the circuit is deep enough for an inverter behind the first; of any other
    wire's bit it is an inverter always. Inverters are not counted. Where a clip goes into registers only, its outer
    limit is their synchronous reset. Where two LUTs in a row are allowed, one may test the upper bits for all bits of a
    clip: more LUTs, but of fewer inputs (`_is_tested_apart`).

    Attributes:
        deep: Whether some path between registers and carry chains has two LUTs. Mapping keeps the depth of the deepest:
            with one LUT everywhere there is no room for an inverter; a difference then shares no LUT with a sum, and
            the two signs of a clip's bit share none.
    """

    def __init__(self, net: Netlist, stages: Sequence[int] | None) -> None:
        self._net, self._stages, self._made = net, stages, MadeBits(net)
        self._plain: dict[int, set[int]] = {}
        self._inverted: dict[int, set[int]] = {}
        self._registered: dict[int, set[int]] = {}
        self._joined: Counter[int] = Counter()  # how many bits of a wire are second operands of adders
        self._near: set[int] = set()  # clips that something of the same stage reads
        self.deep = False

    def _is_near(self, wire: int, reader: int | None) -> bool:
        return reader is not None and (self._stages is None or self._stages[wire] == self._stages[reader])

    def _inputs(self, a: Bit, b: Bit, reader: int) -> int:
        """Return of how many registered or carried bits the sum of two bits is a function."""
        near = {bit[0] for bit in (a, b) if self._net.ops[bit[0]].kind == "clip" and self._is_near(bit[0], reader)}
        return 2 + sum(_examined_bits(self._net, self._net.ops[wire]) for wire in near)

    def _use(self, bit: Bit, reader: int | None, *, inverted: bool = False, absorbed: bool = False) -> None:
        if is_constant(bit) or self._net.ops[bit[0]].kind != "clip":
            return
        wire, place = bit
        if not self._is_near(wire, reader):
            self._registered.setdefault(wire, set()).add(place)
            return
        self._near.add(wire)
        if not (absorbed and _examined_bits(self._net, self._net.ops[wire]) + 2 <= _LUT_INPUTS):
            (self._inverted if inverted else self._plain).setdefault(wire, set()).add(place)

    def read_by_adder(self, wire: int, op: Op) -> set[tuple[Bit, Bit]]:
        """Note an adder's operands; return the pairs of bits that it joins, one LUT each.

        A bit joined with a constant or with itself takes none.
        """
        pairs = set()
        first, second = max(-op.arg, 0), max(op.arg, 0)
        subtracts, bits = op.kind == "sub", width(op.low, op.high)
        both = zip(self._made.read(op.a, first, bits), self._made.read(op.b, second, bits), strict=True)
        for place, (a, b) in enumerate(both):
            self._use(a, wire)
            if is_constant(a):
                self._use(b, wire, inverted=subtracts)
            elif is_constant(b):
                if subtracts and place >= second:
                    self._use(a, wire, inverted=True)
            elif a != b:
                self._use(b, wire, absorbed=True)
                self._joined[b[0]] += self._is_near(b[0], wire)
                pairs.add((a, b) if a < b else (b, a))
                self.deep = self.deep or self._inputs(a, b, wire) > _LUT_INPUTS
        return pairs

    def read_with_constant(self, wire: int, op: Op) -> None:
        """Note what is added to a constant, or subtracted from one."""
        adds = op.kind == "addc"
        for place, bit in enumerate(self._made.read(op.a, 0, width(op.low, op.high))):
            if adds:
                self._use(bit, wire)
            self._use(bit, wire, inverted=bool(op.arg >> place & 1) == adds)

    def read_whole(self, wire: int, reader: int | None) -> None:
        """Note that all bits of a wire are needed as they are."""
        for bit in self._made.variable(wire):
            self._use(bit, reader)

    def luts(self, wire: int) -> int:
        """Return the LUTs of a clip."""
        net, op = self._net, self._net.ops[wire]
        source = net.ops[op.a]
        registered = self._registered.get(wire, set())
        sides, tests = (op.arg > source.low) + (op.arg2 < source.high), _tests(net, op)
        if wire not in self._near and sides == 1:
            return max(tests, int(_examined_bits(net, op) > 1))
        plain, inverted = self._plain.get(wire, set()) | registered, self._inverted.get(wire, set())
        if not self.deep:
            return tests + len(plain) + len(inverted)
        if not tests and self._is_tested_apart(wire, plain, inverted):
            return 1 + len(plain) + len(inverted)
        return tests + len(plain | inverted)

    def _is_tested_apart(self, wire: int, plain: set[int], inverted: set[int]) -> bool:
        """Return whether one LUT finds that a clip is above its limit, for all its bits, since they are cheaper then.

        There is no time for an inverter behind them then, nor for a LUT of an adder that does not look at all of them.
        """
        op, near = self._net.ops[wire], wire in self._near
        low, high = self._net.ops[op.a].low, self._net.ops[op.a].high
        below = op.arg > low
        if op.arg2 >= high or (below and op.arg != 0):
            return False
        tested = _examined_bits(self._net, op) - below  # below it is by the sign, which resets the register
        beside = 1 + (below and near)
        if tested < 2 or tested + beside > _LUT_INPUTS:
            return False
        joined = self._joined[wire]
        apart = _area(tested) + (len(plain) + len(inverted)) * _area(1 + beside) + joined * _area(2 + beside)
        whole = len(plain | inverted) * _area(tested + beside) + len(plain & inverted) * _area(1)
        return apart < whole + joined * (_area(2) if plain else _area(1 + tested + beside))


def _area(inputs: int) -> int:
    """Return what Yosys' mapping takes a LUT to cost: those of few inputs are cheaper, as two may share a place."""
    return 2 if inputs <= 2 else 3 if inputs == 3 else 5


def _examined_bits(net: Netlist, op: Op) -> int:
    """Return how many upper bits of its source a clip looks at: the sign, and what is no trailing zero of a limit."""
    source = net.ops[op.a]
    bits, most = net.width(op.a), 1
    for limit, active in ((op.arg, op.arg > source.low), (op.arg2 + 1, op.arg2 < source.high)):
        if active and limit:
            most = max(most, bits - ((limit & -limit).bit_length() - 1))
    return most


def _tests(net: Netlist, op: Op) -> int:
    """Return how many LUTs of a clip look at upper bits only, in front of those that make its bits."""
    examined = _examined_bits(net, op)
    return -(-(examined - 1) // _TEST_BITS) if examined >= _LUT_INPUTS else 0
