"""The torch interpreter of float graphs, against numpy and torch autograd; and what a batch is."""

import numpy as np
import pytest
import torch

from dyadiq.core.errors import DataError, GraphError
from dyadiq.ir.execute import batch_inputs, graph_params, iterate_batches, run_graph, run_node
from dyadiq.ir.graph import Graph, Node, TensorInfo

CONV = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": 2}


def two_layers():
    """``relu(x A^T + a) B^T``, with the hidden layer an output too."""
    rng = np.random.default_rng(0)
    nodes = (
        Node("a", "linear", ("x", "a.weight", "a.bias"), "h", {"activation": "relu"}),
        Node("b", "linear", ("h", "b.weight"), "y"),
    )
    params = {"a.weight": rng.normal(size=(4, 3)), "a.bias": rng.normal(size=4), "b.weight": rng.normal(size=(2, 4))}
    tensors = {"x": TensorInfo((3,)), "h": TensorInfo((4,)), "y": TensorInfo((2,))}
    return Graph("float", ("x",), ("y", "h"), nodes, tensors, params)


def naive_conv2d(x, weight, bias, attrs):
    """Convolution by its definition, one output at a time."""
    (sh, sw), (ph, pw), (dh, dw) = attrs["stride"], attrs["padding"], attrs["dilation"]
    x = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    n_out, n_in, kh, kw = weight.shape
    height = (x.shape[2] - dh * (kh - 1) - 1) // sh + 1
    width = (x.shape[3] - dw * (kw - 1) - 1) // sw + 1
    result = np.zeros((len(x), n_out, height, width))
    for n, o, i, j in np.ndindex(*result.shape):
        first = o // (n_out // attrs["groups"]) * n_in
        window = x[n, first : first + n_in, i * sh : i * sh + dh * kh : dh, j * sw : j * sw + dw * kw : dw]
        result[n, o, i, j] = (window[:, :kh, :kw] * weight[o]).sum() + bias[o]
    return result


def naive_pool2d(x, attrs, reduce, fill):
    """Pooling without ceil_mode, one window at a time."""
    (kh, kw), (sh, sw), (ph, pw) = attrs["kernel"], attrs["stride"], attrs["padding"]
    x = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=fill)
    height, width = (x.shape[2] - kh) // sh + 1, (x.shape[3] - kw) // sw + 1
    result = np.zeros((*x.shape[:2], height, width))
    for n, c, i, j in np.ndindex(*result.shape):
        result[n, c, i, j] = reduce(x[n, c, i * sh : i * sh + kh, j * sw : j * sw + kw])
    return result


def run_one(op, attrs, *arrays):
    return run_node(Node("n", op, (), "n", attrs), [torch.tensor(a) for a in arrays]).numpy()


def test_conv2d_computes_its_definition():
    rng = np.random.default_rng(1)
    x, weight, bias = rng.normal(size=(2, 4, 7, 8)), rng.normal(size=(6, 2, 3, 2)), rng.normal(size=6)
    np.testing.assert_allclose(run_one("conv2d", CONV, x, weight, bias), naive_conv2d(x, weight, bias, CONV))


def test_pools_compute_their_definition():
    x = np.random.default_rng(2).normal(size=(2, 3, 7, 8))
    window = {"kernel": (3, 2), "stride": (2, 3), "padding": (1, 0)}
    maximum = run_one("max_pool2d", {**window, "dilation": (1, 1), "ceil_mode": False}, x)
    np.testing.assert_array_equal(maximum, naive_pool2d(x, window, np.max, -np.inf))
    mean = run_one("avg_pool2d", {**window, "count_include_pad": True}, x)
    np.testing.assert_allclose(mean, naive_pool2d(x, window, np.mean, 0.0))


def test_batch_norm_uses_running_statistics():
    rng = np.random.default_rng(3)
    x, gamma, beta, mean = rng.normal(size=(5, 2)), rng.normal(size=2), rng.normal(size=2), rng.normal(size=2)
    var = rng.uniform(1, 2, size=2)
    result = run_one("batch_norm", {"eps": 0.1}, x, gamma, beta, mean, var)
    np.testing.assert_allclose(result, gamma * (x - mean) / np.sqrt(var + 0.1) + beta)


def test_small_operators():
    x = np.arange(-4.0, 4.0).reshape(1, 2, 2, 2)
    np.testing.assert_array_equal(run_one("relu", {}, x), np.maximum(x, 0))
    np.testing.assert_array_equal(run_one("add", {"activation": "relu"}, x, x), np.maximum(2 * x, 0))
    np.testing.assert_array_equal(run_one("concat", {}, x, x, x), np.concatenate([x, x, x], axis=1))
    np.testing.assert_array_equal(run_one("flatten", {}, x), x.reshape(1, 8))


def test_attributes_may_be_lists():
    x = np.ones((1, 1, 4, 4))
    as_lists = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0], "count_include_pad": True}
    assert run_one("avg_pool2d", as_lists, x).shape == (1, 1, 2, 2)


def test_outputs_come_in_the_order_of_the_graph():
    graph, x = two_layers(), torch.randn(5, 3, dtype=torch.float64)
    p = graph_params(graph, torch.float64)
    hidden = torch.relu(x @ p["a.weight"].T + p["a.bias"])
    y, h = run_graph(graph, x)
    torch.testing.assert_close(h, hidden)
    torch.testing.assert_close(y, hidden @ p["b.weight"].T)


