"""The call that turns sensitivities and budgets into a plan with its proof.

Used by the pipeline, the CLI and users as `dyadiq.allocate`. Joins tables, calls a solver, re-checks in integers, and
explains: which budget binds, what the next best change would be, what could be reached if nothing fits.
Knows no graph and no torch. Source: DESIGN section 4; HAWQ-V3 (Yao et al. 2021) for the problem.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from dyadiq.allocation.check import check_budgets
from dyadiq.allocation.explain import explain_infeasible
from dyadiq.allocation.k_best import solve_k_best
from dyadiq.allocation.limits import parse_limits
from dyadiq.allocation.local import single_changes
from dyadiq.allocation.marginal import marginal_value
from dyadiq.allocation.pareto import pareto_front, uniform_points
from dyadiq.allocation.problem import Choice, Problem, Solution, build_problem
from dyadiq.allocation.quadratic import Measure, cross_terms, guard, solve_quadratic
from dyadiq.allocation.refine import Measurement, refine
from dyadiq.allocation.solve import solve
from dyadiq.allocation.stability import decision_stability, replicas_of
from dyadiq.core.errors import ConfigError, InfeasibleError
from dyadiq.core.facts import NetworkFacts
from dyadiq.core.plan import Alternative, BitPlan, BudgetUse, Certificate, ParetoPoint, PlanRefinement, Stability, Swap
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.core.tables import CostTable, SensitivityTable
from dyadiq.cost import candidate_bits, cost_tables

__all__ = ["allocate"]

# Where one optimum takes well under a millisecond these cost a fraction of a second.
_LIGHT_ALTERNATIVES = 4
_LIGHT_REPLICAS = 200


def allocate(
    table: SensitivityTable,
    budget: Mapping[str, float | str],
    *,
    bits: Sequence[int] = (2, 3, 4, 6, 8),
    activation_bits: Sequence[int] = (8,),
    costs: Mapping[str, CostTable] | None = None,
    front_points: int = 40,
    n_alternatives: int | None = None,
    n_replicas: int | None = None,
    shrinkage: float = 0.0,
    measure: Measure | None = None,
    refine_by: Measurement | None = None,
    refine_guard: Measurement | None = None,
    refine_rounds: int = 3,
    seed: int = 0,
    progress: Progress = NO_PROGRESS,
) -> BitPlan:
    """Choose the widths of least predicted loss that meet every budget, and prove it.

    Args:
        table: From `analyze`; holds the network's facts.
        budget: Metric to limit: a number in the metric's unit, ``"25%"`` of the float32 network, or with a suffix
            (``"8kB"``, ``"300M"``); ``"bits"`` is the average width of weights. Several budgets hold together; the
            first one is the axis of the front.
        bits: Candidate widths of weights.
        activation_bits: Candidate widths of activations. Network inputs and outputs keep their fixed widths.
        costs: Own cost tables by metric, beside or instead of the built-in ones (`cost.COSTS`).
        front_points: About how many points of the front to compute for the report; 0 for none.
        n_alternatives: How many next best plans to find; None: 4 with one budget, none with several, which take long.
        n_replicas: How often to draw the sensitivities again, by a bootstrap of the table's samples or within their
            errors; None: 200 with one budget, else none.
        shrinkage: How much of the table's cross terms to use, in [0, 1]. Not by default: they often mislead.
        measure: Must come with it: decision to bits to a loss measured on held-back samples. The plan with cross terms
            is taken only if it measures better than the one without.
        refine_by: Measures whole plans (`curvature.plan_losses`); the plan is then improved by measurements
            (`allocation.refine`). It keeps the certificate of the plan before; ``refinement`` says what changed.
        refine_guard: Must come with it: measures on other samples. The refined plan is taken only if it is better
            there by a standard error.
        refine_rounds: Most rounds of refinement.
        seed: Of the draws, and of the search with cross terms.
        progress: Told about the plans measured and the points of the front.

    Returns:
        The plan. Its certificate bounds every other choice; its ``costs`` hold every known metric.

    Raises:
        ConfigError: A budget that is empty or no mapping, a bad amount, candidates out of range, or
            widths the table was not measured at; ``refine_by`` without its guard, or the other way round.
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
    if (refine_by is None) != (refine_guard is None):
        raise ConfigError(
            "allocate: refine_by and refine_guard go together, got only one of them. The guard measures on samples "
            "that proposed nothing; give `plan_losses` of other batches."
        )
    facts = table.facts
    options = candidate_bits(facts, bits, activation_bits)
    known = {**cost_tables(facts, bits, activation_bits), **(costs or {})}
    limits = parse_limits(budget, known, facts)
    problem = build_problem(table, known, limits, options)
    solution = solve(problem)
    if solution is None:
        raise InfeasibleError(*explain_infeasible(problem, known, limits, budget))
    additive = solution
    if shrinkage or measure:
        solution = _with_cross_terms(problem, solution, table, shrinkage, measure, seed)
    crossed = solution is not additive and solution.choice != additive.choice
    chosen, refinement = solution.choice, None
    if refine_by is not None:
        chosen, refinement = _refined(problem, solution, refine_by, refine_guard, refine_rounds, progress)
        crossed |= bool(refinement.changes)
    plan_bits = problem.bits(chosen)
    if n_alternatives is None:
        n_alternatives = _LIGHT_ALTERNATIVES if len(limits) == 1 and not crossed else 0
    if n_replicas is None:
        n_replicas = _LIGHT_REPLICAS if len(limits) == 1 and not crossed else 0
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
        marginals=tuple(
            marginal_value(problem, additive.choice, m, known[m].unit) for m in limits if swaps[m] is not None
        ),
        alternatives=_alternatives(problem, solution, n_alternatives),
        stability=_stability(problem, solution, table, n_replicas, seed),
        refinement=refinement,
        front=_front(problem, chosen, facts, next(iter(limits)), bits, activation_bits, front_points, progress),
        provenance={
            "sensitivity": table.method,
            "unit": table.unit,
            "n_samples": table.n_samples,
            "seed": table.seed,
            "bits": sorted(set(bits)),
            "activation_bits": sorted(set(activation_bits)),
            "budget": dict(budget),
            "measured": {
                m: {"definition": known[m].definition, **known[m].measurement} for m in limits if known[m].measurement
            },
        },
    )


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


