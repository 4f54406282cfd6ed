"""Which solver answers which problem.

Used by `allocate`, `pareto` and `reach`. One budget goes to the exact knapsack once pair costs are merged away;
several budgets, or groups too large to merge, go to the mixed-integer program.
"""

from __future__ import annotations

from dyadiq.allocation.knapsack import solve_knapsack
from dyadiq.allocation.merge import merge_pairs
from dyadiq.allocation.milp import solve_milp
from dyadiq.allocation.problem import Problem, Solution

__all__ = ["solve"]


def solve(problem: Problem) -> Solution | None:
    """Return an optimal choice with its bound, or None if no choice meets the limits.

    Example:
        >>> from dyadiq.allocation.problem import Constraint
        >>> size = Constraint("size", ((20, 40), (8, 16)), limit=50)
        >>> solve(Problem(("a", "b"), ((4, 8), (4, 8)), ((0.5, 0.0), (0.25, 0.0)), (size,))).choice
        (1, 0)
    """
    if len(problem.constraints) == 1:
        merged = merge_pairs(problem)
        if merged is not None:
            found = solve_knapsack(merged.problem)
            if found is None:
                return None
            choice = merged.expand(found.choice)
            objective = problem.objective(choice)
            bound = objective if found.lower_bound == found.objective else min(found.lower_bound, objective)
            return Solution(choice, objective, bound, found.method)
    return solve_milp(problem)
