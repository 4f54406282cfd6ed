"""Which solver answers which problem.

Used by `allocate`, `pareto` and `reach`. Pair costs are merged away where groups stay small. One budget goes to the
exact knapsack; several go to the mixed-integer program, over the options that reduced costs leave.
"""

from __future__ import annotations

from dyadiq.allocation.knapsack import solve_knapsack
from dyadiq.allocation.merge import Merged, merge_pairs
from dyadiq.allocation.milp import solve_milp
from dyadiq.allocation.parts import core_options, restrict
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
    merged = merge_pairs(problem)
    if merged is None or not problem.constraints:
        return solve_milp(problem)
    found = solve_knapsack(merged.problem) if len(problem.constraints) == 1 else _solve_core(merged)
    if found is None:
        return None
    choice = merged.expand(found.choice)
    objective = problem.objective(choice)
    bound = objective if found.lower_bound == found.objective else min(found.lower_bound, objective)
    return Solution(choice, objective, bound, found.method)


def _solve_core(merged: Merged) -> Solution | None:
    options = core_options(merged.problem)
    found = solve_milp(restrict(merged.problem, options))
    if found is None:
        return None
    choice = tuple(kept[o] for kept, o in zip(options, found.choice, strict=True))
    core = sum(len(kept) > 1 for kept in options)
    method = f"{found.method}; reduced costs leave {core} of {len(options)} decisions open"
    return Solution(choice, found.objective, found.lower_bound, method)