def _with_cross_terms(
    problem: Problem, additive: Solution, table: SensitivityTable, shrinkage: float, measure: Measure | None, seed: int
) -> Solution:
    """Return the plan with cross terms if the measurement prefers it, else the additive one; both say so.

    Raises:
        ConfigError: No measurement, no shrinkage, or a table without cross terms.
    """
    if measure is None or not shrinkage:
        raise ConfigError(
            f"interactions: shrinkage and measure go together, got shrinkage={shrinkage} and "
            f"{'no measure' if measure is None else 'a measure'}. Cross terms are only used if a measurement on "
            "held-back samples prefers the plan; leave both out for the additive plan."
        )
    if table.interactions is None:
        raise ConfigError(
            f"interactions: the sensitivity table ({table.method}) has no cross terms. Analyze with method 'gram'."
        )
    found = solve_quadratic(cross_terms(problem, table.interactions, shrinkage), seed=seed)
    assert found is not None  # the additive problem has a plan within the same budgets
    verdict = guard(problem, additive.choice, found.choice, measure)
    said = f"measured {verdict.measured_quadratic:.6g} with cross terms, {verdict.measured_additive:.6g} without"
    if not verdict.accepted:
        return replace(additive, method=f"{additive.method}; cross terms refused: {said}")
    return Solution(found.choice, found.objective, found.lower_bound, f"{found.method}; accepted: {said}")


def _refined(
    problem: Problem,
    certified: Solution,
    measurement: Measurement,
    guard: Measurement | None,
    max_rounds: int,
    progress: Progress,
) -> tuple[Choice, PlanRefinement]:
    """Return the choice improved by measurements, and the record of it."""
    found = refine(problem, [certified.choice], measurement, guard, max_rounds=max_rounds, progress=progress)
    was, now = problem.bits(certified.choice), problem.bits(found.choice)
    return found.choice, PlanRefinement(
        changes={name: (was[name], now[name]) for name in was if was[name] != now[name]},
        before=found.before,
        after=found.after,
        n_measured=found.n_measured,
        n_accepted=found.n_accepted,
        reason=found.reason,
    )


def _alternatives(problem: Problem, solution: Solution, n: int) -> tuple[Alternative, ...]:
    """Return the next best plans; the optimum itself, whichever of equal ones was taken, is not among them."""
    if n <= 0:
        return ()
    plan = problem.bits(solution.choice)
    found = []
    for other in solve_k_best(problem, n + 1):
        changes = {name: b for name, b in problem.bits(other.choice).items() if b != plan[name]}
        if changes:
            totals = {c.name: c.total(other.choice) for c in problem.constraints}
            found.append(Alternative(other.objective, totals, changes))
    return tuple(found[:n])


def _stability(
    problem: Problem, solution: Solution, table: SensitivityTable, n_replicas: int, seed: int
) -> Stability | None:
    if n_replicas <= 0 or not any(s.stderr > 0 for row in table.entries.values() for s in row.values()):
        return None
    return decision_stability(problem, solution.choice, replicas_of(problem, table, n_replicas, seed))


def _front(
    problem: Problem,
    choice: Choice,
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
    chosen = ParetoPoint(constraint.total(choice), problem.objective(choice), problem.bits(choice), "chosen")
    return (
        *pareto_front(problem, metric, n_points, progress),
        *uniform_points(problem, metric, kinds, bits, activation_bits),
        chosen,
    )


def _count(n: int) -> str:
    return f"{n:,}" if n < 10**9 else f"about 10^{round(math.log10(n))}"
