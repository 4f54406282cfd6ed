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
    found = refine(problem, start, truth, max_rounds=12)
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
    assert found.n_accepted == len(truth.bases) - (0 if found.reason.startswith("12 rounds") else 1)


def test_pair_costs_are_respected():
    table = tuple(tuple(a * b for b in OPTIONS) for a in OPTIONS)
    problem, truth = problem_of(4, 90, (Pair(0, 1, table),)), Quadratic(4, 1)
    found = refine(problem, (0, 0, 0, 0), truth, max_rounds=8)
    assert problem.is_feasible(found.choice)
    assert found.after[0] < found.before[0]


def test_what_helps_only_the_proposing_samples_is_not_kept():
    problem = problem_of(2, 12)

    class Disagreeing:
        def __call__(self, bits):
            better = 1.0 if bits["d0"] == 4 else 0.0
            return np.where(np.arange(9) % 3 == 2, better, -better)  # Held back: every third sample.

        def rebase(self, bits): ...

    found = refine(problem, (0, 0), Disagreeing())
    assert found.choice == (0, 0)
    assert found.n_accepted == 0
    assert "did not lower the measured loss on both" in found.reason


def test_nothing_is_proposed_at_an_optimum():
    problem, truth = problem_of(2, 100), Quadratic(2, 0)
    found = refine(problem, (2, 2), truth)
    assert (found.choice, found.n_accepted) == ((2, 2), 0)
    assert found.reason.startswith("0 proposals in a row")


def test_weights_of_samples_count():
    problem = problem_of(1, 8)

    class Split:
        def __call__(self, bits):
            return np.array([1.0, 1.0, 1.0, -1.0, -1.0, -1.0]) * (bits["d0"] - 2)

        def rebase(self, bits): ...

    assert refine(problem, (0,), Split(), weights=[0.1] * 3 + [1.9] * 3, held_back=0.5).choice != (0,)
    assert refine(problem, (0,), Split(), weights=[1.9] * 3 + [0.1] * 3, held_back=0.5).choice == (0,)


def test_refining_is_refused_from_an_infeasible_start_without_samples_or_with_losses_that_are_not_finite():
    problem, truth = problem_of(3, 20), Quadratic(3, 0)
    with pytest.raises(ConfigError, match="the plan to start from does not meet the budget"):
        refine(problem, (2, 2, 2), truth)
    with pytest.raises(ConfigError, match=r"held_back is a share inside \(0, 1\), got 1.0"):
        refine(problem, (0, 0, 0), truth, held_back=1.0)
    with pytest.raises(DataError, match="2 samples are too few to hold some back"):
        refine(problem, (0, 0, 0), Quadratic(3, 0, n_samples=2))
    with pytest.raises(DataError, match="is NaN or infinite"):
        refine(problem, (0, 0, 0), Quadratic(3, 0, noise=np.nan))
