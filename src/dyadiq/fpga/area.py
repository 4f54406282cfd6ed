"""How many LUTs a netlist takes on a Xilinx part, counted per operation without synthesis.

Used by `lut_cost`. An adder bit is one LUT in front of the carry chain where both operands reach it; where one operand
is a constant, the carry chain takes the other alone (or inverted). Bits that repeat both signs share one LUT, and so do
a sum and a difference of the same two, one the inverse of the other.
The rules follow what `synth` counts, ``lut``; benchmarks/rtl_jets.py compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable

from dyadiq.fpga.netlist import Netlist, Op, clip_luts, width

__all__ = ["estimate_luts", "needed_wires", "op_luts"]


def estimate_luts(net: Netlist, wires: Iterable[int]) -> int:
    """Return the LUTs of everything that the given wires need.

    Example:
        >>> from dyadiq.fpga.netlist import Netlist
        >>> net = Netlist()
        >>> total = net.add(net.input(-8, 7), net.input(-8, 7))
        >>> estimate_luts(net, [total.wire])
        4
    """
    total = 0
    adders: dict[tuple[int, int, int], int] = {}
    for wire in needed_wires(net, wires):
        op = net.ops[wire]
        if op.kind in ("add", "sub"):
            key = (op.a, op.b, op.arg) if op.a <= op.b else (op.b, op.a, -op.arg)
            adders[key] = max(adders.get(key, 0), op_luts(net, op))
        else:
            total += op_luts(net, op)
    return total + sum(adders.values())


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


def op_luts(net: Netlist, op: Op) -> int:
    """Return the LUTs of one operation; wiring and sums with a constant take none before the carry chain."""
    if op.kind in ("add", "sub"):
        return _adder_luts(net, op)
    if op.kind == "clip":
        source = net.ops[op.a]
        return clip_luts(source.low, source.high, op.arg, op.arg2)
    if op.kind == "max":
        return net.width(op.a) + net.width(op.b)
    return 0


def _adder_luts(net: Netlist, op: Op) -> int:
    """Return the bits at which both operands are no constant, bits above both signs counted once."""
    first, second = max(-op.arg, 0), max(op.arg, 0)
    ends = first + net.width(op.a), second + net.width(op.b)
    low = max(first, second)
    bits = width(op.low, op.high)
    tops = [end if net.ops[w].low >= 0 else bits for w, end in zip((op.a, op.b), ends, strict=True)]
    return max(0, min(*tops, max(ends), bits) - low)
