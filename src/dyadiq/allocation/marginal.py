"""What one more kilobyte would buy: the price of a budget, a round step, and the least step that buys anything.

Used by `allocate`. The price is the multiplier of the linear relaxation, a rate that no single plan need have; both
steps are solved exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dyadiq.allocation.knapsack import Knapsack
from dyadiq.allocation.merge import merge_pairs
from dyadiq.allocation.problem import Choice, Problem
from dyadiq.allocation.relaxation import relax
from dyadiq.allocation.solve import solve
from dyadiq.core.plan import Marginal

__all__ = ["marginal_value"]

_KILOBYTE = 1000


def marginal_value(problem: Problem, choice: Choice, metric: str, unit: str) -> Marginal:
    """Return what more of one budget would buy, from an optimal choice.

    Example:
        >>> from dyadiq.allocation.problem import Constraint
        >>> size = Constraint("size", ((20, 40), (8, 16)), limit=50)
        >>> problem = Problem(("a", "b"), ((4, 8), (4, 8)), ((0.5, 0.0), (0.25, 0.0)), (size,))
        >>> found = marginal_value(problem, (1, 0), "size", "byte")
        >>> found.step, found.step_loss_delta, found.next_step, found.next_loss_delta, found.price
        (1, 0.0, 6, -0.25, 0.025)
    """
    (at,) = (i for i, c in enumerate(problem.constraints) if c.name == metric)
    constraint = problem.constraints[at]
    now = problem.objective(choice)
    step = _KILOBYTE if unit == "byte" and constraint.limit >= 10 * _KILOBYTE else max(1, constraint.limit // 100)
    merged = merge_pairs(problem)
    alone = len(problem.constraints) == 1 and merged is not None
    best: Callable[[int], float]
    if alone and merged is not None:
        knapsack = Knapsack(merged.problem)
        best = _by_knapsack(problem, knapsack, merged.expand)
        price = knapsack.price(constraint.limit)
    else:
        best = _by_solver(problem, at)
        price = relax(merged.problem).prices[at] if merged is not None else 0.0
    after = min(now, best(constraint.limit + step))
    next_step = _least_step(best, constraint.limit, now, _most(problem, at)) if alone else None
    gain = 0.0 if next_step is None else best(constraint.limit + next_step) - now
    return Marginal(metric, unit, price, step, after - now, next_step, gain)


def _by_knapsack(problem: Problem, knapsack: Knapsack, expand: Callable[[Choice], Choice]) -> Callable[[int], float]:
    def best(limit: int) -> float:
        found = knapsack.solve(limit)
        return float("inf") if found is None else problem.objective(expand(found.choice))

    return best


def _by_solver(problem: Problem, at: int) -> Callable[[int], float]:
    def best(limit: int) -> float:
        wider = tuple(replace(c, limit=limit) if i == at else c for i, c in enumerate(problem.constraints))
        found = solve(replace(problem, constraints=wider))
        return float("inf") if found is None else found.objective

    return best


def _most(problem: Problem, at: int) -> int:
    """Return a limit that no choice exceeds."""
    constraint = problem.constraints[at]
    return constraint.fixed + sum(map(max, constraint.unary)) + sum(max(map(max, p.table)) for p in constraint.pairs)


def _least_step(best: Callable[[int], float], limit: int, now: float, most: int) -> int | None:
    """Return the least amount more that lowers the optimal loss, by bisection; None if nothing does."""
    if most <= limit or best(most) >= now:
        return None
    low, high = limit, most  # best(low) == now, best(high) < now
    while high - low > 1:
        middle = (low + high) // 2
        if best(middle) < now:
            high = middle
        else:
            low = middle
    return high - limit
