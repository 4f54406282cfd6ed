"""Clamps and lookup tables: capture, fusion, integers in every executor, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import nn

from dyadiq.core.errors import CaptureError, ConfigError, ExportError, GraphError, ProofError, QuantError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.plan import uniform_plan
from dyadiq.core.qtype import QType
from dyadiq.cost.facts import network_facts
from dyadiq.cost.options import candidate_bits
from dyadiq.curvature import analyze
from dyadiq.ir.activation import FUNCTIONS, find_limits
from dyadiq.ir.capture import capture
from dyadiq.ir.check import check_graph
from dyadiq.ir.execute import _FUNCTIONS, passing_mask, run_graph
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.integer import IntegerProgram
from dyadiq.ir.passes import canonicalize
from dyadiq.ir.proof import prove
from dyadiq.ir.reference import run_reference
from dyadiq.ir.sites import find_sites
from dyadiq.quant.lower import lower
from dyadiq.quant.quantize import quantize
from dyadiq.targets import TARGETS
from dyadiq.targets.verify import verify

SHAPE = (3, 9, 8)


class Limits(nn.Module):
    """Every place a clamp can be: fused, before an add, before a concat, on a join, alone, below a pool and a pad."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3, padding=1, groups=2), nn.Conv2d(8, 8, 1)
        self.act = nn.ReLU6(inplace=True)

    def forward(self, x):
        x = F.hardtanh(F.max_pool2d(self.a(x), 2, 1), -0.4, 0.5)
        raw = self.b(x)
        y = torch.clamp(raw, max=0.3) + self.act(self.c(torch.clamp(raw, -0.2)))
        z = torch.cat([F.hardtanh(self.c(y), -0.1, 0.2), y.clamp(-0.3, 0.6)], 1)
        return torch.clamp(F.pad(z, (1, 0)), -0.25, 0.5) + F.pad(z, (1, 0)).clip(0.05, 0.1)


