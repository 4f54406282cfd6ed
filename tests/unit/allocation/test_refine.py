import itertools

import numpy as np
import pytest

from dyadiq.allocation import Constraint, Pair, Problem
from dyadiq.allocation.refine import refine
from dyadiq.core.errors import ConfigError, DataError

OPTIONS = (2, 4, 8)


class Quadratic:
    """A loss with interactions, which no table of single decisions knows; samples differ by noise."""

    def __init__(self, n, seed, n_samples=60, noise=0.0):
        rng = np.random.default_rng(seed)
        self.u = np.abs(rng.normal(size=(n, 4))) * 2.0 ** rng.integers(-2, 3, size=(n, 1))
        self.noise = noise * rng.normal(size=(n, len(OPTIONS), n_samples))
        self.names = [f"d{i}" for i in range(n)]
        self.n_samples, self.bases = n_samples, []

    def __call__(self, bits):
        step = np.array([2.0 ** -bits[name] for name in self.names])
        value = np.square(step @ self.u).sum()
        own = sum(self.noise[i, OPTIONS.index(bits[name])] for i, name in enumerate(self.names))
        return value * np.ones(self.n_samples) + own

    def rebase(self, bits):
        self.bases.append(dict(bits))


def problem_of(n, limit, pairs=()):
    size = Constraint("size", tuple(tuple(o * (1 + d % 3) for o in OPTIONS) for d in range(n)), limit, pairs)
    return Problem(tuple(f"d{i}" for i in range(n)), (OPTIONS,) * n, ((0.0,) * 3,) * n, (size,))


@pytest.mark.parametrize("seed", range(5))
def test_refined_plan_is_feasible_never_worse_and_near_the_best_of_all(seed):
    problem, truth = problem_of(6, 50), Quadratic(6, seed)
    start = (0,) * 6
    found = refine(problem, [start], truth, Quadratic(6, seed), max_rounds=12)
    best = min(
        truth(problem.bits(choice)).mean()
        for choice in itertools.product(range(3), repeat=6)
        if problem.is_feasible(choice)
    )
    assert problem.is_feasible(found.choice)
    assert found.before == pytest.approx([truth(problem.bits(start)).mean()] * 2)
    assert found.after == pytest.approx([truth(problem.bits(found.choice)).mean()] * 2)
    assert found.after[0] <= found.before[0]
    assert found.after[0] <= 1.1 * best


def test_best_of_the_starts_is_the_base_and_the_first_is_what_is_compared_with():
    problem, truth = problem_of(4, 60), Quadratic(4, 3)
    poor, good = (0, 0, 0, 0), (1, 1, 1, 1)
    found = refine(problem, [poor, good], truth, max_rounds=1)
    assert truth.bases[0] == problem.bits(good)
    assert found.before[0] == pytest.approx(truth(problem.bits(poor)).mean())
    assert found.after[0] <= truth(problem.bits(good)).mean()


def test_pair_costs_are_respected():
    table = tuple(tuple(a * b for b in OPTIONS) for a in OPTIONS)
    problem, truth = problem_of(4, 90, (Pair(0, 1, table),)), Quadratic(4, 1)
    found = refine(problem, [(0, 0, 0, 0)], truth, max_rounds=8)
    assert problem.is_feasible(found.choice)
    assert found.after[0] < found.before[0]


class Paired:
    """A plan with d0 at 4 bits is better by 0.1 on average; samples differ by much more, in the change or not in it."""

    def __init__(self, spread):
        self.change = -0.1 + spread * np.array([-1.0, 1.0] * 8)
        self.level = np.arange(16.0)

    def __call__(self, bits):
        return self.level + (self.change if bits["d0"] == 4 else 0.0)

    def rebase(self, bits): ...


@pytest.mark.parametrize(("spread", "kept"), [(0.0, True), (0.3, True), (0.6, False)])
def test_a_proposal_is_kept_by_its_paired_differences_not_by_how_much_samples_differ(spread, kept):
    found = refine(problem_of(2, 8), [(0, 0)], Paired(spread))
    assert (found.choice == (1, 0)) is kept
    assert found.n_accepted == int(kept)


def test_what_the_guard_finds_worse_is_not_taken():
    problem, truth = problem_of(2, 24), Quadratic(2, 0)

    class Opposite(Quadratic):
        def __call__(self, bits):
            return -super().__call__(bits)

    found = refine(problem, [(0, 0)], truth, Opposite(2, 0))
    assert found.choice == (0, 0)
    assert found.after == found.before
    assert "the first start was kept" in found.reason


@pytest.mark.parametrize(("spread", "taken"), [(0.3, True), (0.6, False)])
def test_what_the_guard_finds_better_by_less_than_a_standard_error_is_not_taken(spread, taken):
    found = refine(problem_of(2, 8), [(0, 0)], Paired(0.0), Paired(spread))
    assert (found.choice == (1, 0), found.n_accepted) == (taken, 1)
    assert ("not better than the first start (7.5) by 1 standard errors" in found.reason) is not taken


def test_nothing_is_proposed_at_an_optimum_and_no_guard_gives_no_number():
    problem, truth = problem_of(2, 100), Quadratic(2, 0)
    found = refine(problem, [(2, 2)], truth)
    assert (found.choice, found.n_accepted) == ((2, 2), 0)
    assert found.reason.startswith("0 proposals in a row")
    assert np.isnan([found.before[1], found.after[1]]).all()


def test_refining_is_refused_without_a_feasible_start_or_samples_or_with_losses_that_are_not_finite():
    problem, truth = problem_of(3, 20), Quadratic(3, 0)
    with pytest.raises(ConfigError, match="no plan to start from"):
        refine(problem, [], truth)
    with pytest.raises(ConfigError, match="the plan to start from does not meet the budget"):
        refine(problem, [(0, 0, 0), (2, 2, 2)], truth)
    with pytest.raises(ConfigError, match="significance counts standard errors and is not negative, got -1"):
        refine(problem, [(0, 0, 0)], truth, significance=-1.0)
    with pytest.raises(DataError, match="at least 2 samples, got 1"):
        refine(problem, [(0, 0, 0)], Quadratic(3, 0, n_samples=1))
    with pytest.raises(DataError, match="is NaN or infinite"):
        refine(problem, [(0, 0, 0)], Quadratic(3, 0, noise=np.nan))


def test_of_two_moves_that_promise_alike_the_surer_one_is_tried_first():
    class Noisy:
        """Either decision at 4 bits lowers the loss by 1; samples differ about d0 alone."""

        def __call__(self, bits):
            noise = 3.0 * np.array([-1.0, 1.0] * 32)
            return 10.0 - (bits["d0"] == 4) * (1.01 + noise) - 1.0 * (bits["d1"] == 4)

        def rebase(self, bits): ...

    cost = Constraint("size", ((0, 1, 9), (0, 1, 9)), 1)
    problem = Problem(("d0", "d1"), (OPTIONS,) * 2, ((0.0,) * 3,) * 2, (cost,))
    found = refine(problem, [(0, 0)], Noisy(), significance=0.0, max_rounds=1)
    assert found.choice == (1, 0)  # promises most, and no price is put on it first
    careful = refine(problem, [(0, 0)], Noisy(), significance=3.0, max_rounds=1)
    assert careful.choice == (0, 1)
