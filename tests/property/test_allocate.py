"""Every solver against brute force, and what must hold of any plan."""

import math
from dataclasses import replace
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dyadiq.allocation import (
    Constraint,
    Pair,
    Problem,
    allocate,
    build_problem,
    solve,
    solve_brute_force,
    solve_knapsack,
    solve_milp,
)
from dyadiq.allocation.merge import merge_pairs
from dyadiq.allocation.pareto import pareto_front
from dyadiq.allocation.reach import smallest_total
from dyadiq.core.tables import SensitivityTable
from dyadiq.cost import candidate_bits, cost_tables
from plain_networks import chain_facts, chain_table

# Solvers add the same losses in different orders: a few units in the last place per term.
ROUNDING = 1e-12
ONE = st.just(1)
# Time is no property of an answer: a busy machine must not fail a test.
UNHURRIED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}

LOSSES = st.one_of(
    st.sampled_from([0.0, 0.1, 0.5, 1.0, -0.01]), st.floats(0, 1), st.floats(1e-9, 1e-6), st.floats(1, 1e4)
)


@st.composite
def problems(draw, n_constraints=ONE, pairs=False):
    """At most 6 decisions of 4 options; cost scales from single units to 10^13; limits around reachable totals."""
    widths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    n = len(widths)
    loss = tuple(tuple(draw(st.lists(LOSSES, min_size=k, max_size=k))) for k in widths)
    constraints = []
    for c in range(draw(n_constraints)):
        cost = st.integers(0, draw(st.sampled_from([3, 100, 10**6, 10**13])))
        unary = tuple(tuple(draw(st.lists(cost, min_size=k, max_size=k))) for k in widths)
        edges = draw(st.lists(st.permutations(range(n)).map(lambda p: p[:2]), max_size=n)) if pairs and n > 1 else []
        tables = []
        for a, b in edges:
            rows = st.lists(
                st.lists(cost, min_size=widths[b], max_size=widths[b]), min_size=widths[a], max_size=widths[a]
            )
            tables.append(Pair(a, b, tuple(map(tuple, draw(rows)))))
        constraint = Constraint(f"c{c}", unary, 0, tuple(tables), draw(st.integers(0, 3)))
        reachable = constraint.total([draw(st.integers(0, k - 1)) for k in widths])
        constraints.append(replace(constraint, limit=reachable + draw(st.sampled_from([-1, 0, 0, 1]))))
    names = tuple(f"d{i}" for i in range(n))
    return Problem(names, tuple(tuple(range(k)) for k in widths), loss, tuple(constraints))


def _agrees(problem, found):
    truth = solve_brute_force(problem)
    assert (found is None) == (truth is None)
    if found is None:
        return
    scale = math.fsum(max(map(abs, row)) for row in problem.loss)
    assert problem.is_feasible(found.choice)
    assert found.objective == problem.objective(found.choice)
    assert found.objective <= truth.objective + ROUNDING * scale
    assert found.lower_bound <= truth.objective + ROUNDING * scale
    assert found.lower_bound <= found.objective


@settings(max_examples=300, **UNHURRIED)
@given(problems())
def test_knapsack_agrees_with_brute_force(problem):
    found = solve_knapsack(problem)
    _agrees(problem, found)
    assert found is None or found.lower_bound == found.objective


@settings(max_examples=200, **UNHURRIED)
@given(problems(pairs=True))
def test_merged_knapsack_agrees_with_brute_force_when_costs_come_in_pairs(problem):
    _agrees(problem, solve(problem))


@settings(max_examples=150, **UNHURRIED)
@given(problems(n_constraints=st.integers(1, 3), pairs=True))
def test_milp_agrees_with_brute_force_when_there_are_several_budgets(problem):
    _agrees(problem, solve_milp(problem))


@settings(**UNHURRIED)
@given(problems(pairs=True, n_constraints=st.integers(1, 2)))
def test_merging_changes_no_loss_and_no_cost(problem):
    merged = merge_pairs(problem)
    for at in range(max(len(options) for options in merged.members)):
        choice = tuple(min(at, len(options) - 1) for options in merged.members)
        full = merged.expand(choice)
        for small, large in zip(merged.problem.constraints, problem.constraints, strict=True):
            assert small.total(choice) == large.total(full)
        assert math.isclose(
            merged.problem.objective(choice), problem.objective(full), rel_tol=ROUNDING, abs_tol=ROUNDING
        )


