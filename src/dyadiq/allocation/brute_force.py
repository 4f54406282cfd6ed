"""Every choice, one by one: the oracle of the other solvers.

Public so that users can check a small plan themselves; far too slow for real networks.
"""

from __future__ import annotations

from itertools import product

from dyadiq.allocation.problem import Problem, Solution
from dyadiq.core.errors import ConfigError

__all__ = ["solve_brute_force"]

_MAX_CANDIDATES = 1_000_000


def solve_brute_force(problem: Problem) -> Solution | None:
    """Return the best feasible choice, or None if no choice is feasible.

    Of equal losses the smaller cost wins (constraints in order), then the fewer bits.

    Raises:
        ConfigError: More than a million choices.

    Example:
        >>> from dyadiq.allocation.problem import Constraint
        >>> size = Constraint("size", ((20, 40), (8, 16)), limit=50)
        >>> problem = Problem(("a", "b"), ((4, 8), (4, 8)), ((0.5, 0.0), (0.25, 0.0)), (size,))
        >>> solve_brute_force(problem).choice
        (1, 0)
    """
    if problem.n_candidates > _MAX_CANDIDATES:
        raise ConfigError(
            f"brute force over {problem.n_candidates:,} choices is out of reach; at most {_MAX_CANDIDATES:,}. "
            "Use solve_knapsack or solve_milp."
        )
    best = min(
        (
            (problem.objective(choice), tuple(c.total(choice) for c in problem.constraints), choice)
            for choice in product(*(range(len(o)) for o in problem.options))
            if problem.is_feasible(choice)
        ),
        default=None,
    )
    if best is None:
        return None
    return Solution(best[2], best[0], best[0], f"brute force over {problem.n_candidates:,} choices")
