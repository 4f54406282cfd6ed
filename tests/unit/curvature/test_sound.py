"""Bad data of sensitivities: each is refused with its tensor's name, or handled by a policy that is stated."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from dyadiq.allocation import allocate
from dyadiq.core.errors import ConfigError, DataError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.format import Format
from dyadiq.curvature import LABELLED_METHODS, METHODS, analyze
from dyadiq.curvature.sample_norms import sample_norms
from dyadiq.ir.capture import capture
from dyadiq.quant.lower import lower
from dyadiq.quant.quantize import quantize
from dyadiq.targets.verify import verify
from graphs import FloatGraph, gated, mlp, samples


def steep():
    """An ordinary forward pass; second derivatives with respect to the first layer leave float32."""
    g = FloatGraph(4)
    graph = g.build(g.linear("second", g.linear("first", "x", 8, relu=True), 3))
    for name in ("first.weight", "first.bias"):
        g.params[name] *= 1e-20
    g.params["second.weight"] *= 1e21
    return graph


def measure(graph, method, *, scale=1.0, **options):
    x = samples(graph, 12) * scale
    batches = [(x, np.arange(12) % 3)] if method in LABELLED_METHODS else [x]
    return analyze(graph, batches, method, **{"bits": (2, 8)} | options)


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("squared_error", "sampled_trace")])
def test_tensors_that_no_sample_reached_are_refused_by_name(method):
    message = (
        r"3 of \d tensors had no effect on the loss of any of the 12 samples, so that nothing was measured about "
        r"them: closed.weight \(no effect\), closed \(zero in every sample\), behind.weight \(no effect\)\. A sens"
        r".*fewest bits\. Give calibration data that reach them.*unreached='worst'"
    )
    with pytest.raises(DataError, match=message):
        measure(gated(), method)


def test_weights_that_no_sample_reached_are_refused_where_only_weights_are_measured():
    with pytest.raises(DataError, match=r"2 of 4 tensors .*: closed.weight \(no effect\), behind.weight \(no effect\)"):
        measure(gated(), "sampled_trace", activation_bits=())


def test_silent_activation_is_refused_where_weights_need_no_data():
    with pytest.raises(DataError, match=r"1 of \d tensors had no effect .*: closed \(zero in every sample\)"):
        measure(gated(), "squared_error")


def test_unreached_tensors_count_as_the_worst_of_their_kind_when_asked_for():
    table = measure(gated(), "gram", unreached="worst")
    weights, activations = ("near.weight", "fc.weight"), ("near", "join")
    for bits in (2, 8):
        worst = max(table.value(name, bits) for name in weights)
        assert table.value("closed.weight", bits) == table.value("behind.weight", bits) == worst > 0
        assert table.value("closed", bits) >= max(table.value(name, bits) for name in activations) > 0
    assert table.notes[-1].startswith("not reached by the calibration data, taken for as sensitive as the worst of")
    assert "closed (zero in every sample)" in table.notes[-1]
    assert allocate(table, {"bits": 5.0}, bits=[2, 8]).bits["closed.weight"] == 8


def test_saturated_outputs_are_told_as_such_since_nothing_can_be_compared():
    graph = mlp()
    graph.params["fc2.weight"] *= 1e-3
    graph.params["fc2.bias"][:] = (1e4, 0.0, -1e4)
    with pytest.raises(DataError, match=r"5 of 5 tensors .* These are all; perhaps the outputs are saturated"):
        measure(graph, "trace", precision="float64")
    with pytest.raises(DataError, match=r"fc0.weight: no calibration sample reached it, and there is no other weight"):
        measure(graph, "trace", precision="float64", unreached="worst")


def test_exact_zeros_are_measurements_where_quantization_changes_nothing():
    graph = mlp()
    graph.params["fc0.weight"][:] = np.sign(graph.params["fc0.weight"])
    table = measure(graph, "gram")
    assert table.value("fc0.weight", 2) == table.value("fc0.weight", 8) == 0.0
    assert not any("not reached" in note for note in table.notes)


def test_unknown_policy_is_refused():
    with pytest.raises(ConfigError, match=r"analyze: unreached must be one of refuse, worst, got 'skip'"):
        measure(mlp(), "gram", unreached="skip")


@pytest.mark.parametrize("method", ["data_splits", "eigenvalue", "hessian_trace", "hessian_xtrace"])
def test_curvature_out_of_float32_is_refused_by_name_and_measured_in_float64(method):
    with pytest.raises(
        DataError, match=r"first.weight: a product with the curvature .* NaN or infinite in float32\. U"
    ):
        measure(steep(), method)
    table = measure(steep(), method, precision="float64")
    assert table.value("first.weight", 2) > table.value("first.weight", 8) > 0


def test_sensitivities_that_are_not_finite_are_refused_by_name(monkeypatch):
    def overflowing(problem, *args):
        return {n: v * (np.inf if n == "fc1.weight" else 1.0) for n, v in sample_norms(problem, *args).items()}

    monkeypatch.setattr(sys.modules["dyadiq.curvature.trace"], "sample_norms", overflowing)
    with pytest.raises(
        DataError, match=r"method 'trace': the sensitivity of fc1.weight is NaN or infinite on the cali"
    ):
        measure(mlp(), "trace", activation_bits=())


@pytest.mark.parametrize("method", ["gram", "trace", "sampled_trace"])
def test_first_tensor_that_is_not_finite_is_named_with_its_layer_and_sample(method):
    graph = mlp()
    graph.params["fc1.weight"][0] = 1e20
    x = np.abs(samples(graph, 12))
    graph.params["fc0.bias"][:] = 0.0
    x[:7] *= 1e-6
    x[7:] *= 1e20
    message = (
        r"The first tensor with such values is 'fc1', made by linear of fc1.weight \(up to 1e\+20\), .*sample 7\.$"
    )
    with pytest.raises(DataError, match=message):
        analyze(graph, [x[:3], x[3:]], method, bits=(4,), activation_bits=())


class Cripple(nn.Module):
    """Channels dead in every way: zero filters, relus that never open, unread ones; and a head that is never called."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6)
        self.second, self.head, self.aux = nn.Conv2d(6, 4, 3), nn.Linear(4, 3), nn.Linear(4, 9)
        with torch.no_grad():
            self.first.weight[0] = 0.0
            self.norm.weight[1] = 0.0
            self.norm.bias[2] = -1e4
            self.second.weight[:, 3] = 0.0
            self.second.weight[1] = 0.0

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.norm(self.first(x)))))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("range_method", ["minmax", "mse", "percentile"])
@pytest.mark.parametrize("scale", ["float", "pow2"])
def test_dead_channels_have_the_scale_of_their_tensor_and_go_through_the_whole_pipeline(range_method, scale):
    x = torch.randn(16, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    graph = capture(Cripple().eval(), (x[:2],))
    weight = Format(8, signed=True, narrow=True, granularity="channel", range_method=range_method, scale=scale)
    config = QuantConfig(weight=weight)
    table = analyze(graph, [x], "trace", bits=(2, 4, 8), config=config)
    plan = allocate(table, {"bits": 4}, bits=(2, 4, 8))
    qmod = quantize(graph, plan, [x], config=config)
    found = verify(lower(qmod), x.numpy(), against=["exact"])["exact"]
    assert found.mismatches == 0
    assert found.compared == 16 * 3


def test_parameters_that_the_forward_pass_does_not_use_are_told():
    x = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    graph = capture(Cripple().eval(), (x[:2],))
    assert graph.meta["unused_parameters"] == ["aux.bias", "aux.weight"]
    assert analyze(graph, [x], bits=(4,)).notes[-1].startswith("the forward pass does not use aux.bias, aux.weight: in")
