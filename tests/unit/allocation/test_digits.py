"""Digits of single weights against enumeration of all choices."""

import itertools

import numpy as np
import pytest

from dyadiq.allocation.digits import allocate_digits
from dyadiq.core.errors import ConfigError


def instance(seed, options=4, weights=4):
    rng = np.random.default_rng(seed)
    errors = np.sort(rng.exponential(size=(options, weights)), axis=0)[::-1] * 10.0 ** rng.integers(-9, 9)
    return errors, rng.integers(1, 6, size=weights).astype(float)


def optimum(errors, cost, budget):
    choices = itertools.product(range(len(errors)), repeat=errors.shape[1])
    columns = np.arange(errors.shape[1])
    return min(errors[list(n), columns].sum() for n in choices if (np.array(n) * cost).sum() <= budget)


@pytest.mark.parametrize("seed", range(12))
def test_choice_is_within_one_weight_of_the_optimum_and_its_bound_holds(seed):
    errors, cost = instance(seed)
    for budget in (0.0, 3.0, 8.0, 17.5, 100.0):
        choice = allocate_digits(errors, cost, budget)
        best = optimum(errors, cost, budget)
        assert choice.cost == (choice.digits * cost).sum() <= budget
        assert choice.error == errors[choice.digits, np.arange(len(cost))].sum()
        slack = 1e-9 * errors.max()  # of float64 sums
        assert choice.bound - slack <= best <= choice.error + slack
        assert choice.error - choice.bound <= errors[0].max() + slack


def test_fewest_digits_are_taken_when_the_budget_does_not_bind():
    choice = allocate_digits(np.array([[4.0, 1.0], [1.0, 1.0], [1.0, 0.5]]), np.ones(2), 1e9)
    assert choice.digits.tolist() == [1, 2]
    assert choice.bound == choice.error == 1.5


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1.0, 1e200])
def test_choice_does_not_depend_on_the_unit_of_errors(scale):
    errors, cost = instance(3, weights=50)
    wanted = allocate_digits(errors, cost, 60.0).digits
    assert allocate_digits(errors * scale, cost, 60.0).digits.tolist() == wanted.tolist()


def test_larger_budget_is_never_worse():
    errors, cost = instance(5, weights=200)
    found = [allocate_digits(errors, cost, budget).error for budget in np.linspace(0, 900, 40)]
    assert found == sorted(found, reverse=True)


def test_shapes_and_budgets_without_meaning_are_refused():
    with pytest.raises(ConfigError, match=r"digits: errors \[2, 3\] do not fit costs \[2\]\."):
        allocate_digits(np.zeros((2, 3)), np.ones(2), 1.0)
    for budget in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match=r"digits: the budget must not be negative, got"):
            allocate_digits(np.zeros((2, 2)), np.ones(2), budget)
