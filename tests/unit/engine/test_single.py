"""Rescaling in single precision: equal to the dyadic one wherever it says so, value by value."""

import numpy as np
import pytest

from dyadiq.engine.plan import Finish
from dyadiq.engine.single import MAGIC, find_nearest, find_single, single_words
from dyadiq.engine.single import _nearest_multiple as nearest_multiple

LIMITS = [(0, 255), (-128, 127), (0, 15), (-500, 600), (-30000, 32767)]
oracle = pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="long double is too short to be an oracle here")


def dyadic(x, multiplier, shift):
    rounding = 1 << (int(shift) - 1) if shift else 0
    return (x * int(multiplier) + rounding) >> int(shift)


def in_single(x, single, c, rounded):
    """The multiply-add with one rounding: numpy's long double holds the exact sum (64 bits; here at most 50)."""
    moved = (x + single.before[c]).astype(np.float32).astype(np.longdouble)
    exact = moved * np.longdouble(single.scale[c]) + np.longdouble(single.offset[c])
    return rounded(exact).astype(np.float32).view(np.int32) - np.float32(MAGIC).view(np.int32)


@oracle
@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("bits", [1, 4, 8, 9, 16])
def test_accumulators_rounded_down_equal_dyadic_on_every_value(bits, limits):
    rng = np.random.default_rng(bits)
    for _ in range(8):
        multiplier = rng.integers(2 ** (bits - 1), 2**bits, 4)
        multiplier[0] = 0
        shift = bits + rng.integers(0, 9, 4)
        span, after = int(2 ** rng.integers(4, 18)), int(rng.integers(-200, 300))
        x = np.arange(-span, span + 1)
        found = find_single(multiplier, shift, (np.full(4, -span), np.full(4, span)), limits, after)
        assert found.scale.min() >= 0
        for c in range(4):
            expected = np.clip(dyadic(x, multiplier[c], shift[c]) + after, *limits)
            assert np.array_equal(np.clip(in_single(x, found, c, np.floor), *limits), expected)


@oracle
@pytest.mark.parametrize("bits", [1, 4, 8, 16])
def test_residuals_rounded_to_nearest_equal_dyadic_on_every_value(bits):
    rng = np.random.default_rng(bits)
    n_proven = 0
    for _ in range(20):
        multiplier = rng.integers(2 ** (bits - 1), 2**bits, 4)
        shift = bits + rng.integers(0, 16, 4)
        span = int(2 ** rng.integers(4, 10))
        x = np.arange(-span, span + 1)
        found = find_nearest(multiplier, shift, (np.full(4, -span), np.full(4, span)), (-128, 255))
        for c in range(4):
            if found is None or found.scale[c] < 0:
                continue
            n_proven += 1
            expected = np.clip(dyadic(x, multiplier[c], shift[c]), -128, 255)
            assert np.array_equal(np.clip(in_single(x, found, c, lambda v: v), -128, 255), expected)
    assert n_proven > (60 if bits == 16 else 5)


def test_ties_that_nearest_even_takes_down_have_no_proof():
    one, ends = np.array([1]), (np.array([-8]), np.array([8]))
    assert find_nearest(one, one, ends, (-4, 4)) is None  # 0.5 and 1.5 go up, and -0.5 and -1.5


@pytest.mark.parametrize(
    ("multiplier", "shift", "high", "after", "limits"),
    [
        (1, 26, 1 << 29, 0, (0, 255)),  # 2**25 is added to x
        (40001, 16, 1 << 24, 0, (0, 1 << 21)),  # results to 10 million
        ((1 << 24) + 1, 40, 1000, 0, (0, 255)),
        (3, 24, (1 << 29), 0, (0, 200)),  # clipped at 2**30 only, where singles are 64 apart
        (40001, 16, 100, 1 << 22, (0, 255)),
        (-1, 4, 100, 0, (0, 255)),
        (1, 3, 1 << 30, 0, (0, 255)),
    ],
)
def test_values_beyond_single_precision_have_no_proof(multiplier, shift, high, after, limits):
    ends = (np.array([0]), np.array([high]))
    assert find_single(np.array([multiplier]), np.array([shift]), ends, limits, after).scale[0] == -1


def test_signs_have_no_single():
    one = (np.array([40001]), np.array([20]))
    ends = (np.array([-1000]), np.array([1000]))
    assert single_words(one, ends, np.array([7]), Finish(0, -1, 1, sign=True), 0, None) is None
    assert single_words(one, ends, np.array([7]), Finish(0, 0, 255), 0, None)[0] != 7
    assert single_words(one, ends, np.array([7]), Finish(1 << 22, 0, 255), 0, None) is None


def test_the_nearest_number_with_a_multiple_in_a_range_is_found():
    rng = np.random.default_rng(0)
    for _ in range(300):
        size = 1 << int(rng.integers(0, 9))
        m, low = int(rng.integers(0, size)) | 1, int(rng.integers(0, size))
        high = int(rng.integers(low, size))
        near = sorted(range(-size, size), key=lambda c: (abs(c), -c))
        assert nearest_multiple(m, size, low, high) == next(c for c in near if low <= c * m % size <= high)
