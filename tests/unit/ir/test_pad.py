"""Padding by a node of its own and every n-th row or column: capture, integers, every executor, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import nn

import programs
from dyadiq.core.errors import CaptureError, ExportError, GraphError, QuantError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.plan import uniform_plan
from dyadiq.core.qtype import QType
from dyadiq.cost.facts import network_facts
from dyadiq.ir.capture import capture
from dyadiq.ir.check import check_graph
from dyadiq.ir.execute import run_graph
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.integer import IntegerProgram
from dyadiq.ir.lower import lower_graph
from dyadiq.ir.passes import canonicalize
from dyadiq.ir.proof import prove
from dyadiq.ir.quantized import ActivationQuant
from dyadiq.ir.reference import run_reference
from dyadiq.ir.sites import find_clipped, find_sites
from dyadiq.quant.lower import lower
from dyadiq.quant.quantize import quantize
from dyadiq.targets import TARGETS
from dyadiq.targets.verify import verify


class Shortcut(nn.Module):
    """A residual block whose shortcut has no parameters, and a padded image."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 7, 3, stride=2, padding=1)

    def forward(self, x):
        x = F.relu(self.stem(F.pad(x, (1, 2, 0, 3))))
        return F.relu(self.conv(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2), "constant", 0))


@pytest.fixture(scope="module")
def graph():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return capture(Shortcut(), torch.randn(2, 3, 9, 8))


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_padded_network_has_the_same_integers_everywhere(graph, scheme):
    config = QuantConfig(product_bits=24)
    config = replace(config, activation=replace(config.activation, scheme=scheme))
    x = np.random.default_rng(0).normal(size=(7, 3, 9, 8)).astype(np.float32)
    module = quantize(graph, uniform_plan(network_facts(canonicalize(graph), config), 5, 8), [x], config=config)
    program = lower(module)
    assert {"pad", "max_pool2d"} <= {node.op for node in program.graph.nodes}
    report = verify(program, x, against=["exact", "onnx", "qonnx", "dyq"])
    assert all(row.mismatches == 0 for row in report.values())
    assert torch.equal(
        module.set_mode_("exact")(torch.from_numpy(x)), torch.from_numpy(run_reference(program, x)["relu:1"])
    )


def test_qdq_pads_with_zero(graph):
    x = np.random.default_rng(0).normal(size=(7, 3, 9, 8)).astype(np.float32)
    config = QuantConfig(product_bits=24)
    config = replace(config, activation=replace(config.activation, scheme="asymmetric"))
    program = lower(quantize(graph, uniform_plan(network_facts(canonicalize(graph), config), 8, 8), [x], config=config))
    (row,) = verify(program, x, against=["qdq"]).values()
    assert row.max_abs_diff <= 1  # rounding; a wrong zero would be many steps


def test_pad_and_steps_keep_the_decision_of_their_input(graph):
    sites = find_sites(canonicalize(graph))
    assert sites.decision_of["pad:1"] == sites.decision_of["max_pool2d:1"] == "relu"
    assert "pad" not in sites.decisions
    assert sites.decision_of["pad"] == "x"
    assert {"x", "relu"} <= find_clipped(canonicalize(graph), sites)  # what has no zero cannot be padded


