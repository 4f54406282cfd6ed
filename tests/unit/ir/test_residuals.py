"""Residual streams on a grid of their own: what is copied, what is fixed, and that every executor computes the same."""

import numpy as np
import pytest
import torch
from torch import nn

import dyadiq as dq
from dyadiq.core.errors import ConfigError
from dyadiq.engine.runtime import available_isas
from dyadiq.ir.execute import run_graph
from dyadiq.ir.residuals import find_streams, separate_residuals
from dyadiq.ir.sites import find_sites


class Residual(nn.Module):
    """Two blocks; the second one's shortcut is subsampled, so that a pool stands between the stream and its add."""

    def __init__(self):
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)
        self.second, self.head = nn.Conv2d(5, 5, 3, stride=2, padding=1), nn.Linear(5, 3)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (self.first(x) + x).relu()
        x = (self.second(x) + x[:, :, ::2, ::2]).relu()
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Residual().eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(33, 3, 7, 7, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def graph(model, images):
    return separate_residuals(dq.capture(model, images[:2]))


def test_layers_read_copies_and_adds_the_stream(graph):
    copies = [node for node in graph.nodes if node.op == "concat"]
    assert len(copies) == 2
    for copy in copies:
        assert copy.output == f"{copy.inputs[0]}:narrow"
        assert [reader.op for reader in graph.consumers(copy.output)] == ["conv2d"]
        assert all(reader.op != "conv2d" for reader in graph.consumers(copy.inputs[0]))


def test_values_are_the_same_and_a_second_time_changes_nothing(model, graph, images):
    assert separate_residuals(graph) is graph
    (found,) = run_graph(graph, (images,))
    assert torch.allclose(found, model(images), atol=1e-5)


def test_a_network_without_joins_stays_as_it_is(images):
    graph = dq.capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), images[:2])
    assert separate_residuals(graph) is graph


def test_streams_have_the_fixed_width_and_layers_read_what_is_chosen(graph):
    canonical = dq.canonicalize(graph)
    facts = dq.network_facts(canonical, dq.QuantConfig(residual_bits=8))
    streams = find_streams(canonical, find_sites(canonical))
    assert len(streams) == 3
    assert {d.name for d in facts.decisions if d.fixed_bits == 8} == streams | {"x"}
    read = {layer.input for layer in facts.layers}
    assert not read & streams
    assert all(facts.decision(name).nonnegative for name in read - {"x"})


def test_widths_of_streams_need_separate_copies(model, images):
    graph = dq.canonicalize(dq.capture(model, images[:2]))
    with pytest.raises(ConfigError, match=r"residual_bits fixes .* separate_residuals"):
        dq.network_facts(graph, dq.QuantConfig(residual_bits=8))


@pytest.mark.parametrize("activation", [dq.Format(4), dq.Format(4, scheme="asymmetric"), dq.Format(2)])
def test_every_executor_computes_the_same_integers(graph, images, activation):
    config = dq.QuantConfig(activation=activation, residual_bits=8, product_bits=24)
    plan = dq.uniform_plan(dq.network_facts(dq.canonicalize(graph), config), 4, activation.bits)
    program = dq.lower(dq.quantize(graph, plan, [images], config=config))
    assert not [node for node in program.graph.nodes if node.op == "concat"]  # a copy is one requantize
    engine = ["engine"] if available_isas() else []  # needs native code
    result = dq.verify(program, images.numpy(), against=["exact", "onnx", "qonnx", "dyq", *engine])
    assert {found.mismatches for found in result.values()} == {0}


def test_eight_bits_of_stream_are_nearer_to_the_float_network_than_two(model, graph, images):
    errors = []
    for bits in (2, 8):
        config = dq.QuantConfig(residual_bits=bits)
        plan = dq.uniform_plan(dq.network_facts(dq.canonicalize(graph), config), 8, 8)
        module = dq.quantize(graph, plan, [images], config=config)
        errors.append(float((module(images) - model(images)).square().mean().detach()))
    assert errors[1] < 0.1 * errors[0]
    assert np.isfinite(errors).all()
