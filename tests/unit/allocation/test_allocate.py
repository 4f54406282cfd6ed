import json
from dataclasses import replace

import pytest

from dyadiq.allocation import Constraint, Problem, allocate, build_problem
from dyadiq.allocation.check import check_budgets
from dyadiq.allocation.pareto import uniform_points
from dyadiq.allocation.reach import contradiction, smallest_total
from dyadiq.core.errors import ConfigError, InfeasibleError, QuantError, UnknownNameError, VerificationError
from dyadiq.core.plan import BitPlan, uniform_plan
from dyadiq.core.tables import CostTable, Sensitivity, SensitivityTable
from dyadiq.cost import candidate_bits, cost_tables
from plain_networks import chain_facts, chain_table, jet_facts

BITS = (2, 4, 8)


def _plan(budget, *, seed=0, facts=None, **options):
    facts = facts or jet_facts(fixed_size_bytes=640)
    return allocate(chain_table(facts, seed=seed), budget, **{"bits": BITS, **options})


def _table_without(table, decision, bits=None):
    row = {b: s for b, s in table.entries[decision].items() if bits is not None and b != bits}
    entries = {**table.entries, decision: row} if row else {n: r for n, r in table.entries.items() if n != decision}
    return replace(table, entries=entries)


def test_plan_meets_its_budget_and_names_every_decision():
    facts = jet_facts(fixed_size_bytes=640)
    plan = _plan({"size": "20%"}, facts=facts)
    plan.check(facts)
    (size,) = plan.budgets
    assert size.limit == 4389 * 4 // 5
    assert size.used == plan.costs["size"] <= size.limit
    assert size.binding
    assert set(plan.costs) == {"size", "bops", "macs_bops", "energy", "weight_bits"}
    assert plan.formats["fc0.weight"].granularity == "channel"
    assert plan.formats["x"].bits == 8
    assert plan.formats["fc3"].bits == 16


def test_certificate_is_closed_when_there_is_one_budget():
    certificate = _plan({"bops": 200_000}, activation_bits=(4, 8), bits=(2, 4, 8)).certificate
    assert certificate.gap == 0.0
    assert certificate.lower_bound == certificate.objective
    assert certificate.n_candidates == f"{3**4 * 2**3:,}"
    assert "exact" in certificate.method


def test_certificate_is_closed_when_there_are_several_budgets():
    plan = _plan({"bops": 200_000, "size": "20%", "energy": "15%"}, activation_bits=(4, 8))
    assert plan.certificate.gap == 0.0
    assert "HiGHS" in plan.certificate.method
    assert [b.metric for b in plan.budgets] == ["bops", "size", "energy"]
    assert all(b.used <= b.limit for b in plan.budgets)


def test_next_best_swap_lowers_the_loss_and_breaks_the_budget():
    table = chain_table(jet_facts())
    plan = allocate(table, {"weight_bits": "12%"}, bits=BITS)
    swap, (budget,) = plan.certificate.next_best, plan.budgets
    row = table.entries[swap.decision]
    assert plan.bits[swap.decision] == swap.from_bits
    assert swap.loss_delta == row[swap.to_bits].value - row[swap.from_bits].value < 0
    assert budget.used + swap.cost_delta > budget.limit
    rates = []
    for name, losses in table.entries.items():
        if name.endswith("weight"):
            for bits, loss in losses.items():
                gain = losses[plan.bits[name]].value - loss.value
                cost = table.facts.decision(name).n_elements * (bits - plan.bits[name])
                rates += [gain / cost] if gain > 0 else []
    assert -swap.loss_delta / swap.cost_delta == pytest.approx(max(rates))


def test_nothing_binds_when_the_budget_is_generous():
    plan = _plan({"size": "100%"})
    assert plan.bits["fc0.weight"] == 8
    assert plan.certificate.next_best is None
    assert not plan.budgets[0].binding


def test_only_the_tight_budget_binds():
    plan = _plan({"size": "100%", "weight_bits": "12%"})
    assert [b.binding for b in plan.budgets] == [False, True]


@pytest.mark.parametrize("metric", ["size", "bops"])
def test_front_holds_uniform_and_chosen_points(metric):
    plan = _plan({metric: "20%"}, activation_bits=(4, 8), front_points=20)
    labels = [p.label for p in plan.front]
    assert labels.count("") <= 20
    assert labels[-1] == "chosen"
    assert [x for x in labels if x.startswith("uniform")] == [f"uniform {w}/{a}" for w in BITS for a in (4, 8)]
    chosen = plan.front[-1]
    assert chosen.bits == plan.bits
    assert chosen.cost == plan.costs[metric]
    assert chosen.objective == plan.certificate.objective
    front = [p for p in plan.front if not p.label]
    assert not any(p.cost <= chosen.cost and p.objective < chosen.objective for p in front)
    assert not any(u.cost <= p.cost and u.objective < p.objective for u in plan.front if u.label for p in front)


