"""Stages: never deeper than asked, as few as can be, holding as few bits as any choice of cuts."""

import itertools

import numpy as np
import pytest

from dyadiq.core.errors import ConfigError
from dyadiq.core.qtype import QType
from dyadiq.fpga.netlist import Netlist
from dyadiq.fpga.pipeline import schedule
from dyadiq.fpga.trace import Circuit, Port


def random_circuit(rng, n_ops=20):
    net = Netlist()
    values = [net.input(-8, 7) for _ in range(4)]
    ports = (Port("x", (4,), QType(4, signed=True), tuple(values)),)
    for _ in range(n_ops):
        x, y = (values[i] for i in rng.integers(max(0, len(values) - 6), len(values), 2))
        values.append(net.clip(net.add(x, y.plus(1)), -30, 31) if rng.random() < 0.5 else net.maximum(x, y))
    return Circuit(net, ports, (Port("y", (3,), QType(12, signed=True), tuple(values[-3:])),))


@pytest.mark.parametrize("depth", [1, 2, 3, 100])
@pytest.mark.parametrize("seed", range(4))
def test_cuts_hold_the_fewest_bits(seed, depth):
    circuit = random_circuit(np.random.default_rng(seed))
    plan = schedule(circuit, depth)
    net = circuit.net
    top = max(net.levels[w] for w in plan.wires)
    assert len(plan.cuts) == max(1, -(-top // depth)) - 1
    assert plan.depth <= depth
    choices = [
        cuts
        for cuts in itertools.combinations(range(1, top), len(plan.cuts))
        if all(b - a <= depth for a, b in itertools.pairwise((0, *cuts, top)))
    ]
    assert plan.register_bits == min(register_bits(net, plan.wires, top, cuts) for cuts in choices)


def register_bits(net, wires, top, cuts):
    """Bits of all registers, from which wires are read where: the slow way."""
    readers = {w: {top} for w in wires}
    for wire in range(len(net.ops) - 1, -1, -1):
        for source in (net.ops[wire].a, net.ops[wire].b):
            if wire in readers and source >= 0:
                readers.setdefault(source, set()).add(net.levels[wire])
    held = sum(net.width(w) for cut in cuts for w, at in readers.items() if net.levels[w] <= cut < max(at))
    return held + 4 * 4 + 3 * 12


def test_schedule_refuses_when_depth_is_not_positive():
    with pytest.raises(ConfigError, match="adders per stage must be at least 1, got 0"):
        schedule(random_circuit(np.random.default_rng(0)), 0)
