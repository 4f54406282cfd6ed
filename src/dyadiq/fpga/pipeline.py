"""Where the registers go: cuts of a netlist into stages of bounded depth that hold the fewest bits.

Used by target `verilog`. Inputs and outputs are registered as well, so a circuit with ``c`` cuts has a latency of
``c + 2`` clock cycles, takes new inputs every cycle (initiation interval 1), and has ``c + 1`` stages of logic.

A cut at level ``l`` puts a register on every wire that is made at a level up to ``l`` and read above it. The bits a
cut holds depend on its own level only, so the cheapest set of cuts at most ``depth`` apart is a shortest path.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ConfigError
from dyadiq.fpga.netlist import Value, constant
from dyadiq.fpga.trace import Circuit, Port

__all__ = ["Schedule", "schedule"]


@dataclass(frozen=True)
class Schedule:
    """Stages of a circuit.

    Attributes:
        wires: One wire per output element, in the order of ports: what the output registers take.
        cuts: Levels after which registers stand, ascending.
        stages: Stage in which each wire is made; -1 for a wire that no output needs.
        last: Last stage that reads each wire.
        register_bits: Flip-flops before synthesis: input, cut and output registers.
        depth: Most adders in a row within a stage.
    """

    wires: tuple[int, ...]
    cuts: tuple[int, ...]
    stages: tuple[int, ...]
    last: tuple[int, ...]
    register_bits: int
    depth: int

    @property
    def latency_cycles(self) -> int:
        """Clock cycles from an input to its output."""
        return len(self.cuts) + 2


def schedule(circuit: Circuit, depth: int) -> Schedule:
    """Cut a circuit into the fewest stages of at most ``depth`` adders in a row, holding the fewest bits.

    Appends to the netlist the adders that outputs still need for their offsets.

    Raises:
        ConfigError: ``depth`` is not positive.
    """
    if depth < 1:
        raise ConfigError(f"the adders per stage must be at least 1, got {depth}.")
    net = circuit.net
    wires = tuple(_output_wire(circuit, port, value) for port in circuit.outputs for value in port.values)
    needed = [False] * len(net.ops)
    for wire in wires:
        needed[wire] = True
    last_level = [0] * len(net.ops)  # level at which a wire is read last
    top = max((net.levels[wire] for wire in wires), default=0)
    for wire in wires:
        last_level[wire] = top
    for i in range(len(net.ops) - 1, -1, -1):
        if needed[i]:
            for source in (net.ops[i].a, net.ops[i].b):
                if source >= 0:
                    needed[source] = True
                    last_level[source] = max(last_level[source], net.levels[i])
    held = np.zeros(top + 1, dtype=np.int64)
    for i in range(len(net.ops)):
        if needed[i] and net.ops[i].kind != "const":
            held[net.levels[i] : last_level[i]] += net.width(i)
    cuts = _cheapest_cuts(held, top, depth)
    bounds = [0, *cuts, top]
    stage_of = np.searchsorted(np.array(cuts, dtype=np.int64), np.arange(top + 1), side="left")
    stages = tuple(int(stage_of[net.levels[i]]) if needed[i] else -1 for i in range(len(net.ops)))
    last = tuple(int(stage_of[last_level[i]]) for i in range(len(net.ops)))
    ends = sum(p.carried.bits * len(p.values) for p in (*circuit.inputs, *circuit.outputs))
    return Schedule(
        wires,
        cuts,
        stages,
        last,
        int(sum(held[c] for c in cuts)) + ends,
        max(b - a for a, b in pairwise(bounds)),
    )


def _output_wire(circuit: Circuit, port: Port, value: Value) -> int:
    net = circuit.net
    if not port.qtype.bipolar:
        return net.wire_of(value)
    sign = net.sign(value)  # one bit, set for +1
    return net.wire_of(Value(sign.wire) if sign.wire >= 0 else constant(int(sign.offset > 0)))


def _cheapest_cuts(held: NDArray[np.int64], top: int, depth: int) -> tuple[int, ...]:
    """Return the levels of the fewest cuts at most ``depth`` apart whose registers hold the fewest bits."""
    n_stages = max(1, -(-top // depth))
    unreachable = 1 << 62
    # best[k][l]: fewest bits of k cuts, the last at level l; level 0 is the start, which is no cut
    best = [[unreachable] * (top + 1) for _ in range(n_stages)]
    came = [[0] * (top + 1) for _ in range(n_stages)]
    best[0][0] = 0
    for k in range(1, n_stages):
        for level in range(k, top):
            for before in range(max(k - 1, level - depth), level):
                bits = best[k - 1][before] + int(held[level])
                if bits < best[k][level]:
                    best[k][level], came[k][level] = bits, before
    level = min(range(max(0, top - depth), top + 1), key=lambda at: best[n_stages - 1][at])
    cuts = []
    for k in range(n_stages - 1, 0, -1):
        cuts.append(level)
        level = came[k][level]
    return tuple(reversed(cuts))