def test_uniform_point_costs_what_the_uniform_plan_costs():
    facts = jet_facts()
    table, costs = chain_table(facts), cost_tables(facts, BITS, (4, 8))
    problem = build_problem(table, costs, {"bops": 1}, candidate_bits(facts, BITS, (4, 8)))
    kinds = {d.name: d.kind for d in facts.decisions}
    (point,) = uniform_points(problem, "bops", kinds, [4], [8])
    assert point.cost == costs["bops"].total(uniform_plan(facts, 4, 8).bits)


def test_no_front_is_computed_when_none_is_asked_for():
    assert _plan({"size": "20%"}, front_points=0).front == ()


def test_progress_is_told_about_every_point():
    steps = []

    class Recorder:
        def start(self, label, total):
            steps.append((label, total))

        def advance(self, steps_done=1, note=""):
            steps.append(steps_done)

        def finish(self):
            steps.append("end")

    _plan({"size": "20%"}, front_points=10, progress=Recorder())
    assert steps[0][0] == "front along size"
    assert steps[1:-1] == [1] * steps[0][1]
    assert steps[-1] == "end"


def test_plan_survives_json():
    plan = _plan({"size": "20%", "bops": "10%"}, front_points=5)
    assert BitPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_own_cost_table_is_a_budget_when_given():
    facts = jet_facts()
    rows = {d.name: {b: b * b for b in BITS} for d in facts.decisions if d.kind == "weight"}
    latency = CostTable("latency", "ns", "measured", "square of bits", rows, fixed=7)
    plan = _plan({"latency": 107}, facts=facts, costs={"latency": latency})
    assert plan.costs["latency"] == 7 + sum(plan.bits[n] ** 2 for n in rows) <= 107


def test_input_is_chosen_when_its_width_is_free():
    facts = chain_facts((8, 4, 2), input_bits=None)
    plan = _plan({"macs_bops": "3%"}, facts=facts, activation_bits=(4, 8))
    assert plan.bits["x"] in (4, 8)


def test_budget_is_refused_when_empty():
    with pytest.raises(ConfigError, match=r"the budget is empty. Give at least one, for example"):
        _plan({})


def test_unknown_metric_is_refused_with_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"unknown cost metric 'sise'; did you mean 'size'\?"):
        _plan({"sise": "25%"})


def test_missing_widths_are_all_listed():
    table = _table_without(_table_without(chain_table(jet_facts()), "fc0.weight", 4), "fc2.weight")
    with pytest.raises(
        ConfigError, match=r"lacks 2 of 9 .*fc0.weight at 4 bits \(measured: 2, 8\); fc2.weight at 2, 4, 8"
    ):
        allocate(table, {"size": "20%"}, bits=BITS)


def test_activation_may_be_absent_when_its_width_is_given():
    table = _table_without(chain_table(jet_facts()), "fc0")
    assert allocate(table, {"size": "20%"}, bits=BITS, activation_bits=(8,)).bits["fc0"] == 8
    with pytest.raises(ConfigError, match="fc0 at 4, 8 bits"):
        allocate(table, {"size": "20%"}, bits=BITS, activation_bits=(4, 8))


def test_losses_are_refused_when_not_finite():
    table = chain_table(jet_facts())
    row = {**table.entries["fc1.weight"], 4: Sensitivity(float("nan"), 0.0)}
    with pytest.raises(QuantError, match=r"fc1\.weight: the expected loss at 4 bits is nan"):
        allocate(replace(table, entries={**table.entries, "fc1.weight": row}), {"size": "20%"}, bits=BITS)


def test_slightly_negative_losses_are_kept():
    table = chain_table(jet_facts())
    entries = {n: {b: Sensitivity(s.value - 0.01, 0.0) for b, s in row.items()} for n, row in table.entries.items()}
    plan = allocate(replace(table, entries=entries), {"size": "100%"}, bits=BITS)
    assert plan.certificate.objective < 0
    assert plan.certificate.gap == 0.0


@pytest.mark.parametrize("budget", ["25%", 0.25, ["size"], None])
def test_budget_is_refused_when_it_names_no_metric(budget):
    with pytest.raises(ConfigError, match=r"mapping of metric to limit; got .*Give for example \{'size': '25%'\}"):
        _plan(budget)


def test_infeasible_budget_is_answered_with_the_smallest_reachable_value():
    facts = jet_facts(fixed_size_bytes=640)
    least = uniform_plan(facts, 2, 8).bits
    size = cost_tables(facts, BITS)["size"].total(least)
    with pytest.raises(InfeasibleError) as caught:
        _plan({"size": "1kB", "bops": "50%"}, facts=facts)
    assert caught.value.best["size"] == size
    assert set(caught.value.best) == {"size", "bops"}
    message = str(caught.value)
    assert f"size: asked for at most 1,000 byte (1 kB) ('1kB'), the smallest reachable is {size:,} byte" in message
    assert "bops" not in message
    assert "Raise the budget, or allow narrower widths (candidates now: 2, 4, 8)." in message


