"""The front of cost against predicted loss along one metric, and the uniform plans beside it.

Used by `allocate` for the report. Other budgets play no part: the front is what the metric alone would allow.
Points: the corners of the lower convex hull, from one sort, and between them an exact solution for each limit on a
grid of costs. They are mutually non-dominated; labelled points (uniform, chosen) may lie above the front.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import replace

from dyadiq.allocation.knapsack import Knapsack
from dyadiq.allocation.merge import merge_pairs
from dyadiq.allocation.milp import solve_milp
from dyadiq.allocation.problem import Choice, Problem
from dyadiq.allocation.reach import smallest_total
from dyadiq.core.plan import ParetoPoint
from dyadiq.core.progress import NO_PROGRESS, Progress

__all__ = ["non_dominated", "pareto_front", "uniform_points"]


def pareto_front(problem: Problem, metric: str, n_points: int, progress: Progress = NO_PROGRESS) -> list[ParetoPoint]:
    """Return at most about ``n_points`` optimal plans, from the cheapest to the one of least loss, by rising cost.

    Args:
        problem: Its limits play no part.
        metric: Name of one of its constraints.
        n_points: Half of them may be corners of the hull (thinned evenly if there are more).
        progress: Told once per solved limit.

    Example:
        >>> from dyadiq.allocation.problem import Constraint
        >>> size = Constraint("size", ((20, 40), (8, 16)), limit=0)
        >>> problem = Problem(("a", "b"), ((4, 8), (4, 8)), ((0.5, 0.0), (0.25, 0.0)), (size,))
        >>> [(p.cost, p.objective) for p in pareto_front(problem, "size", 10)]
        [(28, 0.75), (36, 0.5), (48, 0.25), (56, 0.0)]
    """
    (constraint,) = (c for c in problem.constraints if c.name == metric)
    alone = replace(problem, constraints=(constraint,))
    merged = merge_pairs(alone)
    choices: list[tuple[Choice, float]] = []  # with their gaps
    knapsack = None if merged is None else Knapsack(merged.problem)
    if merged is not None and knapsack is not None:
        # On the hull the bound of the relaxation is met.
        choices = [(merged.expand(c), 0.0) for c in knapsack.corners(max(2, n_points // 2))]
    low = smallest_total(alone, constraint)
    high = constraint.total(tuple(row.index(min(row)) for row in alone.loss))
    n_limits = max(2, n_points - len(choices))
    limits = sorted({low + (high - low) * i // (n_limits - 1) for i in range(n_limits)})
    progress.start(f"front along {metric}", len(limits))
    for limit in limits:
        if merged is not None and knapsack is not None:
            found = knapsack.solve(limit)
            choices += [] if found is None else [(merged.expand(found.choice), found.objective - found.lower_bound)]
        else:
            found = solve_milp(replace(alone, constraints=(replace(constraint, limit=limit),)))
            choices += [] if found is None else [(found.choice, found.objective - found.lower_bound)]
        progress.advance()
    progress.finish()
    points = (
        ParetoPoint(constraint.total(c), problem.objective(c), problem.bits(c), gap=max(0.0, gap)) for c, gap in choices
    )
    return non_dominated(points)


def uniform_points(
    problem: Problem, metric: str, kinds: dict[str, str], weight_bits: Sequence[int], activation_bits: Sequence[int]
) -> list[ParetoPoint]:
    """Return the plans with one width for weights and one for activations, labelled ``uniform 4/8``.

    A decision that does not have the width takes the next wider one it has, or its only one.

    Args:
        problem: Its options, ascending.
        metric: Name of one of its constraints.
        kinds: Decision name to ``weight`` or ``activation``.
        weight_bits: Widths of weights.
        activation_bits: Widths of activations.
    """
    (constraint,) = (c for c in problem.constraints if c.name == metric)
    points = []
    for b_w in sorted(set(weight_bits)):
        for b_a in sorted(set(activation_bits)):
            wanted = {"weight": b_w, "activation": b_a}
            choice = tuple(
                bisect_left(options[:-1], wanted[kinds[name]])
                for name, options in zip(problem.names, problem.options, strict=True)
            )
            label = f"uniform {b_w}/{b_a}"
            points.append(ParetoPoint(constraint.total(choice), problem.objective(choice), problem.bits(choice), label))
    return points


def non_dominated(points: Iterable[ParetoPoint]) -> list[ParetoPoint]:
    """Return the points that no other matches in cost and beats in loss, or the reverse; by rising cost, each once.

    Example:
        >>> points = [ParetoPoint(2, 1.0, {}), ParetoPoint(1, 1.0, {}), ParetoPoint(3, 0.5, {})]
        >>> [(p.cost, p.objective) for p in non_dominated(points)]
        [(1, 1.0), (3, 0.5)]
    """
    front: list[ParetoPoint] = []
    for point in sorted(points, key=lambda p: (p.cost, p.objective)):
        if not front or point.objective < front[-1].objective:
            front.append(point)
    return front
