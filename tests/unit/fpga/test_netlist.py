"""Operations of a netlist: exhaustively equal to Python integers, inside their proven intervals."""

import itertools

import numpy as np
import pytest

from dyadiq.fpga.netlist import Netlist, Value, constant, width

ENDS = [(-8, 7), (0, 15), (-3, 4)]


def all_pairs(first, second):
    return np.array(list(itertools.product(range(first[0], first[1] + 1), range(second[0], second[1] + 1))))


def check(net, codes, value, expected):
    got = net.run(codes, [value])[:, 0].tolist()
    assert got == expected
    low, high = net.bounds(value)
    assert low <= min(got)
    assert max(got) <= high


@pytest.mark.parametrize("first", ENDS)
@pytest.mark.parametrize("second", ENDS)
@pytest.mark.parametrize("negative", [(False, False), (True, False), (False, True), (True, True)])
def test_sums_equal_python_when_shifted_negated_and_moved(first, second, negative):
    net, codes = Netlist(), all_pairs(first, second)
    x, y = net.input(*first), net.input(*second)
    for shift in [(0, 0), (0, 3), (2, 0), (2, 1)]:
        views = [Value(v.wire, s, n, 5) for v, s, n in zip((x, y), shift, negative, strict=True)]
        total = net.add(*views)
        real = [
            sum((-1 if n else 1) * (c << s) + 5 for c, s, n in zip(row, shift, negative, strict=True))
            for row in codes.tolist()
        ]
        check(net, codes, total, real)
        check(net, codes, Value(net.wire_of(total)), real)
        for count in (0, 1, 4, 9):
            check(net, codes, net.shift_right(total, count), [r >> count for r in real])
        for low, high in [(0, 7), (-4, 3), (3, 20), (-100, 0), (1, 100), (-200, 200), (90, 99)]:
            check(net, codes, net.clip(total, low, high), [min(max(r, low), high) for r in real])
        check(net, codes, net.maximum(views[0], total), [max(_view(c, 0, views), r) for c, r in _zip(codes, real)])
        check(net, codes, net.sign(total), [1 if r >= 0 else -1 for r in real])


def _zip(codes, real):
    return zip(codes.tolist(), real, strict=True)


def _view(row, k, views):
    v = views[k]
    return (-1 if v.negative else 1) * (row[k] << v.shift) + v.offset


def test_equal_operations_share_a_wire():
    net = Netlist()
    x, y = net.input(-8, 7), net.input(-8, 7)
    assert net.add(x, y) == net.add(y, x)
    n_ops = len(net.ops)
    net.clip(net.add(x, y).plus(3), 0, 15)
    net.clip(net.add(y, x).plus(3), 0, 15)
    assert len(net.ops) == n_ops + 2


def test_constants_cost_nothing():
    net = Netlist()
    x = net.input(0, 7)
    assert net.add(x, constant(4)) == x.plus(4)
    assert net.add(constant(3), constant(4)) == constant(7)
    assert net.clip(x, 9, 12) == constant(9)
    assert net.clip(x, 0, 7) == x
    assert net.maximum(x, constant(-1)) == x
    assert net.sign(x.plus(-9)) == constant(-1)
    assert net.shift_right(constant(-5), 1) == constant(-3)
    assert len(net.ops) == 1


def test_shifting_back_is_wiring():
    net = Netlist()
    x = net.input(-8, 7)
    wire = Value(net.wire_of(Value(x.wire, 3, offset=5)))
    assert net.shift_right(wire, 3) == x
    assert net.shift_right(wire, 2) == Value(x.wire, 1, offset=1)


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0, 1), (-1, 0), (-128, 127), (-129, 0), (5, 300)])
def test_width_is_the_fewest_bits(low, high):
    def holds(bits):
        return (low >= 0 and high < 2**bits) or (low < 0 and -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1))

    assert width(low, high) == next(bits for bits in range(1, 65) if holds(bits))
