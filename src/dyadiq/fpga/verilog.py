"""Verilog-2001 text of a circuit: one flat module, and the bench that tests it.

Used by target `verilog` and by `synth`. Pure text: writes no file and runs nothing.

Every wire is a plain vector of exactly the bits that its interval needs; operands are extended or cut to the width of
the result by hand, so that no sign rule of the language is relied upon (two's complement sums are right modulo 2^w).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dyadiq.fpga.netlist import Netlist, Op
from dyadiq.fpga.pipeline import Schedule
from dyadiq.fpga.trace import Circuit, Port

__all__ = ["TOP", "VerilogPort", "module_text", "verilog_ports"]

TOP = "network"


@dataclass(frozen=True, slots=True)
class VerilogPort:
    """A port of the module.

    Attributes:
        name: Its Verilog identifier.
        tensor: The tensor whose codes it carries; element k is at bits ``[k * bits +: bits]``, as `trace.Port` says.
        bits: Bits of one element.
        count: Number of elements.
    """

    name: str
    tensor: str
    bits: int
    count: int


def verilog_ports(circuit: Circuit) -> tuple[tuple[VerilogPort, ...], tuple[VerilogPort, ...]]:
    """Return the ports of the inputs and of the outputs, named ``in_...`` and ``out_...`` after their tensors."""
    taken: set[str] = set()

    def port(prefix: str, source: Port) -> VerilogPort:
        stem = f"{prefix}_{re.sub(r'[^A-Za-z0-9]+', '_', source.tensor).strip('_')}"
        name, n = stem, 1
        while name in taken:
            name, n = f"{stem}_{n}", n + 1
        taken.add(name)
        return VerilogPort(name, source.tensor, source.carried.bits, len(source.values))

    return tuple(port("in", p) for p in circuit.inputs), tuple(port("out", p) for p in circuit.outputs)


def module_text(circuit: Circuit, plan: Schedule, head: str = "", *, name: str = TOP, enable: str = "") -> str:
    """Return a module: ``clk``, one input vector per input, one registered output vector per output.

    Args:
        circuit: What it computes.
        plan: Its stages.
        head: Comment lines at the top, without slashes.
        name: Of the module.
        enable: Name of an input that lets time pass while it is high; none if empty.
    """
    net = circuit.net
    inputs, outputs = verilog_ports(circuit)
    elements = [(port, k) for port in inputs for k in range(port.count)]
    writer = _Writer(net, plan, elements)
    lines = [f"// {line}".rstrip() for line in head.splitlines()]
    lines.append(f"module {name} (")
    clocked = "always @(posedge clk)" + (f" if ({enable})" if enable else "")
    ends = ["    input wire clk", *([f"    input wire {enable}"] if enable else [])]
    ends += [f"    input wire [{p.bits * p.count - 1}:0] {p.name}" for p in inputs]
    ends += [f"    output reg [{p.bits * p.count - 1}:0] {p.name}" for p in outputs]
    lines += [",\n".join(ends), ");", ""]
    for p in inputs:
        lines.append(f"reg [{p.bits * p.count - 1}:0] {p.name}_0;")
        lines.append(f"{clocked} {p.name}_0 <= {p.name};")
    by_stage: list[list[int]] = [[] for _ in range(len(plan.cuts) + 1)]
    for i, stage in enumerate(plan.stages):
        if stage >= 0 and net.ops[i].kind != "const":
            by_stage[stage].append(i)
    live: list[int] = []
    for stage, made in enumerate(by_stage):
        lines += ["", f"// stage {stage}"]
        live = [i for i in live if plan.last[i] >= stage]
        lines += [f"reg [{net.width(i) - 1}:0] {_name(i, stage)};" for i in live]
        if live:
            lines.append(f"{clocked} begin")
            lines += [f"    {_name(i, stage)} <= {_name(i, stage - 1, plan)};" for i in live]
            lines.append("end")
        lines += [writer.declaration(i) for i in made]
        live += made
    lines += ["", f"{clocked} begin"]
    start = 0
    for p in outputs:
        parts = [writer.extended(w, len(plan.cuts), p.bits) for w in plan.wires[start : start + p.count]]
        start += p.count
        lines += [f"    {p.name}[{k * p.bits} +: {p.bits}] <= {part};" for k, part in enumerate(parts)]
    return "\n".join([*lines, "end", "", "endmodule", ""])


def _name(wire: int, stage: int, plan: Schedule | None = None) -> str:
    """Return the identifier of a wire in a stage; with a plan, the wire itself in the stage that makes it."""
    return f"w{wire}" if plan is not None and plan.stages[wire] == stage else f"w{wire}_{stage}"


class _Writer:
    """Prints operations as expressions."""

    def __init__(self, net: Netlist, plan: Schedule, elements: list[tuple[VerilogPort, int]]) -> None:
        self._net, self._plan, self._elements = net, plan, elements

    def declaration(self, wire: int) -> str:
        """Return ``wire [...] w = expression;``."""
        op = self._net.ops[wire]
        bits = self._net.width(wire)
        return f"wire [{bits - 1}:0] w{wire} = {self._expression(op, self._plan.stages[wire], bits)};"

    def extended(self, wire: int, stage: int, bits: int, shift: int = 0) -> str:
        """Return an operand shifted left and brought to a width, sign or zero extended or cut at the top."""
        op, have = self._net.ops[wire], self._net.width(wire)
        if op.kind == "const":
            return _literal(op.arg << shift, bits)
        name = _name(wire, stage, self._plan)
        keep = min(have, bits - shift)
        if keep <= 0:
            return f"{bits}'d0"
        parts = []
        more = bits - shift - keep
        if more:
            parts.append(f"{{{more}{{{name}[{have - 1}]}}}}" if op.low < 0 else f"{more}'d0")
        parts.append(name if keep == have else f"{name}[{keep - 1}:0]")
        if shift:
            parts.append(f"{shift}'d0")
        return parts[0] if len(parts) == 1 else f"{{{', '.join(parts)}}}"

    def _expression(self, op: Op, stage: int, bits: int) -> str:
        if op.kind == "input":
            port, k = self._elements[op.arg]
            low = k * port.bits
            return f"{port.name}_0[{low + bits - 1}:{low}]"
        if op.kind == "add":
            return f"{self.extended(op.a, stage, bits)} + {self.extended(op.b, stage, bits, op.arg)}"
        if op.kind == "sub":
            first = self.extended(op.a, stage, bits, max(-op.arg, 0))
            return f"{first} - {self.extended(op.b, stage, bits, max(op.arg, 0))}"
        if op.kind == "addc":
            return f"{self.extended(op.a, stage, bits)} + {_literal(op.arg, bits)}"
        if op.kind == "subc":
            return f"{_literal(op.arg, bits)} - {self.extended(op.a, stage, bits)}"
        if op.kind == "shl":
            return f"{{{self.extended(op.a, stage, bits - op.arg)}, {_literal(op.arg2, op.arg)}}}"
        name, have = _name(op.a, stage, self._plan), self._net.width(op.a)
        if op.kind == "shr":
            return f"{name}[{have - 1}:{min(op.arg, have - 1)}]"
        if op.kind == "nonneg":
            return f"~{name}[{have - 1}]"
        if op.kind == "max":
            return self._maximum(op, stage, bits)
        return self._clip(op, name, have, bits, stage)

    def _maximum(self, op: Op, stage: int, bits: int) -> str:
        low = min(self._net.ops[op.a].low, self._net.ops[op.b].low)
        both = max(self._net.width(op.a), self._net.width(op.b)) + 1  # one more, so that signs and no signs compare
        a, b = self.extended(op.a, stage, both), self.extended(op.b, stage, both)
        larger = f"$signed({a}) > $signed({b})" if low < 0 else f"{a} > {b}"
        return f"({larger}) ? {self.extended(op.a, stage, bits)} : {self.extended(op.b, stage, bits)}"

    def _clip(self, op: Op, name: str, have: int, bits: int, stage: int) -> str:
        """Return a clip: overflow seen in the upper bits where the ends are powers of two, else compared."""
        source = self._net.ops[op.a]
        signed = source.low < 0
        sign = f"{name}[{have - 1}]"
        power = op.arg2 + 1 > 0 and (op.arg2 + 1) & op.arg2 == 0
        k = op.arg2.bit_length()
        text = self.extended(op.a, stage, bits)
        view = f"$signed({name})" if signed else name
        if op.arg2 < source.high:
            upper = f"|{name}[{have - 1 - signed}:{k}]"
            test = f"{view} > {_literal(op.arg2, have, signed=signed)}"
            if power:
                test = f"~{sign} & ({upper})" if signed and op.arg != 0 else upper
            text = f"({test}) ? {_literal(op.arg2, bits)} : {text}"
        if op.arg > source.low:
            test = f"{view} < {_literal(op.arg, have, signed=signed)}"
            if op.arg == 0:
                test = sign
            elif power and op.arg == -op.arg2 - 1:
                test = f"{sign} & ~(&{name}[{have - 2}:{k}])"
            text = f"({test}) ? {_literal(op.arg, bits)} : {text}"
        return text


def _literal(number: int, bits: int, *, signed: bool = False) -> str:
    """Return a sized literal, modulo 2^bits.

    Example:
        >>> _literal(-3, 4), _literal(5, 8, signed=True)
        ("4'd13", "8'sd5")
    """
    if signed:
        return f"-{bits}'sd{-number}" if number < 0 else f"{bits}'sd{number}"
    return f"{bits}'d{number % (1 << bits)}"
