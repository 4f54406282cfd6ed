"""The k best plans, exactly: what else could be measured, since a predicted loss is not the real one.

Used by `allocate`. Every plan is the optimum of a part of the space (some decisions fixed, one option forbidden), the
parts of all plans found cover the space, and a part is only solved while its bound says it may hold one of the k best.
Source: Lawler 1972, "A procedure for computing the k best solutions to discrete optimization problems".
"""

from __future__ import annotations

import heapq

from dyadiq.allocation.merge import merge_pairs
from dyadiq.allocation.parts import Options, restrict
from dyadiq.allocation.problem import Choice, Problem, Solution
from dyadiq.allocation.relaxation import relax
from dyadiq.allocation.solve import solve

__all__ = ["solve_k_best"]


def solve_k_best(problem: Problem, k: int) -> list[Solution]:
    """Return the k feasible choices of least loss, best first; fewer if there are no more.

    Of equal losses the smaller cost comes first. Exact as far as `solve` is: a solver that stops at its time or label
    limit may hide a plan, and its solution says so.

    Example:
        >>> from dyadiq.allocation.problem import Constraint
        >>> size = Constraint("size", ((20, 40), (8, 16)), limit=50)
        >>> problem = Problem(("a", "b"), ((4, 8), (4, 8)), ((0.5, 0.0), (0.25, 0.0)), (size,))
        >>> [(s.choice, s.objective) for s in solve_k_best(problem, 5)]
        [((1, 0), 0.25), ((0, 1), 0.5), ((0, 0), 0.75)]
    """
    merged = merge_pairs(problem)
    plain = problem if merged is None else merged.problem
    everything: Options = tuple(tuple(range(len(row))) for row in plain.loss)
    relaxed = relax(plain) if merged is not None else None
    heap: list[tuple[float, tuple[int, ...], Choice, int, Options]] = []

    def push(options: Options, start: int) -> None:
        found = _solve_part(plain, options)
        if found is not None:
            totals = tuple(c.total(found) for c in plain.constraints)
            heapq.heappush(heap, (plain.objective(found), totals, found, start, options))

    push(everything, 0)
    best: list[Solution] = []
    while heap and len(best) < k:
        _, _, choice, start, options = heapq.heappop(heap)
        full = choice if merged is None else merged.expand(choice)
        objective = problem.objective(full)
        best.append(Solution(full, objective, objective, f"number {len(best) + 1} of the k best, by parts"))
        if len(best) == k:
            break
        parts: list[tuple[float, int, Options]] = []
        fixed = relaxed.bound if relaxed is not None else float("-inf")
        for d in range(start, len(choice)):
            others = tuple(o for o in options[d] if o != choice[d])
            if others:
                bound = fixed if relaxed is None else fixed + min(relaxed.excess[d][o] for o in others)
                parts.append((bound, d, (*((o,) for o in choice[:d]), others, *options[d + 1 :])))
            if relaxed is not None:
                fixed += relaxed.excess[d][choice[d]]
        for bound, d, part in sorted(parts, key=lambda p: (p[0], p[1])):
            wanted = k - len(best)
            if len(heap) >= wanted and bound > heapq.nsmallest(wanted, heap)[-1][0]:
                break  # the plans at hand are better than all of this part and of those after it
            push(part, d)
    return best


def _solve_part(problem: Problem, options: Options) -> Choice | None:
    """Return the best choice among some options of each decision, as a choice of the whole problem."""
    found = solve(restrict(problem, options))
    return None if found is None else tuple(kept[o] for kept, o in zip(options, found.choice, strict=True))
