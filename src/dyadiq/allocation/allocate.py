"""The call that turns sensitivities and budgets into a plan with its proof.

Used by the pipeline, the CLI and users as `dyadiq.allocate`. Joins tables, calls a solver, re-checks in integers, and
explains: which budget binds, what the next best change would be, what could be reached if nothing fits.
Knows no graph and no torch. Source: DESIGN section 4; HAWQ-V3 (Yao et al. 2021) for the problem.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from dyadiq.allocation.check import check_budgets
from dyadiq.allocation.local import single_changes
from dyadiq.allocation.pareto import pareto_front, uniform_points
from dyadiq.allocation.problem import Problem, Solution, build_problem
from dyadiq.allocation.reach import contradiction, smallest_total
from dyadiq.allocation.solve import solve
from dyadiq.core.errors import ConfigError, InfeasibleError, UnknownNameError
from dyadiq.core.facts import NetworkFacts
from dyadiq.core.plan import BitPlan, BudgetUse, Certificate, ParetoPoint, Swap
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.core.tables import CostTable, SensitivityTable
from dyadiq.core.units import format_amount, parse_budget
from dyadiq.cost import candidate_bits, cost_tables

__all__ = ["allocate"]


def allocate(
    table: SensitivityTable,
    budget: Mapping[str, float | str],
    *,
    bits: Sequence[int] = (2, 3, 4, 6, 8),
    activation_bits: Sequence[int] = (8,),
    costs: Mapping[str, CostTable] | None = None,
    front_points: int = 40,
    progress: Progress = NO_PROGRESS,
) -> BitPlan:
    """Choose the widths of least predicted loss that meet every budget, and prove it.

    Args:
        table: From `analyze`; holds the network's facts.
        budget: Metric to limit: a number in the metric's unit, ``"25%"`` of the float32 network, or with a suffix
            (``"8kB"``, ``"300M"``). Several budgets hold together; the first one is the axis of the front.
        bits: Candidate widths of weights.
        activation_bits: Candidate widths of activations. Network inputs and outputs keep their fixed widths.
        costs: Own cost tables by metric, beside or instead of the built-in ones (`cost.COSTS`).
        front_points: About how many points of the front to compute for the report; 0 for none.
        progress: Told about the points of the front.

    Returns:
        The plan. Its certificate bounds every other choice; its ``costs`` hold every known metric.

    Raises:
        ConfigError: A budget that is empty or no mapping, a bad amount, candidates out of range, or
            widths the table was not measured at.
        UnknownNameError: A budget for an unknown metric.
        InfeasibleError: No plan meets the budgets; says the smallest reachable value of each.
        QuantError: A sensitivity is not finite.
        VerificationError: A solver's answer failed the integer check (a bug).

    Example:
        >>> from dyadiq.core.facts import Decision, LayerFacts
        >>> from dyadiq.core.tables import Sensitivity
        >>> facts = NetworkFacts(
        ...     (Decision("x", "activation", (16,), 8), Decision("w", "weight", (4, 16)),
        ...      Decision("y", "activation", (4,), 16)),
        ...     (LayerFacts("fc", "linear", "w", "x", "y", n=16, m=4, n_positions=1),),
        ... )
        >>> losses = {4: Sensitivity(0.1, 0.0), 8: Sensitivity(0.0, 0.0)}
        >>> plan = allocate(SensitivityTable("gram", "nats", {"w": losses}, facts), {"macs_bops": "5%"}, bits=[4, 8])
        >>> plan.bits["w"], plan.costs["macs_bops"], plan.certificate.gap
        (4, 2048, 0.0)
    """
    facts = table.facts
    options = candidate_bits(facts, bits, activation_bits)
    known = {**cost_tables(facts, bits, activation_bits), **(costs or {})}
    limits = _limits(budget, known)
    problem = build_problem(table, known, limits, options)
    solution = solve(problem)
    if solution is None:
        raise InfeasibleError(*_explain(problem, known, limits, budget))
    plan_bits = problem.bits(solution.choice)
    used = check_budgets(known, limits, plan_bits)
    swaps = _improving_swaps(problem, solution, tuple(limits))
    formats = {
        d.name: (facts.config.weight if d.kind == "weight" else facts.config.activation).with_bits(plan_bits[d.name])
        for d in facts.decisions
    }
    return BitPlan(
        formats=formats,
        certificate=Certificate(
            objective=solution.objective,
            lower_bound=solution.lower_bound,
            gap=max(0.0, solution.objective - solution.lower_bound),
            method=solution.method,
            n_candidates=_count(problem.n_candidates),
            next_best=next((s for s in swaps.values() if s is not None), None),
        ),
        budgets=tuple(BudgetUse(m, known[m].unit, limits[m], used[m], binding=swaps[m] is not None) for m in limits),
        costs={metric: cost.total(plan_bits) for metric, cost in known.items()},
        front=_front(problem, solution, facts, next(iter(limits)), bits, activation_bits, front_points, progress),
        provenance={
            "sensitivity": table.method,
            "unit": table.unit,
            "n_samples": table.n_samples,
            "seed": table.seed,
            "bits": sorted(set(bits)),
            "activation_bits": sorted(set(activation_bits)),
            "budget": dict(budget),
        },
    )


def _limits(budget: Mapping[str, float | str], known: Mapping[str, CostTable]) -> dict[str, int]:
    if not isinstance(budget, Mapping):
        raise ConfigError(
            f"the budget must say what is limited, as a mapping of metric to limit; got {budget!r}. "
            "Give for example {'size': '25%'}."
        )
    if not budget:
        raise ConfigError("the budget is empty. Give at least one, for example {'size': '25%'}.")
    limits = {}
    for metric, value in budget.items():
        if metric not in known:
            raise UnknownNameError("cost metric", metric, known)
        cost = known[metric]
        limits[metric] = parse_budget(value, metric=metric, unit=cost.unit, reference=cost.reference)
    return limits


def _improving_swaps(problem: Problem, solution: Solution, metrics: Iterable[str]) -> dict[str, Swap | None]:
    """Return per budget the best single change that would lower the loss and breaks this budget; None: not binding.

    Best: the most loss saved per cost in the budget's unit.
    """
    place = {c.name: i for i, c in enumerate(problem.constraints)}
    slack = [c.limit - c.total(solution.choice) for c in problem.constraints]
    changes = [c for c in single_changes(problem, solution.choice) if c.loss_delta < 0]
    swaps: dict[str, Swap | None] = {}
    for metric in metrics:
        i = place[metric]
        breaking = [c for c in changes if c.cost_deltas[i] > slack[i]]
        best = min(breaking, key=lambda c: (c.loss_delta / c.cost_deltas[i], c.decision, c.option), default=None)
        swaps[metric] = None
        if best is not None:
            options = problem.options[best.decision]
            swaps[metric] = Swap(
                decision=problem.names[best.decision],
                from_bits=options[solution.choice[best.decision]],
                to_bits=options[best.option],
                loss_delta=best.loss_delta,
                cost_delta=best.cost_deltas[i],
            )
    return swaps


def _front(
    problem: Problem,
    solution: Solution,
    facts: NetworkFacts,
    metric: str,
    bits: Sequence[int],
    activation_bits: Sequence[int],
    n_points: int,
    progress: Progress,
) -> tuple[ParetoPoint, ...]:
    if n_points <= 0:
        return ()
    (constraint,) = (c for c in problem.constraints if c.name == metric)
    kinds = {d.name: str(d.kind) for d in facts.decisions}
    chosen = ParetoPoint(
        constraint.total(solution.choice), solution.objective, problem.bits(solution.choice), label="chosen"
    )
    return (
        *pareto_front(problem, metric, n_points, progress),
        *uniform_points(problem, metric, kinds, bits, activation_bits),
        chosen,
    )


def _explain(
    problem: Problem, known: Mapping[str, CostTable], limits: Mapping[str, int], budget: Mapping[str, float | str]
) -> tuple[str, dict[str, float]]:
    """Return the message (asked, reachable, contradicting budgets, what to do) and the smallest reachable values."""
    best = {c.name: smallest_total(problem, c) for c in problem.constraints}
    alone = [m for m in limits if best[m] > limits[m]]
    lines = []
    for metric in alone:
        unit, reference = known[metric].unit, known[metric].reference
        percent = f", {100 * best[metric] / reference:.3g}% of float32" if reference else ""
        lines.append(
            f"{metric}: asked for at most {format_amount(limits[metric], unit)} ({budget[metric]!r}), "
            f"the smallest reachable is {format_amount(best[metric], unit)}{percent}"
        )
    if not alone:
        together = contradiction(problem)
        reach = "; ".join(f"{m} alone reaches {format_amount(best[m], known[m].unit)}" for m in together)
        lines.append(f"{' and '.join(together)} cannot be met together, though each can alone ({reach})")
    message = (
        f"no plan meets the budget. {'. '.join(lines)}. Raise the budget, or allow narrower widths "
        f"(candidates now: {_candidates(problem)})."
    )
    return message, {m: float(best[m]) for m in limits}


def _candidates(problem: Problem) -> str:
    free = sorted({b for options in problem.options if len(options) > 1 for b in options})
    return ", ".join(map(str, free)) if free else "one width per tensor"


def _count(n: int) -> str:
    return f"{n:,}" if n < 10**9 else f"about 10^{round(math.log10(n))}"
