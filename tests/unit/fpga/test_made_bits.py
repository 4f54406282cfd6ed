"""Of which bits the bits of a wire are copies, against what the netlist computes."""

import numpy as np
import pytest

from dyadiq.fpga.made_bits import ONE, ZERO, MadeBits, is_constant
from dyadiq.fpga.netlist import Netlist, Value


def test_copies_of_bits_are_found():
    net = Netlist()
    x, y = net.input(0, 15), net.input(0, 15)
    total = net.add(x, Value(y.wire, shift=2))
    shifted, fixed = net.wire_of(Value(x.wire, shift=3)), net.wire_of(Value(-1, offset=5))
    made = MadeBits(net)
    assert made.of(total.wire)[:2] == ((x.wire, 0), (x.wire, 1))
    assert made.variable(shifted) == made.variable(x.wire)
    assert made.of(fixed) == (ONE, ZERO, ONE)
    assert made.variable(fixed) == []
    assert made.read(x.wire, 1, 7) == [ZERO, *made.of(x.wire), ZERO, ZERO]


@pytest.mark.parametrize("seed", range(20))
def test_bits_that_are_copies_have_the_value_of_what_they_copy(seed):
    rng = np.random.default_rng(seed)
    net = Netlist()
    values = [net.input(-16, 15), net.input(0, 15), net.input(-3, 40), net.input(0, 1)]
    for _ in range(25):
        x, y = (values[i] for i in rng.integers(len(values), size=2))
        x, y = (Value(v.wire, int(rng.integers(4)), bool(rng.integers(2)), int(rng.integers(-40, 40))) for v in (x, y))
        made = [
            lambda x=x, y=y: net.add(x, y),
            lambda x=x: net.clip(x, *sorted(int(n) for n in rng.integers(-20, 20, size=2))),
            lambda x=x: Value(net.wire_of(x)),
            lambda x=x: net.shift_right(x, int(rng.integers(1, 4))),
        ][rng.integers(4)]()
        if made.wire >= 0 and net.width(made.wire) < 20:
            values.append(Value(made.wire))
    inputs = np.stack([rng.integers(net.ops[v.wire].low, net.ops[v.wire].high + 1, 200) for v in values[:4]], axis=1)
    wires = range(len(net.ops))
    codes = net.run(inputs, [Value(wire) for wire in wires])
    made = MadeBits(net)
    for wire in wires:
        for place, bit in enumerate(made.read(wire, 0, net.width(wire) + 2)):
            seen = codes[:, wire] >> place & 1
            copied = bit[1] if is_constant(bit) else codes[:, bit[0]] >> bit[1] & 1
            assert (copied == seen).all(), (net.ops[wire], place, bit)
