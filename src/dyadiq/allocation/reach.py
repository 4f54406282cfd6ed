"""What can be reached at all: the smallest cost of a metric, and which budgets contradict each other.

Used by `allocate` to explain a budget that no plan meets. Exact, in integers.
"""

from __future__ import annotations

from dataclasses import replace

from dyadiq.allocation.local import cheapest_choice
from dyadiq.allocation.problem import Constraint, Problem
from dyadiq.allocation.solve import solve

__all__ = ["contradiction", "corner", "smallest_total"]

_CORNER_FRAC = 0.005


def smallest_total(problem: Problem, constraint: Constraint) -> int:
    """Return the smallest total of one cost over all choices, other budgets ignored.

    Where every cost is smallest at the same options (as with bits), those options are the proof; otherwise the least
    limit that some choice meets is found by bisection.

    Example:
        >>> size = Constraint("size", ((20, 40), (8, 16)), limit=0, fixed=5)
        >>> smallest_total(Problem(("a", "b"), ((4, 8), (4, 8)), ((0.5, 0.0), (0.25, 0.0)), (size,)), size)
        33
    """
    alone = replace(problem, constraints=(constraint,))
    floor = constraint.fixed + sum(map(min, constraint.unary)) + sum(min(map(min, p.table)) for p in constraint.pairs)
    total = constraint.total(cheapest_choice(alone))
    if total == floor:
        return total
    low, high = floor, total
    while low < high:
        middle = (low + high) // 2
        if solve(replace(alone, constraints=(replace(constraint, limit=middle),))) is None:
            low = middle + 1
        else:
            high = middle
    return low


def contradiction(problem: Problem) -> tuple[str, ...]:
    """Return metrics whose budgets no choice meets together, and none of which can be left out.

    The problem as a whole must be infeasible.
    """
    kept = list(problem.constraints)
    for constraint in problem.constraints:
        fewer = [c for c in kept if c is not constraint]
        if fewer and solve(replace(problem, constraints=tuple(fewer))) is None:
            kept = fewer
    return tuple(c.name for c in kept)


def corner(problem: Problem, constraint: Constraint) -> int | None:
    """Return a total of one cost that some choice reaches within the limits of the others, close to the smallest.

    Within half a percent of it; None if no choice meets the other limits.

    Example:
        >>> size = Constraint("size", ((20, 40), (8, 16)), limit=28)
        >>> time = Constraint("time", ((9, 5), (9, 5)), limit=10)
        >>> problem = Problem(("a", "b"), ((4, 8), (4, 8)), ((0.5, 0.0), (0.25, 0.0)), (size, time))
        >>> corner(problem, size), corner(problem, time)
        (56, 18)
    """
    others = tuple(c for c in problem.constraints if c is not constraint)

    def reach(limit: int) -> int | None:
        found = solve(replace(problem, constraints=(*others, replace(constraint, limit=limit))))
        return None if found is None else constraint.total(found.choice)

    low = smallest_total(problem, constraint)
    high = reach(
        constraint.fixed + sum(map(max, constraint.unary)) + sum(max(map(max, p.table)) for p in constraint.pairs)
    )
    while high is not None and high - low > _CORNER_FRAC * high:
        middle = (low + high) // 2
        found = reach(middle)
        low, high = (middle + 1, high) if found is None else (low, found)
    return high
