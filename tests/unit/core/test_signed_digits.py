"""Signed digits against the slow truth: every way to write a number, every code with few enough digits."""

from itertools import pairwise

import numpy as np
import pytest

from dyadiq.core.errors import QuantError
from dyadiq.core.signed_digits import MAX_DIGITS, count_digits, digit_grids, nearest_codes


def fewest_terms(largest):
    """Return the fewest signed powers of two that add up to each number, by trying all sums of 0, 1, 2, ... terms."""
    terms = [sign << power for power in range(largest.bit_length() + 1) for sign in (1, -1)]
    fewest, sums = {0: 0}, {0}
    while not all(n in fewest for n in range(-largest, largest + 1)):
        sums = {s + t for s in sums for t in terms}
        number = max(fewest.values()) + 1
        fewest |= {s: number for s in sums if s not in fewest}
    return fewest


def test_digits_are_the_fewest_of_all_representations():
    fewest = fewest_terms(255)
    numbers = np.arange(-255, 256)
    assert count_digits(numbers).tolist() == [fewest[n] for n in numbers.tolist()]


def test_no_code_of_the_widest_format_has_more_digits():
    assert count_digits(np.arange(-(2**16) + 1, 2**16)).max() == MAX_DIGITS


def test_digits_have_the_shape_of_the_codes():
    codes = np.arange(-6, 6).reshape(2, 3, 2)
    assert np.array_equal(count_digits(codes), np.vectorize(lambda n: int(count_digits(n)))(codes))
    assert np.array_equal(count_digits(codes.T), count_digits(codes).T)
    assert count_digits(np.zeros((0, 3))).shape == (0, 3)
    assert count_digits(7) == 2


@pytest.mark.parametrize(("low", "high"), [(-8, 7), (-15, 15), (0, 15), (-1, 1), (0, 0), (0, 1)])
def test_nearest_code_is_that_of_a_search_through_all(low, high):
    fewest = fewest_terms(16)
    ratios = np.arange(4 * (low - 2), 4 * (high + 2) + 1) / 4  # ties between all neighbours are among them
    for limit in range(5):
        legal = [c for c in range(low, high + 1) if fewest[c] <= limit]
        wanted = [min(legal, key=lambda c: (abs(c - r), -c)) for r in ratios]
        assert nearest_codes(ratios, limit, low, high).tolist() == wanted


def test_limits_are_those_of_each_weight():
    assert nearest_codes([[11.0, 11.0], [11.0, -11.0]], [[0, 1], [2, 9]], -127, 127).tolist() == [[0, 8], [12, -11]]


def test_grids_end_with_all_codes():
    grids = digit_grids(-127, 127)
    assert len(grids[-1]) == 255
    assert all(set(small) < set(large) for small, large in pairwise(grids))


def test_codes_without_zero_are_refused():
    with pytest.raises(QuantError, match="codes from 1 to 15 do not hold 0; digits can be limited only where 0 is"):
        nearest_codes([3.0], [1], 1, 15)
