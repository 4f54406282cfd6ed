"""One budget, proven optimal: the multiple-choice knapsack problem, prepared once for any number of limits.

Used by `solve`, the front, k best plans and everything else that asks for many optima; pair costs are merged away
before (`merge_pairs`). The work is done by native code (native/allocation/knapsack.cpp, which explains the method) or,
where that is not built, by `knapsack_numpy`; both give the same plans.

Costs are exact integers: above each decision's cheapest, in units of their gcd, so that they fit an int64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.allocation.knapsack_numpy import NumpyKnapsack
from dyadiq.allocation.native import native_module
from dyadiq.allocation.problem import Choice, Problem, Solution
from dyadiq.core.errors import ConfigError

__all__ = ["Knapsack", "solve_knapsack", "supported_choices"]

_MAX_LABELS = 1_000_000
_MAX_TOTAL = 2**62


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
        self._core: Any = self._make(self._offsets, self._cost, loss)

    def solve(self, limit: int | None = None) -> Solution | None:
        """Return an optimal choice within the limit (None: the problem's own), or None if nothing fits.

        The lower bound equals the objective (optimality is proven) unless more than a million labels were needed; then
        it is what those that were given up could have reached at best, and the method says so.
        """
        answer = self._answer(limit)
        if answer is None:
            return None
        choice = tuple(answer.choice)
        objective = self._problem.objective(choice)
        if answer.unconstrained:
            return Solution(choice, objective, objective, "every decision at its least loss")
        core = f"knapsack ({self._name}): relaxation, then labels over a core of {answer.core} decisions"
        if answer.proven:
            return Solution(choice, objective, objective, f"{core}; exact")
        method = f"{core}; the proof needs more than {_MAX_LABELS:,} labels at once"
        return Solution(choice, objective, objective - answer.slack, method)

    def choice(self, loss: NDArray[np.float64]) -> Choice | None:
        """Return an optimal choice within the problem's limit for other losses, all options in order, flat."""
        capacity = self._capacity(None)
        if capacity < 0:
            return None
        return tuple(self._make(self._offsets, self._cost, loss).solve(capacity, _MAX_LABELS).choice)

    def price(self, limit: int | None = None) -> float:
        """Return the multiplier of the relaxation at a limit: loss saved per unit of cost; 0 where nothing binds."""
        answer = self._answer(limit)
        return 0.0 if answer is None else answer.multiplier / self._unit

    def corners(self, most: int | None = None) -> list[Choice]:
        """Return the choices on the lower convex hull of (cost, loss), cheapest first; limits play no part.

        All of them, or ``most`` (at least 2) evenly chosen ones, the first and the last among them.
        """
        return [tuple(choice) for choice in self._core.corners(_MAX_TOTAL if most is None else most)]

    def _answer(self, limit: int | None) -> Any:
        capacity = self._capacity(limit)
        return None if capacity < 0 else self._core.solve(capacity, _MAX_LABELS)

    def _capacity(self, limit: int | None) -> int:
        room = (self._problem.constraints[0].limit if limit is None else limit) - self._floor
        return min(room // self._unit, _MAX_TOTAL)


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
