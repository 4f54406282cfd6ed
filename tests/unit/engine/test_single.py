"""Rescaling in single precision: equal to the dyadic one wherever it says so, value by value."""

import numpy as np
import pytest

from dyadiq.engine.plan import Finish
from dyadiq.engine.single import MAGIC, find_single, single_words

LIMITS = [(0, 255), (-128, 127), (0, 15), (-500, 600)]


def dyadic(x, multiplier, shift):
    rounding = 1 << (int(shift) - 1) if shift else 0
    return (x * int(multiplier) + rounding) >> int(shift)


def in_single(x, scale, offset):
    """The multiply-add with one rounding: numpy's long double holds the exact sum (64 bits; here at most 50)."""
    exact = x.astype(np.float32).astype(np.longdouble) * np.longdouble(scale) + np.longdouble(offset)
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
            assert np.array_equal(np.clip(in_single(x, found.scale[c], found.offset[c]), *limits), expected)
    assert n_proven > (60 if bits == 16 else 5)


def test_ties_that_would_go_the_wrong_way_have_no_proof():
    ends = (np.array([-8]), np.array([8]))
    assert find_single(np.array([1]), np.array([1]), ends, (-4, 4)) is None  # 0.5 is 1, 1.5 is 2, -0.5 is 0, -1.5 is -1
    positive = find_single(np.array([1]), np.array([1]), (np.array([0]), np.array([8])), (-4, 4))
    assert positive is not None
    assert in_single(np.arange(6), positive.scale[0], positive.offset[0]).tolist() == [0, 1, 1, 2, 2, 3]


def test_values_beyond_single_precision_have_no_proof():
    ends = (np.array([0]), np.array([1 << 24]))
    assert find_single(np.array([40001]), np.array([16]), ends, (0, 255)) is None


def test_signs_have_no_single():
    one = (np.array([40001]), np.array([20]))
    ends = (np.array([-1000]), np.array([1000]))
    assert single_words(one, ends, Finish(0, -1, 1, sign=True), 0, None) is None
    assert single_words(one, ends, Finish(0, 0, 255), 0, None).shape == (2, 1)
