"""Batch norms are paired with what really feeds them; what remembers nothing is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from dyadiq.core.errors import DataError
from dyadiq.ir.capture import capture
from dyadiq.ir.execute import run_graph
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.passes import canonicalize
from dyadiq.zero_shot.norms import find_remembered, statistics_graph
from trainable import MODELS, captured, randomize_batchnorm_, samples_of


class Preactivation(nn.Module):
    """Batch norm before convolution, modules listed in another order than they are called, one convolution without."""

    shape = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.norm_b, self.norm_a = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.conv_b, self.stem, self.conv_a = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.stem(x)
        y = self.conv_a(torch.relu(self.norm_a(x)))
        x = x + self.conv_b(torch.relu(self.norm_b(y)))
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


class CalledTwice(nn.Module):
    """One batch norm at two places."""

    shape = (6,)

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.norm, self.head = nn.Linear(6, 4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x):
        x = torch.relu(self.norm(self.fc1(x)))
        return self.head(torch.relu(self.norm(self.fc2(x))))


def made(model_class):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class().eval()
    randomize_batchnorm_(model)
    return model, capture(model, samples_of(model, 2))


def seen_by_modules(model, x):
    """Return what every batch norm module reads, call by call: the slow, obvious truth."""
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.register_forward_pre_hook(
                lambda _, args, name=name: seen.setdefault(f"{name}.running_mean", []).append(args[0].detach().clone())
            )
    model(x)
    return seen


@pytest.mark.parametrize(
    "make", [lambda: made(Preactivation), lambda: made(CalledTwice), *(lambda n=n: captured(n) for n in MODELS)]
)
def test_every_batch_norm_is_paired_with_what_its_module_reads(make):
    model, graph = make()
    x = samples_of(model, 5, seed=1)
    remembered = find_remembered(graph)
    part = statistics_graph(graph, remembered)
    tensors = dict(zip(part.outputs, run_graph(part, x), strict=True))
    truth = seen_by_modules(model, x)
    assert {one.name for one in remembered} == set(truth)
    state = model.state_dict()
    for one in remembered:
        assert len(one.tensors) == len(truth[one.name])
        for name, value in zip(one.tensors, truth[one.name], strict=True):
            torch.testing.assert_close(tensors[name], value)
        np.testing.assert_array_equal(one.mean, state[one.name].double().numpy())
        np.testing.assert_array_equal(one.var, state[one.name.replace("_mean", "_var")].double().numpy())


def test_nodes_behind_the_last_batch_norm_are_not_run():
    _, graph = captured("residual")
    part = statistics_graph(graph, find_remembered(graph))
    assert {node.name for node in graph.nodes} - {node.name for node in part.nodes} >= {"fc", "avgpool", "layer1.1.bn2"}


def bare(**attrs):
    infos = {"x": TensorInfo((2,)), "fc": TensorInfo((1,))}
    node = Node("fc", "linear", ("x", "fc.weight"), "fc", attrs)
    return Graph("float", ("x",), ("fc",), (node,), infos, {"fc.weight": np.array([[1.0, -1.0]])})


def test_network_without_batch_norm_is_refused_with_the_alternative():
    with pytest.raises(DataError, match=r"this one has none. Give a few real samples .*method='squared_error'"):
        find_remembered(bare())


def test_canonical_graph_is_refused_as_such():
    with pytest.raises(
        DataError, match=r"it is canonical, and canonical graphs have them folded.*`capture` returned it"
    ):
        find_remembered(bare(activation="relu"))
    with pytest.raises(DataError, match="it is canonical"):
        find_remembered(canonicalize(captured("residual")[1]))


def with_statistics(**changes):
    _, graph = captured("perceptron")
    return graph.replace(params={**graph.params, **changes})


def test_batch_norms_that_never_saw_data_are_refused():
    fresh = {f"bn{i}.running_{what}": np.full(12, float(what == "var")) for i in (1, 2) for what in ("mean", "var")}
    with pytest.raises(DataError, match=r"none of the 2 batch norms was ever trained.*Load the trained weights"):
        find_remembered(with_statistics(**fresh))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("bn1.running_mean", np.nan, r"bn1.running_mean: channel 3 is nan, expected finite statistics\. Repair"),
        ("bn2.running_var", np.inf, "bn2.running_var: channel 3 is inf, expected finite statistics of at least 0"),
        ("bn2.running_var", -0.5, r"bn2.running_var: channel 3 is -0.5"),
    ],
)
def test_statistics_that_no_data_can_have_are_refused(name, value, message):
    values = np.ones(12)
    values[3] = value
    with pytest.raises(DataError, match=message):
        find_remembered(with_statistics(**{name: values}))
