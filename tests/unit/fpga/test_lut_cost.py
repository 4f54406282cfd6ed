"""The LUT cost of a network against the netlist that it becomes, and as a budget of allocate."""

import numpy as np
import pytest
import torch
from torch import nn

from dyadiq.allocation import allocate
from dyadiq.core.facts import QuantConfig
from dyadiq.core.format import Format
from dyadiq.core.tables import Sensitivity, SensitivityTable
from dyadiq.cost import network_facts
from dyadiq.ir.capture import capture
from dyadiq.ir.passes import canonicalize

pytest.importorskip("da4ml", reason="the adder graphs need da4ml")

from dyadiq.core.plan import uniform_plan
from dyadiq.fpga import lut_cost as module
from dyadiq.fpga.area import estimate_luts
from dyadiq.fpga.lut_cost import layer_luts, lut_cost
from dyadiq.fpga.pipeline import schedule
from dyadiq.fpga.trace import trace
from dyadiq.quant.lower import lower
from dyadiq.quant.module import quantize

POW2 = QuantConfig(
    weight=Format(8, signed=True, narrow=True, scale="pow2"), activation=Format(8, scale="pow2"), input_bits=6
)


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3))
    return canonicalize(capture(model.eval(), torch.randn(2, 8)))


@pytest.mark.parametrize("bits", [3, 6])
def test_cost_is_near_the_netlist_of_the_quantized_network(graph, bits):
    facts = network_facts(graph, POW2)
    plan = uniform_plan(facts, bits, 5)
    batch = torch.randn(256, 8, generator=torch.Generator().manual_seed(1))
    circuit = trace(lower(quantize(graph, plan, [batch], config=POW2)))
    built = estimate_luts(circuit.net, schedule(circuit, 4).wires)
    estimated = lut_cost(graph, facts, [bits], [5]).total(plan.bits)
    assert estimated == pytest.approx(built, rel=0.1)


def test_more_bits_cost_more(graph):
    table = lut_cost(graph, network_facts(graph, POW2), [2, 4, 8], [3, 6])
    for pair in table.pairs:
        widths = sorted({b for b, _ in pair.table})
        for b_a in {b for _, b in pair.table}:
            costs = [pair.table[b_w, b_a] for b_w in widths]
            assert costs == sorted(costs)
    assert (table.metric, table.kind) == ("lut", "estimated")


def test_multipliers_cost_luts(graph):
    facts = network_facts(graph, QuantConfig(input_bits=6))
    dyadic, shifted = (lut_cost(graph, f, [4], [4]) for f in (facts, network_facts(graph, POW2)))
    bits = {d.name: d.fixed_bits or 4 for d in facts.decisions}
    assert dyadic.total(bits) > shifted.total(bits)


def test_allocate_meets_a_lut_budget(graph):
    facts = network_facts(graph, POW2)
    table = lut_cost(graph, facts, [2, 4, 6], [4])
    entries = {d.name: {b: Sensitivity(4.0**-b, 0.0) for b in (2, 4, 6)} for d in facts.decisions if d.kind == "weight"}
    full = table.total({d.name: d.fixed_bits or (6 if d.kind == "weight" else 4) for d in facts.decisions})
    sensitivity = SensitivityTable("squared_error", "squared error", entries, facts)
    plan = allocate(sensitivity, {"lut": full // 2}, bits=[2, 4, 6], activation_bits=[4], costs={"lut": table})
    assert table.total(plan.bits) <= full // 2
    assert plan.costs["lut"] == table.total(plan.bits)


def test_cache_is_used_and_survives_damage(graph, tmp_path, monkeypatch):
    facts = network_facts(graph, POW2)
    cache = tmp_path / "luts" / "cache.json"
    first = lut_cost(graph, facts, [3], [4], cache=cache)
    monkeypatch.setattr(module, "layer_luts", None)  # tracing anything again would fail
    assert lut_cost(graph, facts, [3], [4], cache=cache) == first
    monkeypatch.undo()
    for text in ("{", "[]", '{"version": 0}'):
        cache.write_text(text)
        assert lut_cost(graph, facts, [3], [4], cache=cache) == first


def test_groups_are_separate_matrices():
    weight = np.random.default_rng(0).integers(-7, 8, (4, 2, 3, 3))
    halves = sum(layer_luts(weight[k : k + 2], 1, 0, 15) for k in (0, 2))
    assert layer_luts(weight, 2, 0, 15) == halves
