import numpy as np
import pytest
import torch

from dyadiq.core.affine import fit_affine
from dyadiq.core.errors import DataError, QuantError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.format import Format
from dyadiq.core.plan import uniform_plan
from dyadiq.core.ranges import HEADROOM
from dyadiq.cost.facts import network_facts
from dyadiq.ir.execute import run_graph
from dyadiq.ir.passes import canonicalize
from dyadiq.quant.calibrate import calibrate_activations, check_finite_params, fit_weights
from trainable import MODELS, captured, samples_of


class Steps:
    def __init__(self):
        self.log = []

    def start(self, label, total):
        self.log.append((label, total))

    def advance(self, steps=1, note=""):
        self.log.append(steps)

    def finish(self):
        self.log.append("finish")


def prepared(name="residual", **formats):
    model, graph = captured(name)
    canonical = canonicalize(graph)
    config = QuantConfig(activation=Format(8, range_method="minmax"), **formats)
    return canonical, uniform_plan(network_facts(canonical, config), 4, 6).formats, samples_of(model, 32)


def test_ranges_are_those_of_all_activations_when_observed_in_parts():
    graph, formats, x = prepared()
    values = {}
    run_graph(graph, x, hook=lambda name, value: values.update({name: value.numpy()}))
    got = calibrate_activations(graph, formats, [x[:10], (x[10:], torch.zeros(22))])
    assert set(got) == {name for name in formats if not name.endswith("weight")}
    for name, params in got.items():
        expected = fit_affine(values[name], formats[name])
        scale = HEADROOM * expected.scale if name in graph.outputs else expected.scale
        assert params.scale == pytest.approx(scale, rel=1e-5)  # float32 sums depend on the batch
        assert params.qtype == expected.qtype


def test_weights_are_fitted_as_folded_when_a_batchnorm_follows():
    graph, formats, _ = prepared()
    got = fit_weights(graph, formats)
    assert set(got) == {name for name in formats if name.endswith("weight")}
    for name, params in got.items():
        assert np.array_equal(params.scale, fit_affine(graph.params[name], formats[name]).scale)


def test_progress_counts_batches_when_their_number_is_known():
    graph, formats, x = prepared()
    steps = Steps()
    calibrate_activations(graph, formats, [x, x], progress=steps)
    assert steps.log == [("calibrate", 2), 1, 1, "finish"]
    steps = Steps()
    calibrate_activations(graph, formats, iter([x]), progress=steps)
    assert steps.log == [("calibrate", None), 1, "finish"]


def test_calibration_is_refused_when_there_are_no_batches():
    graph, formats, _ = prepared()
    with pytest.raises(DataError, match="no batches: got an empty iterable"):
        calibrate_activations(graph, formats, [])


def test_tensor_is_named_when_an_activation_overflows():
    graph, formats, x = prepared("perceptron")
    graph.params["fc2.weight"][0] = 3e38
    with pytest.raises(DataError, match=r"activation 'fc2': .* values are NaN or infinite"):
        calibrate_activations(graph, formats, [x.abs() * 1e6])


def test_batch_is_named_when_an_input_is_not_finite():
    graph, formats, x = prepared()
    x[0, 0, 0, 0] = torch.nan
    with pytest.raises(DataError, match=r"batch 1: .* NaN or infinite"):
        calibrate_activations(graph, formats, [samples_of(MODELS["residual"], 2), x])


def test_weight_is_named_when_the_group_size_does_not_divide():
    graph, formats, _ = prepared()
    formats = dict.fromkeys(formats, Format(4, signed=True, granularity="group", group_size=5))
    with pytest.raises(QuantError, match=r"conv1\.weight: group_size must divide the 18 weights"):
        fit_weights(graph, formats)


def test_parameters_are_all_named_when_several_are_not_finite():
    params = {"a": np.array([np.nan, 1.0]), "b": np.ones(2), "c": np.array([np.inf])}
    with pytest.raises(QuantError, match=r"a \(1 of 2\), c \(1 of 1\)"):
        check_finite_params(params)