@settings(**UNHURRIED)
@given(problems(), st.integers(0, 10**6))
def test_larger_budget_is_never_worse(problem, extra):
    before = solve_knapsack(problem)
    constraint = problem.constraints[0]
    after = solve_knapsack(replace(problem, constraints=(replace(constraint, limit=constraint.limit + extra),)))
    assert before is None or after.objective <= before.objective + ROUNDING * max(1.0, abs(before.objective))


@settings(max_examples=50, **UNHURRIED)
@given(problems(pairs=True))
def test_smallest_total_is_the_least_of_all_choices(problem):
    (constraint,) = problem.constraints
    low = smallest_total(problem, constraint)
    at, below = (replace(problem, constraints=(replace(constraint, limit=v),)) for v in (low, low - 1))
    assert solve_brute_force(at) is not None
    assert solve_brute_force(below) is None


@settings(max_examples=50, **UNHURRIED)
@given(problems(pairs=True), st.integers(2, 12))
def test_front_is_mutually_non_dominated_and_optimal(problem, n_points):
    (constraint,) = problem.constraints
    front = pareto_front(problem, "c0", n_points)
    assert len(front) <= n_points
    scale = math.fsum(max(map(abs, row)) for row in problem.loss)
    for before, after in pairwise(front):
        assert before.cost < after.cost
        assert before.objective > after.objective
    for point in front:
        best = solve_brute_force(replace(problem, constraints=(replace(constraint, limit=point.cost),)))
        assert point.objective <= best.objective + ROUNDING * scale
    assert front[0].cost == smallest_total(problem, constraint)
    assert front[-1].objective <= math.fsum(map(min, problem.loss)) + ROUNDING * scale


@settings(max_examples=30, **UNHURRIED)
@given(st.integers(0, 10**6), st.lists(st.integers(2, 20), min_size=2, max_size=4), st.integers(3, 90), st.booleans())
def test_plan_cost_is_the_sum_of_its_parts_and_order_changes_nothing(seed, sizes, percent, two):
    facts = chain_facts(tuple(sizes))
    table = chain_table(facts, bits=(2, 4, 6, 8), seed=seed)
    budget = {"macs_bops": f"{max(6, percent)}%", **({"weight_bits": f"{max(7, percent)}%"} if two else {})}
    options = {"bits": (2, 4, 8), "activation_bits": (4, 6, 8), "front_points": 0}
    plan = allocate(table, budget, **options)

    for metric, cost in cost_tables(facts, (2, 4, 8), (4, 6, 8)).items():
        parts = [row[plan.bits[name]] for name, row in cost.unary.items()]
        parts += [pair.table[plan.bits[pair.a], plan.bits[pair.b]] for pair in cost.pairs]
        assert plan.costs[metric] == cost.fixed + sum(parts)

    shuffled = SensitivityTable(
        "gram",
        "nats",
        dict(reversed(table.entries.items())),
        replace(facts, decisions=tuple(reversed(facts.decisions)), layers=tuple(reversed(facts.layers))),
    )
    again = allocate(shuffled, dict(reversed(budget.items())), **options)
    assert again.bits == plan.bits
    assert again.certificate.objective == plan.certificate.objective


@settings(max_examples=30, **UNHURRIED)
@given(st.integers(0, 10**6), st.integers(4, 30))
def test_plan_of_a_network_agrees_with_brute_force_when_activations_are_chosen(seed, percent):
    facts = chain_facts((5, 7, 3))
    table = chain_table(facts, bits=(2, 4, 8), seed=seed)
    plan = allocate(table, {"bops": f"{percent}%"}, bits=(2, 4, 8), activation_bits=(2, 4, 8), front_points=0)
    options = candidate_bits(facts, (2, 4, 8), (2, 4, 8))
    costs = cost_tables(facts, (2, 4, 8), (2, 4, 8), ["bops"])
    problem = build_problem(table, costs, {"bops": plan.budgets[0].limit}, options)
    assert math.isclose(plan.certificate.objective, solve_brute_force(problem).objective, rel_tol=ROUNDING)
