"""One budget, proven optimal: the multiple-choice knapsack problem, prepared once for any number of limits.

Used by `solve`, the front, k best plans and everything else that asks for many optima; pair costs are merged away
before (`merge_pairs`). The work is done by native code (native/allocation/knapsack.cpp, which explains the method) or,
where that is not built, by `knapsack_numpy`; both give the same plans.

Where one decision outweighs the others, the relaxation is far from any plan and labels are many: then each of its
options is solved on its own.

Costs are exact integers: above each decision's cheapest, in units of their gcd, so that they fit an int64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.allocation.knapsack_numpy import NumpyKnapsack
from dyadiq.allocation.problem import Choice, Problem, Solution
from dyadiq.core.errors import ConfigError
from dyadiq.core.native import native_module

__all__ = ["Knapsack", "solve_knapsack", "supported_choices"]

_MAX_LABELS = 1_000_000
_FEW_LABELS = 10_000  # beyond this it is cheaper to branch on the decision whose options differ most in cost
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
        return 0.0 if capacity < 0 else self._core.solve(capacity, 1).multiplier / self._unit

    def corners(self, most: int | None = None) -> list[Choice]:
        """Return the choices on the lower convex hull of (cost, loss), cheapest first; limits play no part.

        All of them, or ``most`` (at least 2) evenly chosen ones, the first and the last among them.
        """
        return [tuple(choice) for choice in self._core.corners(_MAX_TOTAL if most is None else most)]

    def _solve(self, core: Any, loss: NDArray[np.float64], capacity: int) -> _Found:
        answer = core.solve(capacity, _FEW_LABELS)
        if answer.proven:
            return _Found(tuple(answer.choice), answer.core, unconstrained=answer.unconstrained)
        bounds = self._offsets.tolist()
        found = self._branch([list(range(a, b)) for a, b in pairwise(bounds)], loss, capacity, _BRANCHINGS)
        assert found is not None  # the capacity holds the cheapest choice
        return replace(found, choice=tuple(o - a for o, a in zip(found.choice, bounds, strict=False)))

    def _branch(
        self, kept: list[list[int]], loss: NDArray[np.float64], capacity: int, branchings: int
    ) -> _Found | None:
        """Solve over the kept options, as flat indices: at once, or per option of the decision that matters most."""
        if sum(int(self._cost[row].min()) for row in kept) > capacity:
            return None
        flat = np.concatenate([np.array(row, dtype=np.int64) for row in kept])
        offsets = np.cumsum([0, *map(len, kept)], dtype=np.int64)
        core = self._make(offsets, self._cost[flat], loss[flat])
        answer = core.solve(capacity, _FEW_LABELS if branchings else _MAX_LABELS)
        if answer.proven or not branchings:
            choice = tuple(row[o] for row, o in zip(kept, answer.choice, strict=True))
            return _Found(choice, answer.core, 0.0 if answer.proven else answer.slack)
        widest = max(range(len(kept)), key=lambda d: int(np.ptp(self._cost[kept[d]])))
        parts = [
            part
            for option in kept[widest]
            if (part := self._branch([*kept[:widest], [option], *kept[widest + 1 :]], loss, capacity, branchings - 1))
        ]
        losses = [math.fsum(loss[list(part.choice)].tolist()) for part in parts]
        best = min(range(len(parts)), key=lambda i: (losses[i], int(self._cost[list(parts[i].choice)].sum())))
        bound = min(value - part.slack for value, part in zip(losses, parts, strict=True))
        return _Found(
            parts[best].choice,
            max(part.core for part in parts),
            max(0.0, losses[best] - bound) if any(part.slack for part in parts) else 0.0,
            branches=sum(part.branches for part in parts),
        )

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
