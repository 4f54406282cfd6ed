"""What stands beside a plan: k best, marginal values, probabilities and regret, average bits as a budget."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from dyadiq.allocation import RegretRule, allocate, build_problem, decision_stability, solve, solve_k_best
from dyadiq.allocation.limits import parse_limits
from dyadiq.allocation.marginal import marginal_value
from dyadiq.allocation.parts import core_options
from dyadiq.allocation.relaxation import relax
from dyadiq.allocation.stability import bootstrap_replicas, flat_losses, normal_replicas
from dyadiq.core.errors import ConfigError, InfeasibleError
from dyadiq.core.plan import BitPlan
from dyadiq.core.tables import SampleLosses, Sensitivity
from dyadiq.cost import candidate_bits, cost_tables
from plain_networks import chain_facts, chain_table, jet_facts

BITS = (2, 4, 8)


def network(budget, *, activation_bits=(8,), seed=0, sizes=(16, 8, 8, 4)):
    facts = chain_facts(sizes)
    table = chain_table(facts, seed=seed, bits=BITS)
    known = cost_tables(facts, BITS, activation_bits)
    limits = parse_limits(budget, known, facts)
    return table, build_problem(table, known, limits, candidate_bits(facts, BITS, activation_bits))


def doubtful(table, share=0.3):
    """The table with standard errors."""
    entries = {
        n: {b: Sensitivity(s.value, share * s.value) for b, s in row.items()} for n, row in table.entries.items()
    }
    return replace(table, entries=entries)


def ranked(problem):
    """Every feasible choice, best first: the oracle."""
    choices = product(*(range(len(row)) for row in problem.loss))
    return sorted((problem.objective(c), c) for c in choices if problem.is_feasible(c))


@pytest.mark.parametrize("budget", [{"size": "30%"}, {"bops": "6%"}, {"bops": "8%", "weight_bits": "20%"}])
@pytest.mark.parametrize("seed", range(3))
def test_k_best_are_the_first_k_of_all_plans(budget, seed):
    _, problem = network(budget, activation_bits=(4, 8), seed=seed)
    truth = ranked(problem)
    assert len(truth) > 12
    found = solve_k_best(problem, 12)
    assert [s.objective for s in found] == pytest.approx([value for value, _ in truth[:12]], rel=1e-12)
    assert len({s.choice for s in found}) == 12
    assert all(problem.is_feasible(s.choice) for s in found)


def test_k_best_ends_when_there_are_no_more_plans():
    _, problem = network({"weight_bits": "9%"})
    assert [s.choice for s in solve_k_best(problem, 1000)] == [c for _, c in ranked(problem)]
    (constraint,) = problem.constraints
    assert solve_k_best(replace(problem, constraints=(replace(constraint, limit=1),)), 3) == []


@pytest.mark.parametrize("budget", [{"weight_bits": "12%"}, {"bops": "5%"}])
@pytest.mark.parametrize("seed", range(4))
def test_least_step_is_the_least_that_buys_anything(budget, seed):
    _, problem = network(budget, activation_bits=(4, 8), seed=seed)
    (constraint,) = problem.constraints
    choice = solve(problem).choice
    now = problem.objective(choice)
    (metric,) = budget
    found = marginal_value(problem, choice, metric, constraint.name)
    costs = sorted((constraint.total(c), problem.objective(c)) for c in product(*(range(len(r)) for r in problem.loss)))
    better = next((cost, loss) for cost, loss in costs if loss < now)
    assert found.next_step == better[0] - constraint.limit
    assert found.next_loss_delta == pytest.approx(better[1] - now, rel=1e-12)
    wider = min(loss for cost, loss in costs if cost <= constraint.limit + found.step)
    assert found.step_loss_delta == pytest.approx(wider - now, rel=1e-9, abs=1e-15)
    assert found.price > 0


def test_nothing_is_bought_when_every_loss_is_least():
    _, problem = network({"size": "100%"})
    found = marginal_value(problem, solve(problem).choice, "size", "byte")
    assert (found.next_step, found.next_loss_delta, found.step_loss_delta, found.price) == (None, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_relaxation_bounds_every_plan_and_excess_every_restriction(seed):
    _, problem = network({"size": "30%", "weight_bits": "15%"}, seed=seed)
    found = relax(problem)
    assert all(y >= 0 for y in found.prices)
    for value, choice in ranked(problem):
        assert value >= found.bound + max(row[o] for row, o in zip(found.excess, choice, strict=True))
    best = ranked(problem)[0][1]
    options = core_options(problem)
    assert all(o in kept for o, kept in zip(best, options, strict=True))
    assert any(len(kept) < 3 for kept in options)


def test_probabilities_follow_the_errors():
    table, problem = network({"weight_bits": "15%"})
    choice = solve(problem).choice
    sure = decision_stability(problem, choice, normal_replicas(problem, table, 50, seed=0) * 0 + _mean(problem))
    assert sure.regret_p95 == sure.regret_mean == 0.0
    for name, bits in problem.bits(choice).items():
        assert sure.probabilities[name][bits] == 1.0
    doubt = decision_stability(problem, choice, normal_replicas(problem, doubtful(table, 1.0), 100, seed=0))
    assert 0 < doubt.regret_mean < doubt.regret_p95
    assert doubt.regret_p95_frac > 0.01
    assert any(0 < p < 1 for row in doubt.probabilities.values() for p in row.values())
    for row in doubt.probabilities.values():
        assert sum(row.values()) == pytest.approx(1.0)


def _mean(problem):
    return np.array([v for row in problem.loss for v in row])


@pytest.mark.parametrize("budget", [{"bops": "6%"}, {"bops": "8%", "weight_bits": "20%"}])
def test_regret_and_probabilities_equal_enumeration(budget):
    table, problem = network(budget, activation_bits=(4, 8))
    replicas = normal_replicas(problem, doubtful(table, 0.5), 20, seed=3)
    choice = solve(problem).choice
    found = decision_stability(problem, choice, replicas)
    starts = np.cumsum([0, *map(len, problem.loss)])[:-1]
    feasible = np.array([c for _, c in ranked(problem)])
    losses = replicas[:, starts + feasible].sum(axis=2)
    regret = replicas[:, starts + np.array(choice)].sum(axis=1) - losses.min(axis=1)
    assert found.regret_mean == pytest.approx(regret.mean(), rel=1e-9, abs=1e-15)
    assert found.regret_p95 == pytest.approx(np.percentile(regret, 95), rel=1e-9, abs=1e-15)
    best = feasible[losses.argmin(axis=1)]
    for d, (name, options) in enumerate(zip(problem.names, problem.options, strict=True)):
        assert found.probabilities[name] == {b: float((best[:, d] == o).mean()) for o, b in enumerate(options)}


def test_replicas_are_refused_when_their_shape_is_another():
    _, problem = network({"size": "30%"})
    with pytest.raises(ConfigError, match=r"stability: replicas of shape \[2, 3\], expected \[at least 1, \d+\]"):
        decision_stability(problem, solve(problem).choice, np.zeros((2, 3)))


def test_regret_rule_draws_from_samples_where_there_are_some_else_within_the_errors():
    table, problem = network({"bits": 4})
    rule = RegretRule({"bits": 4}, BITS, n_replicas=30, seed=1)
    assert rule.stability(table) == rule.stability(table)
    assert rule.stability(doubtful(table, 1.0)).n_replicas == 30
    assert rule(doubtful(table, 1.0)) > 0.0
    index = tuple((name, bits) for name, row in table.entries.items() for bits in row)
    losses = np.array([[table.value(name, bits)] * 3 for name, bits in index])
    assert rule(replace(doubtful(table, 1.0), samples=SampleLosses(index, losses))) == 0.0  # Samples that agree.
    known = SampleLosses(((problem.names[0], problem.options[0][0]),), np.array([[1.0, 3.0]]))
    drawn = bootstrap_replicas(problem, replace(table, samples=known), 8, seed=0)
    assert set(drawn[:, 0]) == {1.0, 2.0, 3.0}
    np.testing.assert_array_equal(drawn[:, 1:], np.tile(_mean(problem)[1:], (8, 1)))
    with pytest.raises(InfeasibleError, match="no plan meets the budget of the regret rule"):
        RegretRule({"size": 1}, BITS)(table)


def test_losses_of_replicas_come_in_the_order_of_the_problem():
    _, problem = network({"size": "30%"})
    flat = flat_losses(problem, {problem.names[1]: {8: 5.0}})
    place = len(problem.loss[0]) + problem.options[1].index(8)
    assert flat[place] == 5.0
    assert flat.sum() == 5.0


def test_bits_is_the_average_width_of_weights():
    facts = jet_facts()
    weights = {d.name: d.n_elements for d in facts.decisions if d.kind == "weight"}
    for average in (3, "3.5", 4.0):
        plan = allocate(chain_table(facts), {"bits": average}, bits=BITS, front_points=0)
        (used,) = plan.budgets
        assert used.metric == "weight_bits"
        assert used.limit == int(float(average) * sum(weights.values()))
        assert sum(n * plan.bits[name] for name, n in weights.items()) == used.used <= used.limit


@pytest.mark.parametrize("value", [0, -1, "4 bits", "25%", True, float("nan"), float("inf"), "1/0"])
def test_average_bits_are_refused_when_they_are_no_width(value):
    with pytest.raises(ConfigError, match=r"budget bits: expected an average width of weights above zero, got"):
        allocate(chain_table(jet_facts()), {"bits": value}, bits=BITS)


def test_average_and_total_bits_are_refused_together():
    with pytest.raises(ConfigError, match=r"'bits' \(average width of weights\) and 'weight_bits' .* Give one of them"):
        allocate(chain_table(jet_facts()), {"bits": 4, "weight_bits": "20%"}, bits=BITS)


def test_average_bits_out_of_reach_are_named_as_they_were_asked():
    with pytest.raises(InfeasibleError, match=r"weight_bits: asked for at most [\d,]+ bit .*\(1\.5\), the smallest"):
        allocate(chain_table(jet_facts()), {"bits": 1.5}, bits=BITS)


def test_plan_carries_its_outlook_and_keeps_it_in_json():
    table = doubtful(chain_table(jet_facts()))
    plan = allocate(table, {"size": "20%"}, bits=BITS, activation_bits=(4, 8), front_points=4)
    assert len(plan.alternatives) == 4
    losses = [plan.certificate.objective, *(a.objective for a in plan.alternatives)]
    assert losses == sorted(losses)
    assert all(a.changes and a.costs["size"] <= plan.budgets[0].limit for a in plan.alternatives)
    assert [m.metric for m in plan.marginals] == ["size"]
    assert plan.stability.n_replicas == 200
    assert max(p.gap for p in plan.front) == 0.0
    assert BitPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_outlook_is_left_out_with_several_budgets_unless_asked_for():
    budget = {"size": "20%", "weight_bits": "15%"}
    table = doubtful(chain_table(jet_facts()))
    plan = allocate(table, budget, bits=BITS, front_points=0)
    assert (plan.alternatives, plan.stability) == ((), None)
    asked = allocate(table, budget, bits=BITS, front_points=0, n_alternatives=2, n_replicas=3)
    assert len(asked.alternatives) == 2
    assert asked.stability.n_replicas == 3
