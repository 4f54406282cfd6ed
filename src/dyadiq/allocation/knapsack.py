"""One budget, proven optimal: the multiple-choice knapsack problem by bounds and labels.

Used by `allocate.solve` for one budget without pair costs (`merge_pairs` removes them).

1. Per decision drop dominated options; take the lower convex hull of (cost, loss).
2. Sort all hull steps by loss saved per cost: the first step that does not fit gives the multiplier ``lam`` of the
   linear relaxation, and ``sum_d min_o (loss + lam cost) - lam limit`` is a lower bound on every feasible plan.
3. Fill the slack greedily: an upper bound. Options whose reduced cost ``loss + lam cost - min`` exceeds the distance
   between the bounds cannot be in a better plan and go.
4. What is left, the core, is solved by labels (cost, loss): extend, drop those over the limit, over the upper bound or
   dominated. A narrow beam first, for a better upper bound; then all of them, which proves the optimum.

Costs are exact integers (int64 after dividing by their gcd). Losses are float64; pruning keeps a margin for rounding.
Sources: Pisinger 1995, "A minimal algorithm for the multiple-choice knapsack problem"; Dyer 1984.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dyadiq.allocation.problem import Choice, Problem, Solution
from dyadiq.core.errors import ConfigError

__all__ = ["solve_knapsack", "supported_choices"]

_MAX_LABELS = 400_000
_BEAM = 128
_ROUNDING_MARGIN = 1e-11  # of the sizes that enter a bound; float64 sums of 10^4 terms stay well inside
_MAX_TOTAL = 2**62


@dataclass(frozen=True, slots=True)
class _Group:
    """Undominated options of one decision: cost above its cheapest, ascending; loss strictly descending."""

    index: tuple[int, ...]
    cost: NDArray[np.int64]
    loss: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Step:
    """One step along a hull: from one option to a dearer one."""

    saving: float  # loss saved per cost
    group: int
    position: int  # of the option it leads to
    cost: int


def solve_knapsack(problem: Problem) -> Solution | None:
    """Return an optimal choice under one budget, or None if nothing fits.

    The lower bound equals the objective (optimality is proven) unless more than 400,000 labels were needed; then it is
    the bound of the linear relaxation, and the method says so.

    Raises:
        ConfigError: Not exactly one constraint, pair costs, or totals beyond 2^62.

    Example:
        >>> from dyadiq.allocation.problem import Constraint
        >>> size = Constraint("size", ((20, 40), (8, 16)), limit=50)
        >>> problem = Problem(("a", "b"), ((4, 8), (4, 8)), ((0.5, 0.0), (0.25, 0.0)), (size,))
        >>> solve_knapsack(problem).choice
        (1, 0)
    """
    groups, capacity = _normalise(problem)
    if capacity < 0:
        return None
    steps = _hull_steps(groups)
    positions, slack, multiplier = _relaxation(groups, steps, capacity)
    if multiplier is None:
        choice = _to_choice(groups, positions)
        best = problem.objective(choice)
        return Solution(choice, best, best, "every decision at its least loss")
    _fill(groups, positions, slack)
    priced = [g.loss + multiplier * g.cost for g in groups]
    bound = math.fsum([float(p.min()) for p in priced] + [-multiplier * capacity])
    upper = _loss(groups, positions)
    terms = math.fsum(float(abs(p.min())) for p in priced)
    margin = _ROUNDING_MARGIN * (terms + multiplier * capacity + abs(upper))
    for beam in (_BEAM, None):
        kept = [np.flatnonzero(bound + (p - p.min()) <= upper + margin) for p in priced]
        found = _search(groups, kept, multiplier, capacity, bound, upper + margin, beam)
        if found is None:
            choice = _to_choice(groups, positions)
            method = f"knapsack: linear relaxation and beam search; the proof needs more than {_MAX_LABELS:,} labels"
            return Solution(choice, problem.objective(choice), bound, method)
        if found and _rank(groups, found) <= _rank(groups, positions):
            positions = found
            upper = _loss(groups, positions)
    choice = _to_choice(groups, positions)
    best = problem.objective(choice)
    core = sum(len(k) > 1 for k in kept)
    return Solution(choice, best, best, f"knapsack: reduced costs, then labels over a core of {core} decisions; exact")


def supported_choices(problem: Problem) -> list[Choice]:
    """Return every choice on the lower convex hull of (cost, loss), cheapest first; limits play no part.

    Raises:
        ConfigError: Not exactly one constraint, pair costs, or totals beyond 2^62.
    """
    groups, _ = _normalise(problem)
    positions = [0] * len(groups)
    choices = [_to_choice(groups, positions)]
    previous = None
    for step in _hull_steps(groups):
        # Steps of equal saving are one edge of the hull: only its far end is a corner.
        if step.saving != previous:
            choices.append(())
        previous = step.saving
        positions[step.group] = step.position
        choices[-1] = _to_choice(groups, positions)
    return choices


def _normalise(problem: Problem) -> tuple[list[_Group], int]:
    """Return groups with costs above the cheapest, in units of their gcd, and the capacity left for them.

    Raises:
        ConfigError: Not exactly one constraint, pair costs, or totals beyond 2^62.
    """
    if len(problem.constraints) != 1 or problem.constraints[0].pairs:
        raise ConfigError(
            f"solve_knapsack takes one budget without pair costs, got {len(problem.constraints)} with "
            f"{sum(len(c.pairs) for c in problem.constraints)} pairs. Use merge_pairs first, or solve_milp."
        )
    constraint = problem.constraints[0]
    cheapest = [min(row) for row in constraint.unary]
    unit = math.gcd(*(c - low for row, low in zip(constraint.unary, cheapest, strict=True) for c in row)) or 1
    if sum(max(row) - low for row, low in zip(constraint.unary, cheapest, strict=True)) // unit > _MAX_TOTAL:
        raise ConfigError(f"cost {constraint.name!r}: totals exceed 2^62; use a coarser unit.")
    groups = []
    for row, low, losses in zip(constraint.unary, cheapest, problem.loss, strict=True):
        index: list[int] = []
        for o in sorted(range(len(row)), key=lambda o: (row[o], losses[o], o)):
            if not index or losses[o] < losses[index[-1]]:
                index.append(o)
        cost = np.array([(row[o] - low) // unit for o in index], dtype=np.int64)
        groups.append(_Group(tuple(index), cost, np.array([losses[o] for o in index], dtype=np.float64)))
    return groups, (constraint.limit - constraint.fixed - sum(cheapest)) // unit


def _hull_steps(groups: list[_Group]) -> list[_Step]:
    """Return the steps of all lower convex hulls, the most loss saved per cost first."""
    steps = []
    for g, group in enumerate(groups):
        at, previous = 0, math.inf
        while at < len(group.index) - 1:
            savings = (group.loss[at] - group.loss[at + 1 :]) / (group.cost[at + 1 :] - group.cost[at])
            to = at + 1 + int(np.flatnonzero(savings == savings.max())[-1])
            # Savings fall along a hull; rounding must not let one rise and put the steps of a group out of order.
            previous = min(previous, float(savings.max()))
            steps.append(_Step(previous, g, to, int(group.cost[to] - group.cost[at])))
            at = to
    return sorted(steps, key=lambda s: (-s.saving, s.group, s.position))


def _relaxation(groups: list[_Group], steps: list[_Step], capacity: int) -> tuple[list[int], int, float | None]:
    """Return the choice before the first step that does not fit, the capacity left, and the multiplier."""
    positions, slack = [0] * len(groups), capacity
    for step in steps:
        if step.cost > slack:
            return positions, slack, step.saving
        positions[step.group] = step.position
        slack -= step.cost
    return positions, slack, None


def _fill(groups: list[_Group], positions: list[int], slack: int) -> None:
    """Spend the slack: take the change that lowers the loss most, while one fits."""
    while True:
        best = (0.0, -1, -1)
        for g, group in enumerate(groups):
            at = positions[g]
            fits = int(np.searchsorted(group.cost, group.cost[at] + slack, side="right")) - 1
            gain = float(group.loss[at] - group.loss[fits])
            if gain > best[0]:
                best = (gain, g, fits)
        if best[1] < 0:
            return
        _, g, to = best
        slack -= int(groups[g].cost[to] - groups[g].cost[positions[g]])
        positions[g] = to


def _search(
    groups: list[_Group],
    kept: list[NDArray[np.intp]],
    multiplier: float,
    capacity: int,
    bound: float,
    ceiling: float,
    beam: int | None,
) -> list[int] | None:
    """Return the best positions over the kept options; empty if none is below the ceiling, None if too many labels.

    A label is a partial choice; its bound adds the reduced costs of what was chosen to the bound of the relaxation.
    """
    order = sorted(range(len(groups)), key=lambda g: (len(kept[g]) == 1, -int(groups[g].cost[kept[g][-1]]), g))
    cheapest = np.array([groups[g].cost[kept[g][0]] for g in order], dtype=np.int64)
    still_needed = np.append(np.cumsum(cheapest[::-1])[::-1][1:], 0)
    cost, loss, excess = np.zeros(1, dtype=np.int64), np.zeros(1), np.zeros(1)
    trail: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    for g, needed in zip(order, still_needed, strict=True):
        group, options = groups[g], kept[g]
        priced = group.loss + multiplier * group.cost
        new_cost = (cost[:, None] + group.cost[options]).ravel()
        new_loss = (loss[:, None] + group.loss[options]).ravel()
        new_excess = (excess[:, None] + (priced[options] - priced.min())).ravel()
        alive = np.flatnonzero((new_cost + needed <= capacity) & (bound + new_excess <= ceiling))
        alive = alive[np.lexsort((new_loss[alive], new_cost[alive]))]
        if alive.size:
            least = np.minimum.accumulate(new_loss[alive])
            alive = alive[np.append(True, new_loss[alive][1:] < least[:-1])]
        if beam is not None and alive.size > beam:
            alive = np.sort(alive[np.argsort(new_excess[alive], kind="stable")[:beam]])
        if alive.size == 0:
            return []
        if alive.size > _MAX_LABELS:
            return None
        cost, loss, excess = new_cost[alive], new_loss[alive], new_excess[alive]
        trail.append((alive // len(options), options[alive % len(options)]))
    at = int(np.lexsort((cost, loss))[0])
    positions = [0] * len(groups)
    for g, (parents, taken) in zip(reversed(order), reversed(trail), strict=True):
        positions[g] = int(taken[at])
        at = int(parents[at])
    return positions


def _to_choice(groups: list[_Group], positions: list[int]) -> Choice:
    return tuple(group.index[p] for group, p in zip(groups, positions, strict=True))


def _loss(groups: list[_Group], positions: list[int]) -> float:
    return math.fsum(group.loss[p] for group, p in zip(groups, positions, strict=True))


def _rank(groups: list[_Group], positions: list[int]) -> tuple[float, int]:
    """Order of answers: less loss, then less cost."""
    return _loss(groups, positions), sum(int(g.cost[p]) for g, p in zip(groups, positions, strict=True))
