import numpy as np
import pytest
import torch

from dyadiq.ir.biases import weight_biases
from dyadiq.ir.execute import graph_params, run_graph
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.passes import canonicalize
from dyadiq.quant.candidates import rounded_candidates
from trainable import MODELS, captured, samples_of


@pytest.mark.parametrize("bits", [2, 4])
def test_moved_bias_keeps_the_mean_of_a_layers_outputs(bits):
    _, graph = captured("perceptron")
    canonical, x = canonicalize(graph), samples_of(MODELS["perceptron"], 40) + 1.0
    found = rounded_candidates(canonical, [x], (bits,))
    params = graph_params(canonical, torch.float64)
    node = next(node for node in canonical.nodes if node.op == "linear")
    _, weight, bias = node.inputs
    wanted = x.double() @ params[weight].T + params[bias]
    rounded = x.double() @ torch.tensor(found[weight, bits]).T
    error = (rounded + torch.tensor(found[bias, bits]) - wanted).mean(0)
    left = (rounded + params[bias] - wanted).mean(0)  # without the moved bias
    assert error.abs().max() < 0.02 * left.abs().max()


def test_every_weight_has_candidates_and_every_bias_that_can_move():
    _, graph = captured("residual")
    canonical, x = canonicalize(graph), samples_of(MODELS["residual"], 8)
    found = rounded_candidates(canonical, [x], (3, 5))
    biases = weight_biases(canonical)
    weights = {node.inputs[1] for node in canonical.nodes if node.op in ("conv2d", "linear")}
    assert biases
    assert set(found) == {(name, bits) for name in weights | set(biases.values()) for bits in (3, 5)}
    assert all(value.shape == canonical.params[name].shape for (name, _), value in found.items())
    changed = {name: torch.tensor(found[name, 5], dtype=torch.float32) for name, bits in found if bits == 5}
    exact, near = (run_graph(canonical, x, graph_params(canonical) | c)[0] for c in ({}, changed))
    assert 0 < (near - exact).norm() < 0.5 * exact.norm()


def test_bias_that_two_layers_read_does_not_move():
    params = {"w1": np.eye(2), "w2": np.eye(2), "b": np.ones(2)}
    nodes = (Node("a", "linear", ("x", "w1", "b"), "y"), Node("c", "linear", ("y", "w2", "b"), "z"))
    infos = {name: TensorInfo((2,)) for name in "xyz"}
    graph = Graph("float", ("x",), ("z",), nodes, infos, params)
    assert weight_biases(graph) == {}
    assert set(rounded_candidates(graph, [np.eye(2)], (4,))) == {("w1", 4), ("w2", 4)}
