"""Rescaling in single precision: equal to the dyadic one wherever it says so, value by value."""

import numpy as np
import pytest

from dyadiq.engine.plan import Finish
from dyadiq.engine.single import MAGIC, find_single, single_words

LIMITS = [(0, 255), (-128, 127), (0, 15), (-500, 600)]


def dyadic(x, multiplier, shift):
    rounding = 1 << (int(shift) - 1) if shift else 0
    return (x * int(multiplier) + rounding) >> int(shift)


def in_single(x, single, c):
    """The multiply-add with one rounding: numpy's long double holds the exact sum (64 bits; here at most 50)."""
    moved = (x + single.before[c]).astype(np.float32).astype(np.longdouble)
    exact = moved * np.longdouble(single.scale[c]) + np.longdouble(single.offset[c])
    return exact.astype(np.float32).view(np.int32) - np.float32(MAGIC).view(np.int32)


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="long double is too short to be an oracle here")
@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("bits", [1, 4, 8, 9, 16])
def test_single_equals_dyadic_on_every_value(bits, limits):
    rng = np.random.default_rng(bits)
    n_proven = 0
    for _ in range(20):
        multiplier = rng.integers(2 ** (bits - 1), 2**bits, 4)
        shift = bits + rng.integers(0, 16, 4)
        span, after = int(2 ** rng.integers(4, 18)), int(rng.integers(-200, 300))
        x = np.arange(-span, span + 1)
        found = find_single(multiplier, shift, (np.full(4, -span), np.full(4, span)), limits, after)
        for c in range(4):
            if found is None or found.scale[c] < 0:
                continue
            n_proven += 1
            expected = np.clip(dyadic(x, multiplier[c], shift[c]) + after, *limits)
            assert np.array_equal(np.clip(in_single(x, found, c), *limits), expected)
    assert n_proven > (60 if bits == 16 else 5)


def test_ties_go_up_where_the_line_may_turn():
    one, ends = np.array([1]), (np.array([-8]), np.array([8]))
    assert find_single(one, one, ends, (-4, 4), may_turn=False) is None  # 0.5 and 1.5 go up, and -0.5 and -1.5
    turned = find_single(one, one, ends, (-4, 4))
    x = np.arange(-8, 9)
    assert turned is not None
    assert turned.before[0] != 0
    assert in_single(x, turned, 0).tolist() == dyadic(x, 1, 1).tolist()


def test_values_beyond_single_precision_have_no_proof():
    ends = (np.array([0]), np.array([1 << 24]))
    assert find_single(np.array([40001]), np.array([16]), ends, (0, 255)) is None


def test_signs_have_no_single():
    one = (np.array([40001]), np.array([20]))
    ends = (np.array([-1000]), np.array([1000]))
    assert single_words(one, ends, np.array([7]), Finish(0, -1, 1, sign=True), 0, None) is None
    assert single_words(one, ends, np.array([7]), Finish(0, 0, 255), 0, None)[0] == 7
