"""Capture: the graph computes what the model does, under its names; what it refuses is in test_capture_errors."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import nn

from cases import CASES, Function, build
from dyadiq.core.errors import CaptureError
from dyadiq.ir.capture import capture
from dyadiq.ir.check import check_graph
from dyadiq.ir.execute import run_graph

IMAGE = (3, 4, 4)


def capture_function(function, shape=IMAGE, n_rows=1):
    return capture(Function(function), torch.randn(n_rows, *shape))


def ops(graph):
    return [node.op for node in graph.nodes]


def names(graph):
    return [node.name for node in graph.nodes]


def flat(outputs):
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    return [t for item in outputs for t in flat(item)] if isinstance(outputs, (list, tuple)) else [outputs]


@pytest.mark.parametrize("name", sorted(CASES))
def test_graph_equals_model_on_fresh_data(name):
    model, inputs = build(name)
    graph = capture(model, inputs)
    check_graph(graph)
    fresh = [torch.randn(5, *x.shape[1:], generator=torch.Generator().manual_seed(1)) for x in inputs]
    with torch.no_grad():
        wanted = flat(model.eval()(*(x.clone() for x in fresh)))
    for theirs, ours in zip(wanted, run_graph(graph, fresh), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", sorted(CASES))
def test_parameters_are_the_model_s_own(name):
    model, inputs = build(name)
    graph = capture(model, inputs)
    state = model.state_dict()
    made_up = {"0.1.0.weight", "0.1.0.bias"} if name == "nested" else set()  # of a batch norm without affine
    assert set(graph.params) - set(state) == made_up
    for key in set(graph.params) - made_up:
        np.testing.assert_array_equal(graph.params[key], state[key].numpy())
        assert not np.shares_memory(graph.params[key], state[key].numpy())


def test_model_is_left_as_it_was():
    model, inputs = build("resnet")
    model.layer1.eval()  # a mixture of modes
    state, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    given = inputs[0].clone()
    capture(model, inputs)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert torch.equal(inputs[0], given)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_mode_is_restored_when_capture_fails():
    model = nn.Sequential(nn.Linear(3, 3), nn.Mish()).train()
    with pytest.raises(CaptureError):
        capture(model, torch.randn(2, 3))
    assert all(m.training for m in model.modules())


def test_random_state_is_left_as_it_was():
    model, inputs = build("mlp")
    before = torch.get_rng_state()
    capture(model, inputs)
    assert torch.equal(torch.get_rng_state(), before)


def test_nodes_are_named_by_module_path():
    model, inputs = build("resnet")
    graph = capture(model, inputs)
    assert names(graph)[:13] == [
        "conv1",
        "bn1",
        "relu",
        "layer1.0.conv1",
        "layer1.0.bn1",
        "layer1.0.relu",
        "layer1.0.conv2",
        "layer1.0.bn2",
        "layer1.0:add",
        "layer1.0.relu:1",
        "layer2.0.downsample.0",
        "layer2.0.downsample.1",
        "layer2.0.conv1",
    ]
    assert [n.output for n in graph.nodes] == names(graph)
    assert graph.inputs == ("x",)
    assert graph.meta["model"] == "ResNet"


def test_repeated_calls_are_numbered():
    model, inputs = build("shared_layer")
    assert names(capture(model, inputs)) == ["conv", "bns.0", "relu", "conv:1", "bns.1", "relu:1"]


def test_inputs_take_the_names_of_forward_s_arguments():
    model, inputs = build("two_inputs")
    graph = capture(model, inputs)
    assert (graph.inputs, graph.outputs) == (("left", "right"), ("add", "relu"))
    assert "unused" not in names(graph)


def test_layer_keeps_its_path_when_an_argument_has_the_same_name():
    model, inputs = build("two_inputs")
    layer = capture(model, inputs).nodes[0]
    assert (layer.name, layer.inputs, layer.output) == ("left", ("left", "left.weight", "left.bias"), "left:1")


def test_inputs_may_come_as_star_arguments():
    class Star(nn.Module):
        def forward(self, first, *others):
            return first + others[0] + others[1]

    graph = capture(Star(), [torch.randn(2, 3)] * 3)
    assert len(graph.inputs) == 3
    assert ops(graph) == ["add", "add"]


def test_nodes_know_the_line_of_the_user_s_code():
    model, inputs = build("shared_activation")
    line = next(n.source for n in capture(model, inputs).nodes if n.op == "concat")
    path, number = line.split(":")
    assert path == "tests/cases.py"
    lines = Path(sys.modules["cases"].__file__).read_text().splitlines()
    assert lines[int(number) - 1].strip() == "return torch.cat([a + b, a, raw], 1)"


def test_source_is_the_module_path_when_no_user_code_is_on_the_stack():
    assert capture(nn.Sequential(nn.Linear(2, 2)), torch.randn(1, 2)).nodes[0].source == "0"


def test_shared_parameter_is_stored_once_under_its_first_name():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight, self.c = self.a.weight, self.a

        def forward(self, x):
            return self.c(self.b(self.a(x)))

    graph = capture(Tied(), torch.randn(2, 3))
    assert [n.inputs[1] for n in graph.nodes] == ["a.weight"] * 3
    assert sorted(graph.params) == ["a.bias", "a.weight", "b.bias"]


def test_batch_norm_uses_eval_statistics_when_model_is_in_train_mode():
    model, inputs = build("mlp_batchnorm")
    assert model.training
    x = inputs[0]
    ours = run_graph(capture(model, inputs), x)[0]
    torch.testing.assert_close(ours, model.eval()(x))


def test_float64_models_are_captured():
    graph = capture(nn.Linear(3, 2).double(), torch.randn(2, 3, dtype=torch.float64))
    assert graph.params["weight"].dtype == np.float64


@pytest.mark.parametrize("n_rows", [1, 2, 3])
def test_any_example_batch_size_gives_the_same_graph(n_rows):
    graph = capture_function(lambda m, x: m.conv(x).flatten(1), n_rows=n_rows)
    assert ops(graph) == ["conv2d", "flatten"]
    assert graph.tensors["flatten"].shape == (48,)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: torch.flatten(x, 1),
        lambda m, x: x.view(x.size(0), -1),
        lambda m, x: x.view(-1, 48),
        lambda m, x: x.reshape(x.shape[0], 3, -1).flatten(1),
        lambda m, x: x.flatten(2).flatten(1),
        lambda m, x: nn.Flatten()(x),
        lambda m, x: x.unsqueeze(1).reshape(x.shape[0], 3 * 16),
    ],
)
def test_flatten_is_found_in_all_its_forms(function):
    graph = capture_function(lambda m, x: F.relu(function(m, F.relu(x))))
    assert ops(graph) == ["relu", "flatten", "relu"]


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x.mean((2, 3)),
        lambda m, x: x.mean([-1, 2], keepdim=True).flatten(1),
        lambda m, x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1),
        lambda m, x: F.adaptive_avg_pool2d(x, (1, 1)).view(x.shape[0], -1),
        lambda m, x: F.avg_pool2d(x, x.shape[2:]).flatten(1),
    ],
)
def test_global_average_pool_is_found_in_all_its_forms(function):
    graph = capture_function(function)
    assert ops(graph) == ["avg_pool2d", "flatten"]
    assert graph.nodes[0].attrs["kernel"] == (4, 4)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: nn.Identity()(x),
        lambda m, x: F.dropout(x, training=m.training),
        lambda m, x: F.dropout2d(x, training=m.training),
        lambda m, x: x.contiguous().clone().detach(),
        lambda m, x: x.to(torch.float32).float(),
        lambda m, x: x.view(x.shape),
        lambda m, x: torch.cat([x], 1),
        lambda m, x: sum([x]),
        lambda m, x: x.flatten(2).unflatten(2, (4, 4)),
    ],
)
def test_operators_that_do_nothing_leave_no_node(function):
    graph = capture_function(lambda m, x: F.relu(function(m, x)))
    assert ops(graph) == ["relu"]
    assert graph.nodes[0].inputs == ("x",)


def test_no_grad_inside_forward_is_no_obstacle():
    def function(m, x):
        with torch.no_grad():
            return m.fc(x)

    assert ops(capture_function(function, (3,))) == ["linear"]


def test_string_padding_is_resolved():
    model = nn.Sequential(nn.Conv2d(3, 3, (3, 5), padding="same", dilation=(2, 1)), nn.Conv2d(3, 2, 2, padding="valid"))
    graph = capture(model, torch.randn(1, *IMAGE))
    assert [node.attrs["padding"] for node in graph.nodes] == [(2, 2), (0, 0)]


def test_average_pool_without_padding_ignores_count_include_pad():
    graph = capture(nn.AvgPool2d(2, count_include_pad=False, ceil_mode=True), torch.randn(1, *IMAGE))
    assert graph.nodes[0].attrs["count_include_pad"] is True


def test_in_place_operators_follow_the_python_object():
    def function(m, x):
        x = m.fc(x)
        y = x
        x += m.fc(x)
        return F.relu(y, inplace=True) + x

    graph = capture_function(function, (3,))
    assert ops(graph) == ["linear", "linear", "add", "relu", "add"]
    assert graph.nodes[-1].inputs == ("relu", "relu")


def test_in_place_operator_on_an_input_leaves_the_example_alone():
    def function(m, x):
        return F.relu(x, inplace=True)

    x = -torch.ones(2, 3)
    capture(Function(function), x)
    assert torch.equal(x, -torch.ones(2, 3))


@pytest.mark.parametrize("wrapper", [nn.DataParallel, nn.parallel.DistributedDataParallel])
def test_module_inside_is_captured_when_a_model_is_wrapped_for_parallel_training(wrapper, tmp_path):
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    if wrapper is nn.DataParallel:
        wrapped = wrapper(model)
    else:
        store = f"file://{tmp_path / 'store'}"
        torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
        wrapped = wrapper(model)
    try:
        graph = capture(wrapped, torch.randn(2, 4))
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    assert sorted(graph.params) == ["0.bias", "0.weight"]
    assert [node.name for node in graph.nodes] == ["0", "1"]


def test_batch_norm_records_how_it_trains():
    model = nn.Sequential(nn.BatchNorm1d(2, momentum=0.25), nn.BatchNorm1d(2, momentum=None, affine=False))
    model[0].num_batches_tracked.fill_(7)
    first, second = capture(model, (torch.randn(4, 2),)).nodes
    assert (first.attrs["momentum"], first.attrs["num_batches_tracked"]) == (0.25, 7)
    assert second.attrs["momentum"] is None
    assert second.attrs["neutral"] == ("1.weight", "1.bias")


def test_parameters_that_ask_for_no_gradient_are_named():
    model = nn.Linear(2, 2)
    assert "frozen_parameters" not in capture(model, (torch.randn(4, 2),)).meta
    model.bias.requires_grad_(False)
    assert capture(model, (torch.randn(4, 2),)).meta["frozen_parameters"] == ["bias"]
