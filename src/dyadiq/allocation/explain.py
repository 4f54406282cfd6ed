"""Why no plan meets the budgets: what was asked for, what is reachable, and which budgets contradict each other.

Used by `allocate` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dyadiq.allocation.limits import AVERAGE_BITS
from dyadiq.allocation.problem import Problem
from dyadiq.allocation.reach import contradiction, corner, smallest_total
from dyadiq.core.tables import CostTable
from dyadiq.core.units import format_amount

__all__ = ["explain_infeasible"]


def explain_infeasible(
    problem: Problem, known: Mapping[str, CostTable], limits: Mapping[str, int], budget: Mapping[str, float | str]
) -> tuple[str, dict[str, float]]:
    """Return the message (asked, reachable, contradicting budgets, what to do) and the smallest reachable values."""
    best = {c.name: smallest_total(problem, c) for c in problem.constraints}
    alone = [m for m in limits if best[m] > limits[m]]
    lines = []
    for metric in alone:
        unit, reference = known[metric].unit, known[metric].reference
        asked = budget[metric] if metric in budget else budget[AVERAGE_BITS]
        percent = f", {100 * best[metric] / reference:.3g}% of float32" if reference else ""
        lines.append(
            f"{metric}: asked for at most {format_amount(limits[metric], unit)} ({asked!r}), "
            f"the smallest reachable is {format_amount(best[metric], unit)}{percent}"
        )
    if not alone:
        together = contradiction(problem)
        reach = "; ".join(f"{m} alone reaches {format_amount(best[m], known[m].unit)}" for m in together)
        lines.append(f"{' and '.join(together)} cannot be met together, though each can alone ({reach})")
        these = tuple(c for c in problem.constraints if c.name in together)
        for constraint in these:
            least, unit = corner(replace(problem, constraints=these), constraint), known[constraint.name].unit
            if least is not None:
                rest = " and ".join(m for m in together if m != constraint.name)
                lines.append(
                    f"Within the budget of {rest}, {constraint.name} reaches {format_amount(least, unit)} "
                    f"(asked: {format_amount(limits[constraint.name], unit)})"
                )
    message = (
        f"no plan meets the budget. {'. '.join(lines)}. Raise the budget, or allow narrower widths "
        f"(candidates now: {_candidates(problem)})."
    )
    return message, {m: float(best[m]) for m in limits}


def _candidates(problem: Problem) -> str:
    free = sorted({b for options in problem.options if len(options) > 1 for b in options})
    return ", ".join(map(str, free)) if free else "one width per tensor"
