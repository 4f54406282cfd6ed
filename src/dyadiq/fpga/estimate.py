"""What a program takes as logic, counted on its traced netlist without synthesis: in total and per layer.

Used by the report, `cli synth` and benchmarks/lut_model.py, which compares it with Yosys. LUTs by `area`, flip-flops
and cycles by `pipeline`; target `verilog` writes the very same circuit.

A *layer* is a node together with the requantizers and clips that read it. What two layers share belongs to the first.
Flip-flops that hold a wire belong to the layer that made it; those of the input ports are the quantizer's.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.fpga.area import wire_luts
from dyadiq.fpga.limits import MAX_LUTS
from dyadiq.fpga.made_bits import MadeBits
from dyadiq.fpga.netlist import Netlist
from dyadiq.fpga.pipeline import Schedule, schedule
from dyadiq.fpga.trace import Circuit, trace
from dyadiq.ir.graph import Graph
from dyadiq.ir.integer import IntegerProgram

__all__ = ["HardwareEstimate", "LayerEstimate", "count_luts", "estimate_circuit", "estimate_hardware"]

_ACCUMULATE = ("linear", "conv2d", "sum_pool2d", "add")
_FINISH = ("requantize", "clip")


@dataclass(frozen=True, slots=True)
class LayerEstimate:
    """One layer's share.

    Attributes:
        name: Node of the program.
        op: Its operator.
        lut: Look-up tables.
        ff: Flip-flops.
        levels: Adders in a row from its inputs to its outputs.
    """

    name: str
    op: str
    lut: int
    ff: int
    levels: int


@dataclass(frozen=True)
class HardwareEstimate:
    """What a circuit takes.

    Attributes:
        lut: Look-up tables of an UltraScale+ part, as Yosys counts them.
        ff: Flip-flops.
        latency_cycles: Clock cycles from an input to its output.
        depth: Most adders in a row within a stage.
        layers: Shares in order of execution; they add up to ``lut`` and ``ff``.
        dsp: None are used.
        carry: Not estimated.
        family: What the counts are of.
        kind: How the numbers were obtained.
    """

    lut: int
    ff: int
    latency_cycles: int
    depth: int
    layers: tuple[LayerEstimate, ...]
    dsp: int = 0
    carry: int = 0
    family: str = "xcup"
    kind: Literal["estimated"] = "estimated"

    def latency_ns(self, clock_mhz: float) -> float:
        """Return the latency at a clock that is assumed: a model, no measurement."""
        return 1000.0 * self.latency_cycles / clock_mhz

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def estimate_hardware(
    program: IntegerProgram, depth: int = 4, *, max_luts: int = MAX_LUTS, progress: Progress = NO_PROGRESS
) -> HardwareEstimate:
    """Trace a program and return what its circuit takes.

    Args:
        program: The program.
        depth: Most adders in a row between two registers, as for target `verilog`.
        max_luts: A program of more, by a quick guess, is refused.
        progress: Told about traced nodes.

    Raises:
        ConfigError: ``depth`` is not positive.
        ExportError: A weight is too wide.
        TooLargeError: The network is too large to unroll.
        MissingDependencyError: da4ml is not installed.
        ProofError: A tensor of the program may leave its declared type.
    """
    circuit = trace(program, progress, max_luts)
    return estimate_circuit(program.graph, circuit, schedule(circuit, depth))


def count_luts(program: IntegerProgram, depth: int = 4) -> int:
    """Return ``estimate_hardware(program, depth).lut`` alone, for those who ask a thousand times: no flip-flops.

    Raises:
        As `estimate_hardware`.
    """
    circuit = trace(program)
    plan = schedule(circuit, depth)
    return sum(wire_luts(circuit.net, plan.wires, plan.stages).values())


def estimate_circuit(graph: Graph, circuit: Circuit, plan: Schedule) -> HardwareEstimate:
    """Return what a traced and scheduled circuit takes."""
    layer_of = _layers(graph)
    owners = _owners(circuit, layer_of)
    net, names = circuit.net, list(dict.fromkeys(layer_of.values()))
    luts, ffs, first, last = (dict.fromkeys(names, 0) for _ in range(4))
    for wire, cost in wire_luts(net, plan.wires, plan.stages).items():
        owner = owners[wire]
        luts[owner] += cost
        last[owner] = max(last[owner], net.levels[wire])
        for source in (net.ops[wire].a, net.ops[wire].b):
            if source >= 0 and owners[source] != owner:
                first[owner] = max(first[owner], net.levels[source])
    for wire, bits in _registers(net, plan).items():
        ffs[owners[wire]] += bits
    ops = {node.name: node.op for node in graph.nodes}
    layers = tuple(
        LayerEstimate(name, ops[name], luts[name], ffs[name], max(0, last[name] - first[name])) for name in names
    )
    return HardwareEstimate(sum(luts.values()), sum(ffs.values()), plan.latency_cycles, plan.depth, layers)


def _registers(net: Netlist, plan: Schedule) -> dict[int, int]:
    """Return the flip-flops that hold each wire: after its stage, and at the ports.

    Bits that are copies of one another share a flip-flop in a stage: what a shift moves, the bits of a sum that only
    one operand reaches, sign bits that are repeated.
    """
    held: set[tuple[int, int, int]] = set()
    made = MadeBits(net)
    for wire, (stage, last) in enumerate(zip(plan.stages, plan.last, strict=True)):
        op = net.ops[wire]
        if stage < 0:
            continue
        first = -1 if op.kind == "input" else stage
        held.update((at, *bit) for bit in made.variable(wire) for at in range(first, last))
    final = len(plan.cuts)
    for wire in plan.wires:
        held.update((final, *bit) for bit in made.variable(wire))
    counts: dict[int, int] = {}
    for _, wire, _ in held:
        counts[wire] = counts.get(wire, 0) + 1
    return counts


def _layers(graph: Graph) -> dict[str, str]:
    """Return the layer of every node, by names, in order of execution."""
    made_by: dict[str, str] = {}
    layers: dict[str, str] = {}
    for node in graph.nodes:
        reads = made_by.get(node.inputs[0])
        layers[node.name] = reads if node.op in _FINISH and reads is not None else node.name
        if node.op in _ACCUMULATE or layers[node.name] != node.name:
            made_by[node.output] = layers[node.name]
    return layers


def _owners(circuit: Circuit, layer_of: dict[str, str]) -> list[str]:
    """Return the layer of every wire; adders that only the outputs asked for belong to what they read."""
    names, ends = list(circuit.spans), list(circuit.spans.values())
    owners: list[str] = []
    for wire, op in enumerate(circuit.net.ops):
        at = bisect_right(ends, wire)
        made_late = at == len(ends)
        owners.append(owners[op.a] if made_late and op.a >= 0 else layer_of[names[min(at, len(names) - 1)]])
    return owners
