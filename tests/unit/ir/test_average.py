"""Average pools whose windows hold different numbers of values, and what becomes of pads before convolutions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import nn

from dyadiq.core.errors import ExportError, ProofError, QuantError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.plan import uniform_plan
from dyadiq.core.qtype import QType
from dyadiq.cost.facts import network_facts
from dyadiq.ir.average import average_windows
from dyadiq.ir.capture import capture
from dyadiq.ir.execute import run_graph
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.integer import IntegerProgram
from dyadiq.ir.lower import lower_graph
from dyadiq.ir.passes import canonicalize
from dyadiq.ir.proof import prove
from dyadiq.ir.quantized import ActivationQuant
from dyadiq.ir.reference import run_reference
from dyadiq.ir.shapes import pool_output_size
from dyadiq.quant.lower import lower
from dyadiq.quant.quantize import quantize
from dyadiq.targets import TARGETS
from dyadiq.targets.verify import verify


def pool_node(kernel, stride, padding, include, ceil):
    attrs = {"kernel": kernel, "stride": stride, "padding": padding, "count_include_pad": include, "ceil_mode": ceil}
    return Node("p", "avg_pool2d", ("x",), "p", attrs)


def test_divisors_are_those_of_torch():
    n_compared = 0
    for size in range(1, 8):
        for kernel, stride, include, ceil in np.ndindex(4, 3, 2, 2):
            kernel, stride = kernel + 1, stride + 1
            for padding in range(kernel // 2 + 1):
                if size + 2 * padding < kernel:
                    continue
                out = pool_output_size(size, kernel, stride, padding, ceil=bool(ceil))
                node = pool_node((kernel, 1), (stride, 1), (padding, 0), bool(include), bool(ceil))
                windows = average_windows(node, (size, 1), (out, 1))
                # A 1 at each position in turn: torch gives 1 / divisor where a window sees it.
                seen = F.avg_pool2d(
                    torch.eye(size, dtype=torch.float64).reshape(size, 1, size, 1), (kernel, 1), (stride, 1),
                    (padding, 0), bool(ceil), bool(include),
                ).amax(dim=0).ravel()  # fmt: skip
                factor = np.ones((out, 1)) if windows.factor is None else windows.factor
                ours = factor.ravel() / windows.divisor
                inside = seen.numpy() > 0
                assert np.abs(ours - seen.numpy())[inside].max(initial=0) < 1e-15
                n_compared += int(inside.sum())
    assert n_compared > 900


class Pools(nn.Module):
    """Padding that does not count, windows that hang over, both, of non-negative and signed values."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 3, 2)

    def forward(self, x):
        x = F.relu(self.conv(x))
        y = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) + F.avg_pool2d(x, 3, 1, 1)
        z = F.avg_pool2d(y, 3, 2, ceil_mode=True), F.avg_pool2d(x, 3, 2, 1, True, False)
        head = self.head(F.pad(x, (0, 1, 0, 1)))
        return *z, F.relu(F.avg_pool2d(head, (2, 3), (1, 2), (1, 1), True))


@pytest.fixture(scope="module")
def graph():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return capture(Pools(), torch.randn(2, 3, 10, 12))


def lowered(graph, scheme, **options):
    config = QuantConfig(**options)
    config = replace(config, activation=replace(config.activation, scheme=scheme))
    x = np.random.default_rng(1).normal(size=(9, 3, 10, 12)).astype(np.float32)
    plan = uniform_plan(network_facts(canonicalize(graph), config), 5, 7)
    return quantize(graph, plan, [x], config=config), x


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_averages_have_the_same_integers_everywhere(graph, scheme):
    module, x = lowered(graph, scheme)
    program = lower(module)
    factors = [n for n in program.graph.nodes if n.op == "sum_pool2d" and len(n.inputs) == 3]
    assert len(factors) == 3
    assert any(n.name.endswith(":padded") for n in program.graph.nodes)
    assert all(row.mismatches == 0 for row in verify(program, x, against=["exact", "onnx", "dyq"]).values())
    (row,) = verify(program, x, against=["qdq"]).values()
    assert row.max_abs_diff <= 4 * 2**9  # of 16 bits, from tensors of 7
    for codes, fake, name in zip(
        module.set_mode_("exact")(torch.from_numpy(x)),
        module.set_mode_("fake")(torch.from_numpy(x)),
        program.graph.outputs,
        strict=True,
    ):
        info = program.graph.tensors[name]
        steps = (fake.double() / float(info.scale) + info.zero_point - codes).abs()
        assert (steps > 2).double().mean() < 0.02  # of 16 bits


