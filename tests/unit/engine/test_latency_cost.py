"""Latency as a cost: who owns which step, the fit, the cache, and what is refused."""

import json
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

import dyadiq as dq
from dyadiq.core.errors import ConfigError, InfeasibleError, MissingToolError, UnknownNameError
from dyadiq.core.native import NativeState, native_state
from dyadiq.core.plan import uniform_plan
from dyadiq.core.tables import CostTable, Sensitivity, SensitivityTable
from dyadiq.cost.facts import network_facts
from dyadiq.engine import chosen_isa
from dyadiq.engine import latency_cost as module
from dyadiq.engine.costs import ENGINE_COSTS
from dyadiq.engine.measure import PlanTimes, time_plans
from dyadiq.ir.passes import canonicalize
from dyadiq.ir.sites import find_sites
from dyadiq.pipeline.run import run_recipe
from dyadiq.recipe import load_recipe
from tiny_run import write_tiny_recipe

built = pytest.mark.skipif(native_state().module is None, reason=f"the engine was not built: {native_state().found}")
BITS, ACTIVATION_BITS = (2, 8), (4, 8)


class Residual(nn.Module):
    """A convolution, another beside a shortcut, a pool, a linear layer: every kind of owner of a step."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(16 * 16, 10)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.fc(torch.flatten(self.pool(torch.relu(self.second(x) + x)), 1))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    graph = canonicalize(dq.capture(Residual().eval(), torch.randn(1, 3, 8, 8)))
    return graph, network_facts(graph)


@built
@pytest.mark.parametrize("algorithms", ["rule", "measured"])
def test_sums_of_what_steps_depend_on_are_fitted_to_wholes(network, monkeypatch, algorithms):
    """Times made up from what they depend on alone, wholes a quarter longer: the table must give every whole back."""
    graph, facts = network
    keys = set()

    def profiles(plans, **how):
        made = time_plans(plans, rounds=1)
        for bits, times in zip(choices, made, strict=True):
            found = [module._key(step, facts, find_sites(graph), bits) for step in times.steps]
            keys.update(found)
            us = [sum(map(ord, str(key))) for key in found]
            steps = tuple(replace(step, time_us=t) for step, t in zip(times.steps, us, strict=True))
            yield PlanTimes(steps, 1.25 * sum(us))

    choices = []
    typical = module.typical_program
    monkeypatch.setattr(module, "typical_program", lambda *a: choices.append(a[2]) or typical(*a))
    monkeypatch.setattr(module, "time_plans", profiles)
    table = ENGINE_COSTS["latency_us"](graph, facts, BITS, ACTIVATION_BITS, algorithms=algorithms)
    layers, joins = {key for key in keys if len(key) == 3}, {key for key in keys if len(key) == 2}
    wanted = {(name, b_w, b_a) for name in ("second", "fc") for b_w in BITS for b_a in ACTIVATION_BITS}
    assert layers == wanted | {("first", b_w, 8) for b_w in BITS}
    assert {name for name, _ in joins} == {facts.layers[2].input}  # the pool hands on the codes of the add
    assert () in keys
    assert table.measurement["factor"] == 1.25
    assert table.measurement["error_worst_frac"] < 1e-3
    assert table.measurement["algorithms"] == algorithms
    assert (table.pairs[0].a, table.pairs[0].b) == ("first.weight", graph.inputs[0])


@built
def test_table_covers_all_choices_and_says_machine_and_error(network):
    graph, facts = network
    table = ENGINE_COSTS["latency_us"](graph, facts, BITS, ACTIVATION_BITS)
    totals = [table.total(uniform_plan(facts, w, a).bits) for w in BITS for a in ACTIVATION_BITS]
    assert all(0 < table.fixed < total < 10**7 for total in totals)
    assert (table.unit, table.kind, table.plain_unit) == ("ns", "measured", "us")
    assert table.measurement["cpu"]
    assert table.measurement["isa"] == chosen_isa()
    assert 0 <= table.measurement["error_rms_frac"] <= table.measurement["error_worst_frac"]
    assert re.search(r"on 6 networks of random widths within \d+\.\d % \(rms\)", table.definition)
    assert CostTable.from_json(json.loads(json.dumps(table.to_json()))) == table


@built
def test_times_are_kept_and_belong_to_one_machine(network, tmp_path, monkeypatch):
    graph, facts = network
    cache = tmp_path / "made" / "latency_us.json"
    calls = []
    measure = module._measure
    monkeypatch.setattr(module, "_measure", lambda *a: calls.append(1) or measure(*a))

    def ask(bits=BITS):
        return ENGINE_COSTS["latency_us"](graph, facts, bits, (8,), cache=cache)

    first = ask()
    assert ask() == first
    assert len(calls) == 1
    ask((8,))  # other candidates are another table, beside the first
    assert ask() == first
    assert len(calls) == 2
    elsewhere = json.loads(cache.read_text())
    elsewhere["machine"]["cpu"] = "another"
    cache.write_text(json.dumps(elsewhere))
    ask()
    assert len(calls) == 3
    for damage in ("{", "[]", '{"version": 1}'):
        cache.write_text(damage)
        ask()
    assert len(calls) == 6


@built
def test_network_that_the_engine_refuses_is_named(network):
    torch.manual_seed(0)
    graph = canonicalize(dq.capture(nn.Sequential(nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 5)), torch.randn(1, 64)))
    facts = network_facts(graph, dq.QuantConfig(input_bits=16))
    with pytest.raises(ConfigError, match=r"(?s)latency_us: .* weights of at most 16 .*0 \(linear\): .*32 bits"):
        ENGINE_COSTS["latency_us"](graph, facts, [8, 16], [8])


def test_choice_of_algorithms_must_be_one(network):
    with pytest.raises(UnknownNameError, match=r"unknown choice of algorithms 'mesured'; did you mean 'measured'"):
        ENGINE_COSTS["latency_us"](*network, BITS, ACTIVATION_BITS, algorithms="mesured")


@built
def test_impossible_budget_names_what_is_reachable(network):
    graph, facts = network
    losses = {
        d.name: {bits: Sensitivity(1.0 / bits, 0.0) for bits in (2, 4, 8)}
        for d in facts.decisions
        if d.fixed_bits is None
    }
    table = ENGINE_COSTS["latency_us"](graph, facts, BITS, ACTIVATION_BITS)

    def plan(budget):
        sensitivities = SensitivityTable("gram", "nats", losses, facts)
        return dq.allocate(
            sensitivities, budget, bits=BITS, activation_bits=ACTIVATION_BITS, costs={"latency_us": table}
        )

    with pytest.raises(InfeasibleError, match=r"latency_us: asked for at most 1 ns \('1ns'\), the smallest reachable"):
        plan({"latency_us": "1ns"})
    found = plan({"latency_us": 1000})  # microseconds
    assert found.budgets[0].limit == 10**6
    assert found.costs["latency_us"] == table.total(found.bits)
    assert found.provenance["measured"]["latency_us"]["isa"] == table.measurement["isa"]


def test_budget_is_refused_before_anything_runs(tmp_path, monkeypatch):
    recipe = write_tiny_recipe(tmp_path)
    if native_state().module is not None:
        with pytest.raises(ConfigError, match=r"allocate\.budget latency_us: '50%' is a percentage .* number in us"):
            run_recipe(load_recipe(recipe, ["allocate.budget={latency_us='50%'}"]))
    monkeypatch.setattr("dyadiq.engine.runtime.native_state", lambda: NativeState(None, "not built"))
    with pytest.raises(MissingToolError, match=r"native code of dyadiq \(not built\)"):
        run_recipe(load_recipe(recipe, ["allocate.budget={latency_us=500}"]))
