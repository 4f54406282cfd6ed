"""One budget, proven optimal: the multiple-choice knapsack problem, prepared once for any number of limits.

Used by `solve`, the front, k best plans and everything else that asks for many optima; pair costs are merged away
before (`merge_pairs`). The work is done by native code (native/allocation/knapsack.hpp, which explains the method) or,
where that is not built, by `knapsack_numpy`; both give the same plans.

Where one decision outweighs the others, the relaxation is far from any plan and labels are many: then its options are
solved one by one, the most promising first, until the relaxation of the rest is no better than the best plan.

Costs are exact integers: above each decision's cheapest, in units of their gcd, so that they fit an int64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.allocation.knapsack_numpy import NumpyKnapsack
from dyadiq.allocation.problem import Choice, Problem, Solution
from dyadiq.core.errors import ConfigError
from dyadiq.core.native import native_module

__all__ = ["Knapsack", "solve_knapsack", "supported_choices"]

_MAX_LABELS = 1_000_000
_FEW_LABELS = 1_000  # beyond this it is cheaper to branch on the decision whose options differ most in cost
_BRANCHINGS = 4  # in a row; after that labels up to the limit
_MAX_TOTAL = 2**62


@dataclass(frozen=True, slots=True)
class _Found:
    """A choice; no other has a loss more than ``slack`` below it."""

    choice: Choice
    core: int
    slack: float = 0.0
    unconstrained: bool = False
    branches: int = 1


class Knapsack:
    """A problem with one budget and no pair costs, sorted once; `solve` answers for any limit.

    Args:
        problem: One constraint, no pair costs.
        native: Use native code; None: where it is built.

    Raises:
        ConfigError: Not exactly one constraint, pair costs, or totals beyond 2^62.

    Example:
        >>> from dyadiq.allocation.problem import Constraint
        >>> size = Constraint("size", ((20, 40), (8, 16)), limit=50)
        >>> knapsack = Knapsack(Problem(("a", "b"), ((4, 8), (4, 8)), ((0.5, 0.0), (0.25, 0.0)), (size,)))
        >>> knapsack.solve().choice, knapsack.solve(36).choice, knapsack.solve(20), knapsack.price(36)
        ((1, 0), (0, 1), None, 0.025)
    """

    def __init__(self, problem: Problem, *, native: bool | None = None) -> None:
        if len(problem.constraints) != 1 or problem.constraints[0].pairs:
            raise ConfigError(
                f"solve_knapsack takes one budget without pair costs, got {len(problem.constraints)} with "
                f"{sum(len(c.pairs) for c in problem.constraints)} pairs. Use merge_pairs first, or solve_milp."
            )
        self._problem = problem
        constraint = problem.constraints[0]
        cheapest = [min(row) for row in constraint.unary]
        above = [value - low for row, low in zip(constraint.unary, cheapest, strict=True) for value in row]
        self._unit = math.gcd(*above) or 1
        if sum(max(row) - low for row, low in zip(constraint.unary, cheapest, strict=True)) // self._unit > _MAX_TOTAL:
            raise ConfigError(f"cost {constraint.name!r}: totals exceed 2^62; use a coarser unit.")
        self._floor = constraint.fixed + sum(cheapest)
        self._offsets = np.cumsum([0, *map(len, problem.loss)], dtype=np.int64)
        self._cost = np.array([v // self._unit for v in above], dtype=np.int64)
        loss = np.array([v for row in problem.loss for v in row], dtype=np.float64)
        module = native_module() if native is not False else None
        self._make: Any = module.Knapsack if module else NumpyKnapsack
        self._name = "native" if module else "numpy"
        self._loss = loss
        self._core: Any = self._make(self._offsets, self._cost, loss)

    def solve(self, limit: int | None = None) -> Solution | None:
        """Return an optimal choice within the limit (None: the problem's own), or None if nothing fits.

        The lower bound equals the objective (optimality is proven) unless more than a million labels were needed; then
        it is what those that were given up could have reached at best, and the method says so.
        """
        capacity = self._capacity(limit)
        if capacity < 0:
            return None
        found = self._solve(self._core, self._loss, capacity)
        objective = self._problem.objective(found.choice)
        if found.unconstrained:
            return Solution(found.choice, objective, objective, "every decision at its least loss")
        branches = f"{found.branches} branches, " if found.branches > 1 else ""
        core = f"knapsack ({self._name}): {branches}relaxation, then labels over a core of {found.core} decisions"
        if found.slack == 0.0:
            return Solution(found.choice, objective, objective, f"{core}; exact")
        method = f"{core}; the proof needs more than {_MAX_LABELS:,} labels at once"
        return Solution(found.choice, objective, objective - found.slack, method)

    def choice(self, loss: NDArray[np.float64]) -> Choice | None:
        """Return an optimal choice within the problem's limit for other losses, all options in order, flat."""
        capacity = self._capacity(None)
        if capacity < 0:
            return None
        return self._solve(self._make(self._offsets, self._cost, loss), loss, capacity).choice

    def price(self, limit: int | None = None) -> float:
        """Return the multiplier of the relaxation at a limit: loss saved per unit of cost; 0 where nothing binds."""
        capacity = self._capacity(limit)
        return 0.0 if capacity < 0 else self._core.solve(capacity, 1, False, [], math.inf).multiplier / self._unit

    def corners(self, most: int | None = None) -> list[Choice]:
        """Return the choices on the lower convex hull of (cost, loss), cheapest first; limits play no part.

        All of them, or ``most`` (at least 2) evenly chosen ones, the first and the last among them.
        """
        return [tuple(choice) for choice in self._core.corners(_MAX_TOTAL if most is None else most)]

    def _solve(self, core: Any, loss: NDArray[np.float64], capacity: int) -> _Found:
        answer = core.solve(capacity, _FEW_LABELS, False, [], math.inf)
        if answer.proven:
            return _Found(tuple(answer.choice), answer.core, unconstrained=answer.unconstrained)
        search = _Branches(core, capacity, self._cost, loss, self._offsets)
        search.take(answer)
        search.split(answer, [])
        return search.found()

    def _capacity(self, limit: int | None) -> int:
        room = (self._problem.constraints[0].limit if limit is None else limit) - self._floor
        return min(room // self._unit, _MAX_TOTAL)


class _Branches:
    """Branch and bound over the options of few decisions; the core solves each part, told the best loss so far."""

    def __init__(
        self, core: Any, capacity: int, cost: NDArray[np.int64], loss: NDArray[np.float64], offsets: NDArray[np.int64]
    ) -> None:
        self._core, self._capacity, self._cost, self._loss, self._starts = core, capacity, cost, loss, offsets[:-1]
        self._best: tuple[float, int, Choice] | None = None
        self._above = self._lowest = math.inf  # the least loss found, counted like the core's; the least bound given up
        self._n_branches = self._n_core = 0

    def take(self, answer: Any) -> float:
        """Keep the better of the known choice and an answer's; return the answer's loss."""
        at = self._starts + np.array(answer.choice, dtype=np.int64)
        ranked = (math.fsum(self._loss[at].tolist()), int(self._cost[at].sum()), tuple(answer.choice))
        if self._best is None or ranked[:2] < self._best[:2]:
            self._best = ranked
        self._above = min(self._above, answer.above)
        self._n_core = max(self._n_core, answer.core)
        return ranked[0]

    def split(self, answer: Any, fixed: list[tuple[int, int]]) -> None:
        """Solve per option of the decision that a stopped answer names as widest."""
        parts = [[*fixed, (answer.widest, position)] for position in range(answer.positions)]
        bounds = [self._core.bound(self._capacity, part) for part in parts]
        last = len(fixed) + 1 >= _BRANCHINGS
        for i in sorted(range(len(parts)), key=bounds.__getitem__):
            if bounds[i] > self._above:  # also where nothing fits
                break
            self._n_branches += 1
            limit = _MAX_LABELS if last else _FEW_LABELS
            found = self._core.solve(self._capacity, limit, last, parts[i], self._above)
            loss = self.take(found)
            if not found.proven and last:
                self._lowest = min(self._lowest, loss - found.slack)
            elif not found.proven:
                self.split(found, parts[i])

    def found(self) -> _Found:
        assert self._best is not None
        return _Found(self._best[2], self._n_core, max(0.0, self._best[0] - self._lowest), branches=self._n_branches)


def solve_knapsack(problem: Problem) -> Solution | None:
    """Return an optimal choice under one budget, or None if nothing fits; see `Knapsack.solve`.

    Raises:
        ConfigError: Not exactly one constraint, pair costs, or totals beyond 2^62.

    Example:
        >>> from dyadiq.allocation.problem import Constraint
        >>> size = Constraint("size", ((20, 40), (8, 16)), limit=50)
        >>> problem = Problem(("a", "b"), ((4, 8), (4, 8)), ((0.5, 0.0), (0.25, 0.0)), (size,))
        >>> solve_knapsack(problem).choice
        (1, 0)
    """
    return Knapsack(problem).solve()


def supported_choices(problem: Problem) -> list[Choice]:
    """Return every choice on the lower convex hull of (cost, loss), cheapest first; limits play no part.

    Raises:
        ConfigError: Not exactly one constraint, pair costs, or totals beyond 2^62.
    """
    return Knapsack(problem).corners()