def test_averages_are_exact_in_qonnx(graph):
    module, x = lowered(graph, "symmetric", product_bits=24)
    assert all(row.mismatches == 0 for row in verify(lower(module), x, against=["qonnx"]).values())


def test_sum_of_an_edge_window_is_multiplied(graph):
    node = Node("p", "avg_pool2d", ("x",), "p", pool_node((2, 2), (2, 2), (0, 0), True, True).attrs)
    infos = {"x": TensorInfo((1, 3, 3)), "p": TensorInfo((1, 2, 2))}
    int8 = QType.parse("int8")
    activations = {"x": ActivationQuant(int8, 1.0, 3, False), "p": ActivationQuant(int8, 0.25)}
    program = lower_graph(Graph("float", ("x",), ("p",), (node,), infos, {}), {}, activations, QuantConfig())
    x = np.arange(9.0).reshape(1, 1, 3, 3)
    assert run_reference(program, x)["p"].ravel().tolist() == [8, 14, 26, 32]  # 2, 3.5, 6.5, 8 in quarters


def test_pool_of_equal_windows_has_no_factors():
    node = pool_node((3, 3), (1, 1), (1, 1), True, False)
    assert average_windows(node, (5, 5), (5, 5)).factor is None
    assert average_windows(node, (5, 5), (5, 5)).divisor == 9


def test_bipolar_windows_that_hang_over_are_refused():
    node = Node("p", "avg_pool2d", ("x",), "p", pool_node((2, 2), (2, 2), (0, 0), True, True).attrs)
    infos = {"x": TensorInfo((1, 3, 3)), "p": TensorInfo((1, 2, 2))}
    activations = {"x": ActivationQuant(QType.parse("bipolar"), 1.0), "p": ActivationQuant(QType.parse("int8"), 1.0)}
    with pytest.raises(QuantError, match="p: bipolar codes have no zero for windows that hang over"):
        lower_graph(Graph("float", ("x",), ("p",), (node,), infos, {}), {}, activations, QuantConfig())


def test_factors_must_be_positive(graph):
    program = lower(lowered(graph, "symmetric")[0])
    name = next(n.inputs[2] for n in program.graph.nodes if n.op == "sum_pool2d" and len(n.inputs) == 3)
    broken = {**program.graph.params, name: program.graph.params[name] * 0}
    with pytest.raises(ProofError, match="its factors must be positive"):
        prove(IntegerProgram(program.graph.replace(params=broken)))


@pytest.mark.parametrize("target", ["hls4ml", "verilog", "verilog_stream"])
def test_targets_without_such_averages_say_so(graph, target):
    with pytest.raises(ExportError, match="an average over windows of different sizes"):
        TARGETS[target].check(lower(lowered(graph, "symmetric")[0]))


def test_symmetric_pads_become_part_of_convolutions():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1)

        def forward(self, x):
            both = F.pad(x, (2, 2, 1, 1))
            return self.a(both) + self.b(both), self.a(F.pad(x, (1, 0))), F.pad(x, (1, 1)) + F.pad(x, (0, 2))

    graph = capture(Net(), torch.randn(2, 3, 6, 5))
    canonical = canonicalize(graph)
    paddings = [node.attrs["padding"] for node in canonical.nodes if node.op == "conv2d"]
    assert paddings == [(2, 3), (2, 3), (1, 1)]
    assert sum(node.op == "pad" for node in canonical.nodes) == 3
    x = torch.randn(2, 3, 6, 5)
    assert all(
        torch.allclose(a, b, atol=1e-6) for a, b in zip(run_graph(graph, x), run_graph(canonical, x), strict=True)
    )