def test_smallest_reachable_value_is_feasible_when_asked_for():
    facts = jet_facts()
    with pytest.raises(InfeasibleError) as caught:
        _plan({"bops": 10}, facts=facts, activation_bits=(4, 8))
    least = int(caught.value.best["bops"])
    plan = _plan({"bops": least}, facts=facts, activation_bits=(4, 8), front_points=0)
    assert plan.costs["bops"] == least
    with pytest.raises(InfeasibleError, match="no plan meets the budget"):
        _plan({"bops": least - 1}, facts=facts, activation_bits=(4, 8))


def test_budgets_that_contradict_each_other_are_named():
    facts = jet_facts()
    weights = [d.name for d in facts.decisions if d.kind == "weight"]
    rising = {"rising": CostTable("rising", "count", "exact", "bits", {n: {b: b for b in BITS} for n in weights})}
    falling = {"falling": CostTable("falling", "count", "exact", "-", {n: {b: 10 - b for b in BITS} for n in weights})}
    with pytest.raises(
        InfeasibleError,
        match=r"falling and rising cannot be met together, though each can alone .*Within the budget of rising, "
        r"falling reaches 28 count \(asked: 12 count\)\. Within the budget of falling, rising reaches 28 count",
    ) as caught:
        _plan({"rising": 12, "falling": 12, "size": "90%"}, facts=facts, costs={**rising, **falling})
    assert caught.value.best["rising"] == caught.value.best["falling"] == 8


def test_contradiction_leaves_out_what_it_does_not_need():
    up, down = ((0, 2),), ((2, 0),)
    constraints = tuple(Constraint(n, row, 1) for n, row in (("a", up), ("b", up), ("c", down)))
    problem = Problem(("w",), ((2, 4),), ((1.0, 0.0),), constraints)
    assert contradiction(problem) == ("b", "c")
    assert [smallest_total(problem, c) for c in constraints] == [0, 0, 0]


def test_answer_is_refused_when_it_breaks_its_budget_in_integers():
    cost = CostTable("size", "byte", "exact", "bytes", {"w": {4: 64, 8: 128}})
    with pytest.raises(VerificationError, match=r"breaks its budget in exact arithmetic \(size: 128 byte, limit 100\)"):
        check_budgets({"size": cost}, {"size": 100}, {"w": 8})


def test_cost_table_is_refused_when_it_lacks_a_candidate():
    cost = CostTable("latency", "ns", "measured", "-", {"fc0.weight": {4: 1}})
    with pytest.raises(
        ConfigError, match=r"cost 'latency' has no entry for 2\. Make it with the same candidate widths"
    ):
        _plan({"latency": 10}, costs={"latency": cost})


def test_many_candidates_are_counted_in_words():
    facts = chain_facts((4,) * 30)
    plan = _plan({"weight_bits": "20%"}, facts=facts, front_points=0)
    assert plan.certificate.n_candidates == "about 10^14"


def test_ties_are_broken_alike_when_decisions_come_in_another_order():
    facts = chain_facts((4, 4, 4, 4, 4))
    row = {b: Sensitivity(4.0**-b, 0.0) for b in BITS}
    entries = {d.name: row for d in facts.decisions if d.fixed_bits is None}
    plans = []
    for decisions in (facts.decisions, facts.decisions[::-1]):
        table = SensitivityTable("gram", "nats", entries, replace(facts, decisions=decisions))
        plans.append(allocate(table, {"weight_bits": 4 * 16 * 3}, bits=BITS, front_points=0).bits)
    assert plans[0] == plans[1]
    assert sorted(plans[0][f"fc{i}.weight"] for i in range(4)) == [2, 2, 4, 4]


def test_given_width_is_refused_when_the_table_measured_others():
    with pytest.raises(ConfigError, match=r"fc0 at 6 bits \(measured: 2, 4, 8\)"):
        _plan({"size": "20%"}, activation_bits=(6,))


def test_uniform_plan_takes_the_next_width_when_a_relu_forbids_one_bit():
    facts = chain_facts((4, 4, 3))
    (clipped,) = (d for d in facts.decisions if d.kind == "activation" and d.fixed_bits is None)
    decisions = tuple(replace(d, clipped=d is clipped) for d in facts.decisions)
    plan = _plan({"weight_bits": "50%"}, facts=replace(facts, decisions=decisions), activation_bits=(1, 2, 4))
    uniform = {point.label: point.bits for point in plan.front if point.label.startswith("uniform")}
    assert uniform["uniform 4/1"][clipped.name] == 2
    assert uniform["uniform 4/4"][clipped.name] == 4