@pytest.mark.parametrize("sides", [((1, 0, 2), (0, 3, 1)), ((0, 0, 0), (2, 0, 0)), ((0, 1, 1), (0, 1, 1))])
def test_pad_is_that_of_numpy_and_stays_in_its_proof(sides):
    b = programs.ProgramBuilder(np.random.default_rng(0))
    x = b.input((2, 3, 4), QType.parse("uint8"), zero_point=131)
    info = b.tensors[x]
    shape = tuple(n + before + after for n, before, after in zip((2, 3, 4), *sides, strict=True))
    padded = b._same_type("pad", [x], shape, before=sides[0], after=sides[1], pad_value=131)
    program = b.program(padded)
    check_graph(program.graph)
    raw = np.random.default_rng(1).normal(size=(3, 2, 3, 4)) * 90
    codes = run_reference(program, raw, taps=[x])
    wanted = np.pad(codes[x], ((0, 0), *zip(*sides, strict=True)), constant_values=131)
    assert np.array_equal(codes[padded], wanted)
    bound = prove(program)[padded]
    assert bound.low.tolist() == [131 if c < sides[0][0] or c >= sides[0][0] + 2 else 0 for c in range(shape[0])]
    assert info.qtype.qmax == bound.high.max()
    assert all(row.mismatches == 0 for row in verify(program, raw, against=["exact", "onnx", "dyq"]).values())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[:, :, 1::2], "takes a part of dimension 2; only every n-th row and column"),
        (lambda x: x[:, :, :, :-1], "takes a part of dimension 3"),
        (lambda x: x[:, ::2], "takes a part of dimension 1"),
        (lambda x: F.pad(x, (1, 1, 1, 1), "reflect"), "mode 'reflect'"),
        (lambda x: F.pad(x, (1, 1), value=0.5), "value 0.5; only zeros"),
        (lambda x: F.pad(x, (-1, 1)), r"pads by \(-1, 1\); expected amounts >= 0"),
        (lambda x: F.pad(x.flatten(1), (1, 1)), "pads rank 2"),
    ],
)
def test_other_slices_and_pads_are_refused(function, message):
    class Net(nn.Module):
        def forward(self, x):
            return function(x)

    with pytest.raises(CaptureError, match=message):
        capture(Net(), torch.randn(2, 3, 5, 6))


def test_slices_of_everything_are_left_out():
    class Net(nn.Module):
        def forward(self, x):
            return F.relu(x[:, :, 0:, :])

    assert [node.op for node in capture(Net(), torch.randn(2, 3, 5, 6)).nodes] == ["relu"]


def test_relu_moves_above_a_pad():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, x):
            return self.conv(F.relu(F.pad(self.conv(x), (0, 0, 0, 0, 0, 1))))

    graph = capture(Net(), torch.randn(2, 3, 5, 6))
    x = torch.randn(2, 3, 5, 6)
    canonical = canonicalize(graph)
    assert [(node.op, node.attrs.get("activation")) for node in canonical.nodes] == [
        ("conv2d", "relu"),
        ("pad", None),
        ("conv2d", None),
    ]
    assert torch.equal(run_graph(graph, x)[0], run_graph(canonical, x)[0])


def test_what_is_padded_is_a_decision_that_needs_a_zero(graph):
    facts = network_facts(canonicalize(graph), QuantConfig(input_bits=None))
    assert {d.name for d in facts.decisions if d.clipped} >= {"x"}


def test_targets_that_cannot_pad_say_so(graph):
    x = np.random.default_rng(0).normal(size=(2, 3, 9, 8)).astype(np.float32)
    program = lower(quantize(graph, uniform_plan(network_facts(canonicalize(graph)), 4, 4), [x]))
    with pytest.raises(ExportError, match=r"pad.*: an operator that is not yet drawn as logic"):
        TARGETS["verilog_stream"].check(program)
    with pytest.raises(ExportError, match=r"pad.*: padding by a node of its own"):
        TARGETS["hls4ml"].check(program)


def test_amounts_are_checked():
    node = Node("p", "pad", ("x",), "y", {"before": (0, 1), "after": (0, 0, 0), "pad_value": 0})
    program = programs.PROGRAMS["conv_pool"](np.random.default_rng(0))
    graph = program.graph.replace(nodes=(*program.graph.nodes, replace(node, inputs=(program.graph.outputs[0],))))
    graph = graph.replace(tensors={**graph.tensors, "y": graph.tensors[program.graph.outputs[0]]})
    with pytest.raises(GraphError, match=r"p \(pad\): before must be a triple of integers >= 0, got \(0, 1\)"):
        check_graph(IntegerProgram(graph).graph)


def test_bipolar_codes_are_refused_by_lowering():
    nodes = (
        Node("p", "pad", ("x",), "p", {"before": (0, 1, 0), "after": (0, 0, 0)}),
        Node("s", "add", ("p", "p"), "s"),
    )
    infos = {"x": TensorInfo((1, 2, 2)), "p": TensorInfo((1, 3, 2)), "s": TensorInfo((1, 3, 2))}
    activations = {"x": ActivationQuant(QType.parse("bipolar"), 1.0), "s": ActivationQuant(QType.parse("int8"), 1.0)}
    with pytest.raises(QuantError, match="p: bipolar codes have no zero to pad with"):
        lower_graph(Graph("float", ("x",), ("s",), nodes, infos, {}), {}, activations, QuantConfig())
