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

from dyadiq.core.errors import ConfigError, InfeasibleError, TooLargeError, UnknownNameError
from dyadiq.core.plan import uniform_plan
from dyadiq.fpga import layer_trace as module
from dyadiq.fpga.circuit_config import CircuitConfig
from dyadiq.fpga.costs import HARDWARE_COSTS, hardware_cost_tables
from dyadiq.fpga.estimate import estimate_hardware
from dyadiq.fpga.layer_trace import trace_layer
from dyadiq.fpga.lut_cost import lut_cost
from dyadiq.quant.lower import lower
from dyadiq.quant.quantize import quantize

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
    built = estimate_hardware(lower(quantize(graph, plan, [batch], config=POW2)))
    tables = hardware_cost_tables(graph, facts, [bits], [5])
    assert tables["lut"].total(plan.bits) == pytest.approx(built.lut, rel=0.1)
    assert tables["ff"].total(plan.bits) == pytest.approx(built.ff, rel=0.5)
    assert 0 <= tables["latency_ns"].total(plan.bits) - built.latency_ns(200.0) <= 15.0


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
    monkeypatch.setattr(module, "trace_layer", None)  # tracing anything again would fail
    assert lut_cost(graph, facts, [3], [4], cache=cache) == first
    monkeypatch.undo()
    for text in ("{", "[]", '{"version": 0}'):
        cache.write_text(text)
        assert lut_cost(graph, facts, [3], [4], cache=cache) == first


def test_groups_are_separate_matrices():
    weight = np.random.default_rng(0).integers(-7, 8, (4, 2, 3, 3))
    halves = sum(trace_layer(weight[k : k + 2], 1, 0, 15).lut for k in (0, 2))
    assert trace_layer(weight, 2, 0, 15).lut == halves


def test_joins_and_pools_cost():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.pool, self.fc = nn.Conv2d(2, 2, 3, padding=1), nn.MaxPool2d(2), nn.Linear(8, 2)

        def forward(self, x):
            y = torch.relu(self.conv(x))
            return self.fc(torch.flatten(self.pool(y + x), 1))

    torch.manual_seed(0)
    model = Residual().eval()
    graph = canonicalize(capture(model, torch.randn(2, 2, 4, 4)))
    facts = network_facts(graph, POW2)
    assert {join.op: (join.n_elements, join.n_operands) for join in module.joins(graph)} == {
        "add": (32, 2),
        "max_pool2d": (8, 4),
    }
    tables = hardware_cost_tables(graph, facts, [4], [3, 5])
    added = next(d.name for d in facts.decisions if d.name == next(module.joins(graph)).decision)
    for table in tables.values():
        assert 0 < table.unary[added][3] <= table.unary[added][5]
    assert tables["lut"].unary[added][5] == 32 * 5 + 32 * 6 + 8 * 3 * 10  # clip, add, pool


def test_deeper_stages_and_faster_clocks_cost_less(graph):
    facts = network_facts(graph, POW2)
    bits = uniform_plan(facts, 4, 4).bits

    def total(metric, config):
        return HARDWARE_COSTS[metric](graph, facts, [4], [4], config=config).total(bits)

    assert total("ff", CircuitConfig(depth=2)) > total("ff", CircuitConfig(depth=8))
    slow, fast = (total("latency_ns", CircuitConfig("xc7z020", clock_mhz=clock)) for clock in (None, 400.0))
    assert slow > 3 * fast


def test_allocate_meets_a_latency_budget_or_says_what_is_reachable(graph):
    facts = network_facts(graph, POW2)
    tables = hardware_cost_tables(graph, facts, [2, 4, 6], [4])
    entries = {d.name: {b: Sensitivity(4.0**-b, 0.0) for b in (2, 4, 6)} for d in facts.decisions if d.kind == "weight"}
    sensitivity = SensitivityTable("squared_error", "squared error", entries, facts)
    wide = tables["latency_ns"].total(
        {d.name: d.fixed_bits or (6 if d.kind == "weight" else 4) for d in facts.decisions}
    )
    plan = allocate(
        sensitivity, {"latency_ns": wide - 1}, bits=[2, 4, 6], activation_bits=[4], costs=tables, front_points=0
    )
    assert plan.costs["latency_ns"] < wide
    with pytest.raises(InfeasibleError, match=r"latency_ns: asked for at most 1 ns .* smallest reachable is [0-9]+ ns"):
        allocate(sensitivity, {"latency_ns": 1}, bits=[2, 4, 6], activation_bits=[4], costs=tables)
    with pytest.raises(ConfigError, match=r"a percentage of the float32 network, whose lut is not known\. Give an abs"):
        allocate(sensitivity, {"lut": "50%"}, bits=[2, 4, 6], activation_bits=[4], costs=tables)


def test_network_that_fits_no_part_is_refused_before_tracing(graph, monkeypatch):
    monkeypatch.setattr(module, "trace_layer", None)
    with pytest.raises(TooLargeError, match=r"even at the narrowest candidate widths, the network cannot be unrolled"):
        lut_cost(graph, network_facts(graph, POW2), [2, 4], [4], config=CircuitConfig(max_luts=50))


def test_wrong_names_and_numbers_are_refused(graph):
    with pytest.raises(UnknownNameError, match=r"unknown cost metric 'luts'; did you mean 'lut'"):
        hardware_cost_tables(graph, network_facts(graph, POW2), [4], [4], ["luts"])
    with pytest.raises(UnknownNameError, match=r"unknown device 'vu9'; did you mean 'vu9p'"):
        CircuitConfig("vu9")
    with pytest.raises(ConfigError, match=r"circuit: depth must be above zero, got 0"):
        CircuitConfig(depth=0)
