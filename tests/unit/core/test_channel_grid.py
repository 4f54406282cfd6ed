"""Grids of channels: codes equal a loop over Python numbers, step numbers go both ways, and bad grids are refused."""

import math

import numpy as np
import pytest

from dyadiq.core.channel_grid import ChannelGrid, carried_type
from dyadiq.core.errors import QuantError
from dyadiq.core.qtype import QType

GRID = ChannelGrid(np.array([0, 3, 1, 5]), np.array([-8, -2, 3, -1]), np.array([7, 9, 3, 0]))


def slow_code(x, scale, shift, low, high):
    return min(max(math.floor(x / (scale * 2**shift) + 0.5), low), high) * 2**shift


@pytest.mark.parametrize("shape", [(), (1,), (3, 5)])
@pytest.mark.parametrize("scale", [0.25, 0.37])
def test_codes_equal_a_slow_loop(shape, scale):
    rng = np.random.default_rng(0)
    x = rng.normal(0, 20, (33, 4, *shape))
    x[:8] = np.round(x[:8] / scale / 4) * 4 * scale + scale / 2  # ties
    got = GRID.quantize(x, scale)
    for index, value in np.ndenumerate(x):
        c = index[1]
        assert got[index] == slow_code(value, scale, *(int(v[c]) for v in (GRID.shift, GRID.low, GRID.high)))
    assert GRID.holds(got)
    assert np.array_equal(GRID.codes_of(GRID.numbers(got)), got)


def test_numbers_are_no_wider_than_the_bits():
    assert GRID.bits().tolist() == [4, 4, 0, 1]
    assert str(carried_type(GRID)) == "uint4"
    low, high = GRID.ends()
    for ends, numbers in ((low, [0, 0, 0, 0]), (high, [15, 11, 0, 1])):
        assert GRID.numbers(ends[None]).tolist() == [numbers]


def test_codes_between_steps_or_beyond_the_ends_are_not_held():
    for codes in ([0, 4, 6, 0], [8, 0, 6, 0], [0, 0, 4, 0], [0, 0, 6, -64]):
        assert not GRID.holds(np.array([codes]))
    assert GRID.holds(np.array([[0, 8, 6, -32]]))


def test_one_channel_is_replaced():
    grid = GRID.with_channel(2, 4, -3, 5)
    assert (grid.shift.tolist(), grid.low.tolist(), grid.high.tolist()) == (
        [0, 3, 4, 5],
        [-8, -2, -3, -1],
        [7, 9, 5, 0],
    )
    assert GRID.shift.tolist() == [0, 3, 1, 5]


def test_grid_of_a_type_has_its_codes():
    grid = ChannelGrid.of_type(QType.parse("int4n"), 3)
    assert [ends.tolist() for ends in grid.ends()] == [[-7] * 3, [7] * 3]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (([0, 0], [0], [0]), r"must be \[C\] each, got \[\[2\], \[1\], \[1\]\]"),
        (([], [], []), r"must be \[C\] each, got \[\[0\], \[0\], \[0\]\]"),
        (([[0]], [[0]], [[0]]), r"must be \[C\] each"),
        (([-1, 0], [0, 0], [0, 0]), r"shifts must be in \[0, 30\], got \[-1, 0\]"),
        (([0, 31], [0, 0], [0, 0]), r"shifts must be in \[0, 30\], got \[0, 31\]"),
        (([0, 0], [0, 4], [0, 3]), "channel 1 has low 4 above high 3"),
    ],
)
def test_bad_grids_are_refused(parts, message):
    with pytest.raises(QuantError, match=message):
        ChannelGrid(*(np.array(part, dtype=np.int64) for part in parts))


@pytest.mark.parametrize(
    ("qtype", "count", "message"),
    [
        ("int7", 4, r"4 channels with codes \[-32, 72\] do not fit 4 channels of int7"),
        ("int8", 3, "do not fit 3 channels of int8"),
        ("bipolar", 4, "do not fit 4 channels of bipolar"),
    ],
)
def test_grids_beyond_a_type_are_refused(qtype, count, message):
    GRID.check_within(QType.parse("int8"), 4)
    with pytest.raises(QuantError, match=message):
        GRID.check_within(QType.parse(qtype), count)
