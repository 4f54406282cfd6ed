"""Parts of a problem: the same decisions with only some of their options.

Used by `solve` (options that reduced costs exclude are left out) and `k_best` (a plan is forbidden by parts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from dyadiq.allocation.local import improve
from dyadiq.allocation.problem import Choice, Problem
from dyadiq.allocation.relaxation import relax

__all__ = ["Options", "core_options", "restrict"]

T = TypeVar("T")
Options = tuple[tuple[int, ...], ...]


def restrict(problem: Problem, options: Options) -> Problem:
    """Return the problem over some options of each decision; option ``i`` of the part is ``options[d][i]``.

    Example:
        >>> from dyadiq.allocation.problem import Constraint
        >>> size = Constraint("size", ((20, 40), (8, 16)), limit=50)
        >>> restrict(Problem(("a", "b"), ((4, 8), (4, 8)), ((0.5, 0.0), (0.25, 0.0)), (size,)), ((1,), (0, 1))).options
        ((8,), (4, 8))
    """

    def pick(rows: Sequence[Sequence[T]]) -> tuple[tuple[T, ...], ...]:
        return tuple(tuple(row[o] for o in kept) for row, kept in zip(rows, options, strict=True))

    constraints = []
    for c in problem.constraints:
        pairs = tuple(
            replace(p, table=tuple(tuple(p.table[i][j] for j in options[p.b]) for i in options[p.a])) for p in c.pairs
        )
        constraints.append(replace(c, unary=pick(c.unary), pairs=pairs))
    return Problem(problem.names, pick(problem.options), pick(problem.loss), tuple(constraints))


def core_options(problem: Problem) -> Options:
    """Return the options that may be in an optimal plan: those whose reduced cost a known plan does not exclude.

    All of them where no plan is found. Problems without pair costs.
    """
    everything = tuple(tuple(range(len(row))) for row in problem.loss)
    relaxed = relax(problem)
    known = _round(problem, tuple(row.index(min(row)) for row in relaxed.excess))
    if known is None:
        return everything
    ceiling = problem.objective(known) - relaxed.bound
    return tuple(tuple(o for o, more in enumerate(row) if more <= ceiling) for row in relaxed.excess)


def _round(problem: Problem, choice: Choice) -> Choice | None:
    """Return a feasible choice near the relaxed one; None if single changes do not lead to one."""
    now = list(choice)
    over = [c.total(now) - c.limit for c in problem.constraints]
    while any(v > 0 for v in over):
        best: tuple[float, int, int] | None = None
        for d, losses in enumerate(problem.loss):
            for o in range(len(losses)):
                relief = 0.0
                for c, v in zip(problem.constraints, over, strict=True):
                    delta = c.unary[d][o] - c.unary[d][now[d]]
                    relief += (max(0, v) - max(0, v + delta)) / max(1, c.limit)
                if relief > 0:
                    rank = ((losses[o] - losses[now[d]]) / relief, d, o)
                    best = rank if best is None or rank < best else best
        if best is None:
            return None
        _, d, o = best
        over = [v + c.unary[d][o] - c.unary[d][now[d]] for c, v in zip(problem.constraints, over, strict=True)]
        now[d] = o
    return improve(problem, tuple(now))