class Tables(nn.Module):
    """Every function, on signed and on non-negative codes, beside a join and before one."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x):
        x = F.hardswish(self.a(x))
        x = F.silu(self.b(x)) + F.gelu(x)
        x = torch.cat([torch.tanh(x), F.leaky_relu(x)], 1)[:, :, ::2]
        x = F.hardsigmoid(torch.relu(x)).mean((2, 3))
        return torch.sigmoid(x)


def quantized(model, scheme, w_bits=5, a_bits=8, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        graph = capture(model(), torch.randn(2, *SHAPE))
    config = QuantConfig(**options)
    config = replace(config, activation=replace(config.activation, scheme=scheme))
    x = np.random.default_rng(1).normal(size=(11, *SHAPE)).astype(np.float32) * 1.5
    facts = network_facts(canonicalize(graph), config)
    return quantize(graph, uniform_plan(facts, w_bits, a_bits), [x], config=config), x


def check_everywhere(module, x, against):
    """Compare executors with the reference, and the fake-quantized values with the integers but for ties."""
    program = lower(module)
    assert all(row.mismatches == 0 for row in verify(program, x, against=against).values())
    codes, fake = (module.set_mode_(mode)(torch.from_numpy(x)) for mode in ("exact", "fake"))
    info = program.graph.tensors[program.graph.outputs[0]]
    steps = (fake.double() / float(info.scale) + info.zero_point - codes).abs()
    # Of 16 bits: a multiplier is right to half a step, and float32 sums decide ties before.
    assert (steps > 2).double().mean() < 0.02
    assert program.graph.dialect == "integer"
    return program


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_clamped_network_has_the_same_integers_everywhere(scheme):
    module, x = quantized(Limits, scheme)
    program = check_everywhere(module, x, ["exact", "onnx", "dyq"])
    assert "lookup" not in {node.op for node in program.graph.nodes}
    (row,) = verify(program, x, against=["qdq"]).values()
    assert row.max_abs_diff <= 8 * 2**8  # the output has 16 bits, what is clamped 8


def test_clamps_are_exact_in_qonnx():
    module, x = quantized(Limits, "symmetric", product_bits=24)
    assert all(row.mismatches == 0 for row in verify(lower(module), x, against=["qonnx"]).values())


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_tables_have_the_same_integers_everywhere(scheme):
    module, x = quantized(Tables, scheme)
    program = check_everywhere(module, x, ["exact", "onnx", "dyq"])
    tables = [node for node in program.graph.nodes if node.op == "lookup"]
    assert len(tables) == 7
    assert all(program.graph.params[node.inputs[1]].shape == (256,) for node in tables)
    (row,) = verify(program, x, against=["qdq"]).values()
    assert row.max_abs_diff <= 4 * 2**8


@pytest.mark.parametrize("name", FUNCTIONS)
def test_table_holds_the_rounded_function(name):
    class Net(nn.Module):
        def forward(self, x):
            return _FUNCTIONS[name](x)

    graph = capture(Net(), torch.randn(2, 5))
    x = np.random.default_rng(0).normal(size=(4000, 5)) * 3
    program = lower(quantize(graph, uniform_plan(network_facts(graph), 8, 8), [x]))
    (output,) = program.graph.outputs
    out = run_reference(program, x, taps=[f"{graph.inputs[0]}:codes"])
    info, source = program.graph.tensors[output], program.graph.tensors[f"{graph.inputs[0]}:codes"]
    real = (out[f"{graph.inputs[0]}:codes"] - source.zero_point) * float(source.scale)
    theirs = _FUNCTIONS[name](torch.from_numpy(real)).numpy()
    assert np.abs(FUNCTIONS[name](real) - theirs).max() < 1e-12
    wanted = np.clip(np.floor(theirs / float(info.scale) + 0.5) + info.zero_point, info.qtype.qmin, info.qtype.qmax)
    assert np.array_equal(out[output], wanted)


def test_every_clamp_that_can_be_is_part_of_its_node():
    graph = canonicalize(lower_free(Limits))
    kinds = [(node.op, node.attrs.get("activation")) for node in graph.nodes]
    assert kinds[0] == ("conv2d", "clamp")
    assert kinds[1][0] == "max_pool2d"  # moved above the pool
    assert sum(op == "clamp" for op, _ in kinds) == 5  # of tensors with other readers
    clamp = next(node for node in graph.nodes if node.attrs.get("activation") == "clamp")
    assert find_limits(clamp) == (-0.4, 0.5)
    x = torch.randn(3, *SHAPE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert torch.allclose(run_graph(graph, x)[0], Limits()(x), atol=1e-6)


def lower_free(model):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return capture(model(), torch.randn(2, *SHAPE))


def test_signs_follow_from_the_limits():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            x = F.relu6(self.conv(x))
            return F.hardtanh(self.conv(F.max_pool2d(x, 2)), -0.1, 1.0), torch.clamp(self.conv(x), max=0.5)

    sites = find_sites(canonicalize(capture(Net(), torch.randn(2, 3, 4, 4))))
    assert len(sites.nonnegative) == 1
    assert not sites.nonnegative & sites.outputs


def test_clip_bounds_are_the_codes_of_the_limits():
    program = lower(quantized(Limits, "asymmetric")[0])
    (node,) = [n for n in program.graph.nodes if n.name == "a:requantize"]
    info = program.graph.tensors[node.output]
    wanted = [int(np.floor(v / float(info.scale) + 0.5)) + info.zero_point for v in (-0.4, 0.5)]
    assert [node.attrs["clip_min"], node.attrs["clip_max"]] == np.clip(wanted, 0, 255).tolist()


def test_masks_pass_gradients_between_the_limits():
    x = torch.tensor([-2.0, 0.0, 0.5, 1.0, 3.0], requires_grad=True)
    y = torch.clamp(x, -1.0, 1.0)
    y.sum().backward()
    mask = passing_mask(Node("c", "clamp", ("x",), "c", {"limits": (-1.0, 1.0)}), y)
    assert mask.tolist() == [False, True, True, False, False]
    assert passing_mask(Node("a", "add", ("x", "y"), "a"), y) is None
    assert (
        passing_mask(Node("c", "clamp", ("x",), "c", {"limits": (None, 1.0)}), y).tolist() == [True] * 3 + [False] * 2
    )


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: torch.clamp(x, 2.0, 1.0), r"clamps to \[2.0, 1.0\], expected numbers in order"),
        (lambda x: F.leaky_relu(x, 0.3), r"got {'negative_slope': 0.3}, expected {'negative_slope': 0.01}"),
        (lambda x: F.gelu(x, approximate="tanh"), "got {'approximate': 'tanh'}"),
        (lambda x: F.mish(x), "an activation function that has neither limits nor a table"),
    ],
)
def test_other_activations_are_refused(function, message):
    class Net(nn.Module):
        def forward(self, x):
            return function(x)

    with pytest.raises(CaptureError, match=message):
        capture(Net(), torch.randn(2, 3))


@pytest.mark.parametrize(
    ("op", "attrs", "message"),
    [
        ("clamp", {"limits": (1.0, 0.0)}, r"limits must be \(low, high\), .*got \(1.0, 0.0\)"),
        ("clamp", {"limits": (None, None)}, "at most one of them None"),
        ("clamp", {"limits": (0.0, float("inf"))}, "limits must be"),
        ("lookup", {"function": "cosh"}, "function must be one of gelu, .*got 'cosh'"),
        ("add", {"activation": "clamp"}, r"limits must be \(low, high\), .*got None"),
        ("relu", {"limits": (0.0, 1.0)}, "unknown attribute 'limits'"),
    ],
)
def test_broken_activation_is_named(op, attrs, message):
    inputs = ("x", "x") if op == "add" else ("x",)
    infos = {"x": TensorInfo((2,)), "y": TensorInfo((2,))}
    with pytest.raises(GraphError, match=message):
        check_graph(Graph("float", ("x",), ("y",), (Node("n", op, inputs, "y", attrs),), infos, {}))


def test_tensor_that_a_table_reads_gets_at_most_eight_bits():
    graph = canonicalize(capture(Tables().eval(), torch.zeros(2, *SHAPE)))
    facts = network_facts(graph)
    read = {find_sites(graph).decision_of[node.inputs[0]] for node in graph.nodes if node.op == "lookup"}
    assert {d.name for d in facts.decisions if d.looked_up} == read > {"a"}
    assert candidate_bits(facts, [4], [6, 8, 9])["a"] == (6, 8)
    with pytest.raises(ConfigError, match=r"widths \[9, 10\]: none is left for a: a lookup table .* at most 8 bits"):
        candidate_bits(facts, [4], [9, 10])
    with pytest.raises(ConfigError, match=r"cannot have:\n  a: a lookup table reads its codes, and has 256 entries"):
        uniform_plan(facts, 4, 9).check(facts)
    with pytest.raises(ConfigError, match=r"a: a lookup table reads its codes"):
        quantized(Tables, "symmetric", a_bits=9)


def test_fixed_width_of_an_input_that_a_table_reads_is_refused_before_anything_is_measured():
    graph = capture(nn.Sequential(nn.SiLU(), nn.Linear(4, 2)).eval(), torch.zeros(2, 4))
    config = QuantConfig(input_bits=12)
    with pytest.raises(QuantError, match=r"input: input_bits fixes its width at 12 bits, but a lookup table reads it"):
        analyze(graph, [torch.zeros(2, 4)], config=config)


def test_table_that_misses_a_code_is_disproved():
    module, _ = quantized(Tables, "symmetric")
    graph = lower(module).graph
    nodes = [replace(n, attrs={"first": n.attrs["first"] + 1}) if n.op == "lookup" else n for n in graph.nodes]
    with pytest.raises(ProofError, match="looks up codes from -128 to 127 in a table of -127 to 128"):
        prove(IntegerProgram(graph.replace(nodes=tuple(nodes))))


def test_bipolar_codes_cannot_be_clamped():
    from dyadiq.ir.lower import lower_graph
    from dyadiq.ir.quantized import ActivationQuant

    node = Node("c", "add", ("x", "x"), "c", {"activation": "clamp", "limits": (-1.0, 1.0)})
    graph = Graph("float", ("x",), ("c",), (node,), {"x": TensorInfo((2,)), "c": TensorInfo((2,))}, {})
    activations = {"x": ActivationQuant(QType.parse("int8"), 1.0), "c": ActivationQuant(QType.parse("bipolar"), 1.0)}
    with pytest.raises(QuantError, match="c: bipolar codes cannot hold what a relu or clamp keeps"):
        lower_graph(graph, {}, activations, QuantConfig())


@pytest.mark.parametrize(
    ("target", "message"),
    [("qonnx", "no operator that looks codes up"), ("hls4ml", "a lookup table"), ("verilog", "not yet drawn as logic")],
)
def test_targets_without_tables_say_so(target, message):
    module, _ = quantized(Tables, "symmetric")
    with pytest.raises(ExportError, match=message):
        TARGETS[target].check(lower(module))
