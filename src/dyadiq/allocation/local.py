"""Single changes of a choice: what each would gain and cost, and taking them while they help.

Used by `milp` (a first plan, and a last polish in exact arithmetic) and by `allocate` (which budget binds, and the
next best swap). Works with pair costs and several constraints.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dyadiq.allocation.problem import Choice, Problem

__all__ = ["Change", "cheapest_choice", "improve", "single_changes"]


@dataclass(frozen=True, slots=True)
class Change:
    """One decision moved to another option; deltas of the loss and of each constraint's cost."""

    decision: int
    option: int
    loss_delta: float
    cost_deltas: tuple[int, ...]


def single_changes(problem: Problem, choice: Choice) -> Iterator[Change]:
    """Yield every change of one decision, in order of decision and option.

    Example:
        >>> from dyadiq.allocation.problem import Constraint
        >>> size = Constraint("size", ((20, 40), (8, 16)), limit=50)
        >>> problem = Problem(("a", "b"), ((4, 8), (4, 8)), ((0.5, 0.0), (0.25, 0.0)), (size,))
        >>> [(c.decision, c.option, c.loss_delta, c.cost_deltas) for c in single_changes(problem, (1, 0))]
        [(0, 0, 0.5, (-20,)), (1, 1, -0.25, (8,))]
    """
    neighbours: list[list[list[tuple[int, bool, tuple[tuple[int, ...], ...]]]]] = []
    for constraint in problem.constraints:
        rows: list[list[tuple[int, bool, tuple[tuple[int, ...], ...]]]] = [[] for _ in problem.names]
        for pair in constraint.pairs:
            rows[pair.a].append((pair.b, True, pair.table))
            rows[pair.b].append((pair.a, False, pair.table))
        neighbours.append(rows)
    for d, losses in enumerate(problem.loss):
        now = choice[d]
        for o in range(len(losses)):
            if o == now:
                continue
            deltas = []
            for constraint, rows in zip(problem.constraints, neighbours, strict=True):
                delta = constraint.unary[d][o] - constraint.unary[d][now]
                for other, is_row, table in rows[d]:
                    at = choice[other]
                    delta += table[o][at] - table[now][at] if is_row else table[at][o] - table[at][now]
                deltas.append(delta)
            yield Change(d, o, losses[o] - losses[now], tuple(deltas))


def cheapest_choice(problem: Problem) -> Choice:
    """Return the choice of least cost relative to the limits, decision by decision.

    Exact where every cost rises with the option, as costs of bits do; otherwise a guess to start from.
    """
    choice = []
    for d in range(len(problem.names)):
        price = [
            sum(c.unary[d][o] / max(1, c.limit) for c in problem.constraints) for o in range(len(problem.options[d]))
        ]
        for constraint in problem.constraints:
            for pair in constraint.pairs:
                for o in range(len(price)):
                    if pair.a == d:
                        price[o] += min(pair.table[o]) / max(1, constraint.limit)
                    if pair.b == d:
                        price[o] += min(row[o] for row in pair.table) / max(1, constraint.limit)
        choice.append(price.index(min(price)))
    return tuple(choice)


def improve(problem: Problem, choice: Choice) -> Choice:
    """Return a feasible choice that no single feasible change improves, reached from a feasible one.

    Each sweep takes the changes that save most loss per share of the remaining budgets, one per decision and none
    next to a changed one (their pair costs would be stale).
    """
    partners: list[set[int]] = [{d} for d in range(len(problem.names))]
    for constraint in problem.constraints:
        for pair in constraint.pairs:
            partners[pair.a].add(pair.b)
            partners[pair.b].add(pair.a)
    now = list(choice)
    slack = [c.limit - c.total(choice) for c in problem.constraints]

    def fits(change: Change) -> bool:
        return all(d <= s for d, s in zip(change.cost_deltas, slack, strict=True))

    def rank(change: Change) -> tuple[float, int, int]:
        share = sum(max(0, d) / max(1, s) for d, s in zip(change.cost_deltas, slack, strict=True))
        return change.loss_delta / (share + 1e-9), change.decision, change.option

    while True:
        helpful = sorted((c for c in single_changes(problem, tuple(now)) if c.loss_delta < 0 and fits(c)), key=rank)
        if not helpful:
            return tuple(now)
        stale: set[int] = set()
        for change in helpful:
            if change.decision not in stale and fits(change):
                now[change.decision] = change.option
                slack = [s - d for s, d in zip(slack, change.cost_deltas, strict=True)]
                stale |= partners[change.decision]