@pytest.mark.parametrize("form", ["tensor", "sequence", "mapping"])
def test_inputs_may_come_in_three_forms(form):
    x = torch.randn(2, 3)
    result = run_graph(two_layers(), {"tensor": x, "sequence": [x], "mapping": {"x": x}}[form])
    assert result[0].dtype == torch.float32
    assert result[0].shape == (2, 2)


def test_dtype_follows_params_when_they_are_given():
    graph = two_layers()
    only_one = {"b.weight": torch.zeros(2, 4, dtype=torch.float64)}
    assert run_graph(graph, torch.randn(2, 3), only_one)[1].dtype == torch.float64


def test_gradients_reach_inputs_and_params():
    graph = two_layers()
    params = {name: p.requires_grad_() for name, p in graph_params(graph, torch.float64).items()}
    names = list(params)

    def loss(x, *values):
        return run_graph(graph, x, dict(zip(names, values, strict=True)))[0]

    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (x, *params.values()))


def test_params_share_no_memory_with_the_graph():
    graph = two_layers()
    graph_params(graph, torch.float64)["a.bias"].zero_()
    assert np.abs(graph.params["a.bias"]).min() > 0


def test_hook_sees_every_tensor_once_and_may_replace_it():
    seen = []

    def hook(name, value):
        seen.append(name)
        return torch.zeros_like(value) if name == "h" else None

    y, h = run_graph(two_layers(), torch.randn(2, 3), hook=hook)
    assert seen == ["x", "h", "y"]
    assert not y.any()
    assert not h.any()


def test_inputs_of_a_residual_survive_until_their_last_reader():
    nodes = (Node("r", "relu", ("x",), "r"), Node("s", "add", ("x", "r"), "s"), Node("t", "add", ("x", "x"), "t"))
    graph = Graph("float", ("x",), ("t", "s"), nodes, dict.fromkeys("xrst", TensorInfo((1,))), {})
    t, s = run_graph(graph, torch.tensor([[-1.0]]))
    assert (t.item(), s.item()) == (-2.0, -1.0)


def test_integer_graph_is_refused():
    with pytest.raises(GraphError, match=r"executes the float dialect.*run_reference"):
        run_graph(two_layers().replace(dialect="integer"), torch.zeros(1, 3))


def test_unknown_operator_is_refused():
    with pytest.raises(GraphError, match=r"n: 'gelu' is no operator of the float dialect. Known: add"):
        run_one("gelu", {}, np.zeros(1))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros(2, 4), r"input 'x': got shape \[2, 4\], expected \[N, 3\]"),
        ([torch.zeros(2, 3)] * 2, r"the graph has 1 inputs \['x'\], got 2"),
        ({"z": torch.zeros(2, 3)}, r"inputs are \['x'\], got \['z'\]"),
    ],
)
def test_wrong_inputs_are_refused(inputs, message):
    with pytest.raises(DataError, match=message):
        run_graph(two_layers(), inputs)


@pytest.mark.parametrize(
    "batch",
    [
        torch.ones(2, 3),
        np.ones((2, 3)),
        (np.ones((2, 3), dtype=np.uint8), np.zeros(2)),
        [torch.ones(2, 3, dtype=torch.float64), "labels"],
    ],
)
def test_batch_inputs_takes_the_input_of_any_batch(batch):
    assert torch.equal(batch_inputs(batch), torch.ones(2, 3))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((), r"empty tuple or list, expected \(inputs"),
        (torch.zeros(0, 3), r"inputs are empty: got shape \[0, 3\]"),
        (np.array(3.0), r"inputs are empty: got shape \[\]"),
        ({"x": 1}, "input 'x': a batch must be .* got int"),
        ((3, 4), "starts with one of these, got int"),
        ({}, "must be of one batch size, got none"),
        ({"a": np.ones((2, 3)), "b": np.ones((3, 3))}, r"one batch size, got \{'a': 2, 'b': 3\}"),
        (np.array(["a"]), "real numbers, got an array of <U1"),
        (torch.zeros(2, dtype=torch.complex64), "real numbers, got a tensor of torch.complex64"),
        (
            torch.tensor([[1.0, 2.0], [np.nan, np.inf]]),
            r"2 values that are NaN or infinite, .* index \[1, 0\]",
        ),
    ],
)
def test_unusable_batch_is_refused(batch, message):
    with pytest.raises(DataError, match=message):
        batch_inputs(batch)


@pytest.mark.parametrize("batch", [{"a": np.ones((2, 3)), "b": torch.zeros(2, 1)}])
@pytest.mark.parametrize("labels", [False, True])
def test_batch_inputs_takes_a_mapping_by_input_name(batch, labels):
    inputs = batch_inputs((batch, np.zeros(2)) if labels else batch).to(torch.float64)
    assert list(inputs) == ["a", "b"]
    assert torch.equal(inputs["a"], torch.ones(2, 3, dtype=torch.float64))


def test_batches_are_named_by_index_when_one_is_bad():
    with pytest.raises(DataError, match="batch 1: batch inputs are empty"):
        list(iterate_batches([torch.ones(1, 1), torch.ones(0, 1)]))


def test_no_batches_are_refused():
    with pytest.raises(DataError, match=r"no batches: .* A generator can be read only once"):
        list(iterate_batches(iter([])))
