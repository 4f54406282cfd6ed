"""Passes: each preserves what a graph computes, changes nothing when run twice, and leaves a legal graph."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cases import CASES, build
from dyadiq.core.errors import GraphError
from dyadiq.ir.capture import capture
from dyadiq.ir.check import check_graph
from dyadiq.ir.execute import graph_params, run_graph
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.passes import CANONICAL_PASSES, canonicalize, find_batchnorm_pairs

# Both sides in float64; folding rounds weights to float32 once: relative error 2**-24 per weight.
FOLD_TOLERANCE = 1e-5


def captured(name):
    model, inputs = build(name)
    return capture(model, inputs), [x.double() for x in inputs]


@pytest.fixture(scope="module", params=sorted(CASES))
def case(request):
    return captured(request.param)


def outputs(graph, inputs):
    return run_graph(graph, inputs, graph_params(graph, torch.float64))


def assert_same_function(before, after, inputs):
    for theirs, ours in zip(outputs(before, inputs), outputs(after, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=FOLD_TOLERANCE, atol=FOLD_TOLERANCE)


def test_passes_preserve_function_and_are_idempotent(case):
    graph, inputs = case
    for run_pass in CANONICAL_PASSES.values():
        result = run_pass(graph)
        check_graph(result)
        assert_same_function(graph, result, inputs)
        again = run_pass(result)
        assert again.nodes == result.nodes
        assert list(again.params) == list(result.params)
        assert all(np.array_equal(again.params[name], value) for name, value in result.params.items())
        assert len(result.outputs) == len(graph.outputs)
        graph = result


def test_canonical_graph_has_no_batch_norm_and_no_fusable_relu(case):
    graph = canonicalize(case[0])
    producers = {node.output: node for node in graph.nodes}
    assert all(node.op != "batch_norm" for node in graph.nodes)
    for node in graph.nodes:
        if node.op == "relu" and (producer := producers.get(node.inputs[0])):
            is_shared = len(graph.consumers(producer.output)) > 1 or producer.output in graph.outputs
            assert is_shared or producer.op in ("concat", "relu")


def test_folding_keeps_names_of_node_and_parameters():
    graph, _ = captured("mlp_batchnorm")
    first = canonicalize(graph).nodes[0]
    assert (first.name, first.inputs, first.output) == ("0", ("input", "0.weight", "0.bias"), "2")
    assert first.attrs == {"activation": "relu"}
    assert [(a.name, b.name) for a, b in find_batchnorm_pairs(graph)] == [("0", "1")]


def test_folding_gives_the_textbook_values():
    graph, _ = captured("mlp_batchnorm")
    p = {k: v.astype(np.float64) for k, v in graph.params.items()}
    factor = p["1.weight"] / np.sqrt(p["1.running_var"] + 1e-5)
    folded = canonicalize(graph).params
    np.testing.assert_array_equal(folded["0.weight"], (p["0.weight"] * factor[:, None]).astype(np.float32))
    np.testing.assert_array_equal(folded["0.bias"], (p["1.bias"] - p["1.running_mean"] * factor).astype(np.float32))
    assert folded["0.weight"].dtype == np.float32


def test_folding_copies_weight_when_layers_share_it():
    graph = canonicalize(captured("shared_layer")[0])
    assert [node.inputs[1:] for node in graph.nodes] == [
        ("conv.weight", "conv.bias"),
        ("conv:1.weight", "conv:1.bias"),
    ]


def test_folding_renames_weight_when_an_unfolded_layer_needs_it():
    graph, inputs = captured("shared_layer")
    plain = next(n for n in graph.nodes if n.name == "conv:1")
    nodes = [n for n in graph.nodes if n.name not in ("bns.1", "relu:1")]
    graph = graph.replace(outputs=(plain.output,)).without_unused(nodes)
    folded = canonicalize(graph)
    assert folded.nodes[0].inputs[1] == "conv.weight:folded"
    assert folded.nodes[1].inputs[1] == "conv.weight"
    assert_same_function(graph, folded, inputs)


def test_batch_norm_after_concat_becomes_depthwise_conv():
    graph, _ = captured("densenet")
    node = next(n for n in canonicalize(graph).nodes if n.name == "last")
    assert (node.op, node.attrs["groups"], node.attrs["activation"]) == ("conv2d", 10, "relu")
    assert node.inputs[1:] == ("last.weight", "last.bias")


def test_batch_norm_with_shared_input_layer_is_not_folded():
    graph, _ = captured("shared_activation")
    assert find_batchnorm_pairs(graph) == []
    assert {n.name for n in canonicalize(graph).nodes} >= {"a", "bn"}


def test_batch_norm_called_twice_keeps_one_weight():
    norm = torch.nn.BatchNorm2d(3)

    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = norm

        def forward(self, x):
            return self.norm(torch.relu(self.norm(x)))

    graph = canonicalize(capture(Twice(), torch.randn(2, 3, 4, 4)))
    assert list(graph.params) == ["norm.weight", "norm.bias"]


@pytest.mark.parametrize(
    ("modules", "reason"),
    [
        ([torch.nn.BatchNorm1d(4)], "it reads a graph input, and its result is not read by one linear alone"),
        ([torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.BatchNorm1d(4)], "it reads the result of '1' \\(relu\\)"),
    ],
)
def test_lone_batch_norm_on_features_says_what_to_do(modules, reason):
    graph = capture(torch.nn.Sequential(*modules), torch.randn(2, 4))
    with pytest.raises(GraphError, match=rf"batch norm on \[N, 4\] that cannot be folded.*{reason}.*directly after"):
        canonicalize(graph)


def test_every_lone_batch_norm_is_listed_at_once():
    modules = [torch.nn.BatchNorm1d(4), torch.nn.ReLU(), torch.nn.BatchNorm1d(4)]
    graph = capture(torch.nn.Sequential(*modules), torch.randn(2, 4))
    with pytest.raises(GraphError, match=r"0: batch norm on \[N, 4\] .*; 2: batch norm on \[N, 4\] .*directly after"):
        canonicalize(graph)


def test_lone_batch_norm_on_features_names_the_shared_layer():
    class Shared(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.bn = torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4)

        def forward(self, x):
            x = self.fc(x)
            return self.bn(x) + x

    with pytest.raises(GraphError, match="other nodes or outputs read 'fc' too"):
        canonicalize(capture(Shared(), torch.randn(2, 4)))


def randomized(model):
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            for value in (module.weight, module.bias, module.running_mean):
                value.data = torch.randn(value.shape, generator=generator)
            module.running_var = torch.rand(module.num_features, generator=generator) + 0.5
    return model


@pytest.mark.parametrize(
    "modules",
    [
        [torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3)],
        [torch.nn.BatchNorm1d(4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3, bias=False), torch.nn.BatchNorm1d(3)],
        [torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 3)],
    ],
)
def test_batch_norm_before_a_linear_is_folded_into_it(modules):
    inputs = torch.randn(8, 4)
    graph = capture(randomized(torch.nn.Sequential(*modules)), inputs)
    result = canonicalize(graph)
    assert {node.op for node in result.nodes} == {"linear"}
    assert_same_function(graph, result, [inputs.double()])


def test_batch_norm_is_folded_forward_when_the_layer_before_has_other_readers():
    class Shared(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.bn, self.last = torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 4)

        def forward(self, x):
            x = self.fc(x)
            return self.last(self.bn(x)) + x

    inputs = torch.randn(8, 4)
    graph = capture(randomized(Shared()), inputs)
    result = canonicalize(graph)
    assert [node.op for node in result.nodes] == ["linear", "linear", "add"]
    assert_same_function(graph, result, [inputs.double()])


def test_forward_folding_copies_a_weight_that_another_layer_reads():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.bn = torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4)

        def forward(self, x):
            return self.fc(self.bn(torch.relu(self.fc(x))))

    inputs = torch.randn(8, 4)
    graph = capture(randomized(Twice()), inputs)
    result = canonicalize(graph)
    assert [node.inputs[1] for node in result.nodes] == ["fc.weight", "fc:1.weight"]
    assert_same_function(graph, result, [inputs.double()])


def test_negative_variance_is_refused():
    graph, _ = captured("mlp_batchnorm")
    variance = graph.params["1.running_var"].copy()
    variance[3] = -1.0
    broken = graph.replace(params={**graph.params, "1.running_var": variance})
    with pytest.raises(GraphError, match=r"1: running variance \+ eps is -0.99999 in channel 3, expected > 0"):
        canonicalize(broken)


def test_relu_stays_when_the_raw_value_is_read_too():
    graph, _ = captured("two_inputs")
    result = canonicalize(graph)
    assert [(n.op, dict(n.attrs)) for n in result.nodes][-2:] == [("add", {}), ("relu", {})]


def test_relu_stays_when_another_node_reads_the_raw_value():
    nodes = (Node("a", "add", ("x", "x"), "a"), Node("r", "relu", ("a",), "r"), Node("j", "add", ("a", "r"), "j"))
    graph = Graph("float", ("x",), ("j",), nodes, dict.fromkeys("xarj", TensorInfo((2,))), {})
    assert canonicalize(graph).nodes == nodes


def test_batch_norm_is_not_folded_when_the_layer_is_an_output_too():
    graph, inputs = captured("depthwise")
    graph = graph.replace(outputs=(*graph.outputs, "0"))
    assert find_batchnorm_pairs(graph) == []
    assert_same_function(graph, canonicalize(graph), inputs)


def test_two_relus_in_a_row_are_one():
    nodes = (Node("a", "add", ("x", "x"), "a"), Node("r", "relu", ("a",), "r"), Node("s", "relu", ("r",), "s"))
    graph = Graph("float", ("x",), ("s",), nodes, dict.fromkeys("xars", TensorInfo((2,))), {})
    assert canonicalize(graph).nodes == (Node("a", "add", ("x", "x"), "s", {"activation": "relu"}),)


class _PoolFirst(torch.nn.Module):
    """conv, batch norm, max pool, flatten, relu; ``read_pool`` adds a second reader of the pool."""

    def __init__(self, read_pool=False, relu_last=False):
        super().__init__()
        self.conv, self.bn = torch.nn.Conv2d(2, 3, 3, padding=1), torch.nn.BatchNorm2d(3)
        self.pool, self.relu, self.fc = torch.nn.MaxPool2d(3, 2, 1), torch.nn.ReLU(), torch.nn.Linear(12, 2)
        self.read_pool, self.relu_last = read_pool, relu_last

    def forward(self, x):
        raw = self.pool(self.bn(self.conv(x))).flatten(1)
        x = self.relu(raw)
        x = x + raw if self.read_pool else x
        return x if self.relu_last else self.fc(x)


def test_relu_is_fused_when_a_pool_and_a_flatten_are_between():
    inputs = torch.randn(4, 2, 4, 4)
    graph = capture(_PoolFirst(), inputs)
    result = canonicalize(graph)
    assert [(n.name, n.op, n.output) for n in result.nodes] == [
        ("conv", "conv2d", "relu"),
        ("pool", "max_pool2d", "pool"),
        ("flatten", "flatten", "flatten"),
        ("fc", "linear", "fc"),
    ]
    assert result.nodes[0].attrs["activation"] == "relu"
    assert [result.tensors[n].shape for n in ("relu", "pool", "flatten")] == [(3, 4, 4), (3, 2, 2), (12,)]
    assert_same_function(graph, result, [inputs.double()])


@pytest.mark.parametrize("options", [{"read_pool": True}, {"relu_last": True}])
def test_relu_stays_below_the_pool_when_its_place_shows(options):
    graph = capture(_PoolFirst(**options), torch.randn(4, 2, 4, 4))
    assert canonicalize(graph).outputs == graph.outputs
    assert [n.op for n in canonicalize(graph).nodes][:4] == ["conv2d", "max_pool2d", "flatten", "relu"]


def test_dead_nodes_go_with_their_parameters():
    nodes = (Node("fc", "linear", ("x", "w"), "fc"), Node("r", "relu", ("x",), "r"))
    graph = Graph("float", ("x",), ("r",), nodes, dict.fromkeys(("x", "fc", "r"), TensorInfo((2,))), {"w": np.eye(2)})
    result = canonicalize(graph)
    assert [node.name for node in result.nodes] == ["r"]
    assert (list(result.params), sorted(result.tensors)) == ([], ["r", "x"])


def test_canonicalize_names_the_pass_that_breaks_a_graph(monkeypatch):
    def lose_output(graph):
        return graph.replace(nodes=tuple(replace(n, output=n.output + "!") for n in graph.nodes))

    monkeypatch.setattr("dyadiq.ir.passes.CANONICAL_PASSES", {"lose_output": lose_output})
    with pytest.raises(GraphError, match=r"after pass 'lose_output': .*bug of the pass"):
        canonicalize(captured("mlp")[0])
