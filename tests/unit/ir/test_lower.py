"""Lowering: integer programs against exact rational arithmetic on the same quantized tensors."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import floor

import numpy as np
import pytest

from dyadiq.core.errors import ProofError, QuantError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.qtype import QType
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.lower import lower_graph
from dyadiq.ir.proof import prove
from dyadiq.ir.quantized import ActivationQuant, WeightQuant
from dyadiq.ir.reference import run_reference
from dyadiq.quant.exact import run_exact

U8, S8, S16 = QType(8, signed=False), QType(8, signed=True), QType(16, signed=True)
CONV = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}


def weight(rng, shape, bits=4, scale=0.05, per_channel=True, zero_point=0):
    qtype = QType(bits, signed=True)
    n = shape[0] if per_channel else 1
    return WeightQuant(
        rng.integers(qtype.qmin, qtype.qmax + 1, shape),
        qtype,
        scale * (1 + rng.random(n)),
        np.full(n, zero_point),
    )


def mlp(rng, act="relu"):
    params = {"a.weight": np.zeros((5, 4)), "a.bias": rng.normal(size=5), "b.weight": np.zeros((3, 5))}
    tensors = {"x": TensorInfo((4,)), "h": TensorInfo((5,)), "y": TensorInfo((3,))}
    nodes = (
        Node("a", "linear", ("x", "a.weight", "a.bias"), "h", {"activation": act}),
        Node("b", "linear", ("h", "b.weight"), "y"),
    )
    return Graph("float", ("x",), ("y",), nodes, tensors, params)


def half_up(value):
    return floor(Fraction(value) + Fraction(1, 2))


def test_linear_chain_equals_rational_arithmetic_with_the_stored_dyadic_numbers():
    rng = np.random.default_rng(0)
    graph = mlp(rng)
    weights = {"a.weight": weight(rng, (5, 4)), "b.weight": weight(rng, (3, 5))}
    acts = {
        "x": ActivationQuant(U8, 0.1, zero_point=100),
        "h": ActivationQuant(U8, 0.07),
        "y": ActivationQuant(S16, 0.001),
    }
    program = lower_graph(graph, weights, acts, QuantConfig())
    x = rng.normal(size=(50, 4)) * 5
    expected = []
    for row in x:
        codes = [max(0, min(255, floor(v / 0.1 + 0.5) + 100)) for v in row]
        for name, source, out, qtype, relu in (("a", "x", "h", U8, True), ("b", "h", "y", S16, False)):
            w, zero = weights[f"{name}.weight"], acts[source].zero_point
            next_codes = []
            for o in range(len(w.codes)):
                s_acc = w.scale[o] * acts[source].scale
                bias = graph.params.get(f"{name}.bias", np.zeros(9))[o]
                acc = sum(int(c) * (q - zero) for c, q in zip(w.codes[o], codes, strict=True)) + half_up(bias / s_acc)
                m = int(program.graph.params[f"{name}:requantize.multiplier"][o])
                e = int(program.graph.params[f"{name}:requantize.shift"][o])
                assert abs(m / 2**e / (s_acc / acts[out].scale) - 1) <= 2**-16
                q = half_up(Fraction(acc * m, 2**e))
                next_codes.append(max(0 if relu else qtype.qmin, min(qtype.qmax, q)))
            codes = next_codes
        expected.append(codes)
    assert run_reference(program, x)["y"].tolist() == expected
    assert np.array_equal(run_exact(program, x)["y"], run_reference(program, x)["y"])


def residual(join="add"):
    """Input x; conv a (+relu) read twice; conv b wide; join(b, a); average pool; flatten; linear."""
    c_out = 3 if join == "add" else 6
    params = {"a.weight": np.zeros((3, 2, 3, 3)), "b.weight": np.zeros((3, 3, 3, 3)), "b.bias": np.array([1.0, -1, 0])}
    params["fc.weight"] = np.zeros((2, c_out))
    tensors = {n: TensorInfo((3, 5, 5)) for n in ("a", "b")} | {
        "x": TensorInfo((2, 5, 5)),
        "j": TensorInfo((c_out, 5, 5)),
        "p": TensorInfo((c_out, 1, 1)),
        "f": TensorInfo((c_out,)),
        "y": TensorInfo((2,)),
    }
    pool = {"kernel": (5, 5), "stride": (5, 5), "padding": (0, 0), "count_include_pad": True}
    nodes = (
        Node("a", "conv2d", ("x", "a.weight"), "a", {**CONV, "activation": "relu"}),
        Node("b", "conv2d", ("a", "b.weight", "b.bias"), "b", CONV),
        Node("j", join, ("b", "a"), "j", {"activation": "relu"} if join == "add" else {}),
        Node("p", "avg_pool2d", ("j",), "p", pool),
        Node("f", "flatten", ("p",), "f"),
        Node("fc", "linear", ("f", "fc.weight"), "y"),
    )
    return Graph("float", ("x",), ("y",), nodes, tensors, params)


def quantizers(rng, graph, bits=4, zero_point=0):
    weights = {
        n.inputs[1]: weight(rng, graph.params[n.inputs[1]].shape, bits)
        for n in graph.nodes
        if len(n.inputs) > 1 and n.op != "add" and n.op != "concat"
    }
    acts = {
        "x": ActivationQuant(U8, 0.02, zero_point),
        "a": ActivationQuant(U8, 0.03, zero_point),
        "j": ActivationQuant(U8, 0.05, zero_point // 2),
        "p": ActivationQuant(U8, 0.04, zero_point),
        "y": ActivationQuant(S16, 0.01),
    }
    return weights, acts


@pytest.mark.parametrize("join", ["add", "concat"])
@pytest.mark.parametrize("zero_point", [0, 77])
def test_residual_program_follows_real_arithmetic_to_one_step(join, zero_point):
    rng = np.random.default_rng(1)
    graph = residual(join)
    weights, acts = quantizers(rng, graph, zero_point=zero_point)
    program = lower_graph(graph, weights, acts, QuantConfig(multiplier_bits=31))
    prove(program)
    x = rng.random((7, 2, 5, 5)) * 4 - (1 if zero_point else 0)
    out = run_reference(program, x, taps=("x:codes", "a", "j", "p"))
    assert np.array_equal(run_exact(program, x)["y"], out["y"])

    def real(name, codes=None):
        act = acts[name]
        return (out[codes or name] - act.zero_point) * act.scale

    def conv(values, name):
        w = weights[f"{name}.weight"]
        w_real = w.codes * w.scale.reshape(-1, 1, 1, 1)
        bias = graph.params.get(f"{name}.bias", np.zeros(3)).reshape(1, 3, 1, 1)
        padded = np.pad(values, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        return np.einsum("nchwab,ocab->nohw", windows, w_real) + bias

    # each site, from the codes that really fed it: within one step (a bias step and a dyadic step apart)
    def check(name, values, relu, steps=1):
        act = acts[name]
        low = act.zero_point if relu else act.qtype.qmin
        expected = np.clip(np.floor(values / act.scale + 0.5) + act.zero_point, low, act.qtype.qmax)
        assert np.abs(expected - out[name]).max() <= steps
        assert (expected != out[name]).mean() < 0.3

    check("a", conv(real("x", "x:codes"), "a"), relu=True)
    b = conv(real("a"), "b")
    joined = b + real("a") if join == "add" else np.concatenate([b, real("a")], axis=1)
    check("j", joined, relu=join == "add", steps=2)
    check("p", real("j").mean(axis=(2, 3), keepdims=True), relu=False)
    w = weights["fc.weight"]
    check("y", real("p").reshape(7, -1) @ (w.codes * w.scale[:, None]).T, relu=False)


def test_wide_branches_are_not_clipped_before_the_add():
    """b reaches -600 steps and a +500: their sum is legal, each branch alone is not."""
    params = {"a.weight": np.zeros((1, 1)), "b.weight": np.zeros((1, 1))}
    tensors = {n: TensorInfo((1,)) for n in ("x", "a", "b", "j")}
    nodes = (
        Node("a", "linear", ("x", "a.weight"), "a"),
        Node("b", "linear", ("x", "b.weight"), "b"),
        Node("j", "add", ("a", "b"), "j"),
    )
    graph = Graph("float", ("x",), ("j",), nodes, tensors, params)
    one = np.ones(1)
    weights = {
        "a.weight": WeightQuant(np.array([[5]]), S8, one, np.zeros(1, dtype=int)),
        "b.weight": WeightQuant(np.array([[-6]]), S8, one, np.zeros(1, dtype=int)),
    }
    acts = {"x": ActivationQuant(U8, 1.0), "j": ActivationQuant(S8, 1.0)}
    program = lower_graph(graph, weights, acts, QuantConfig())
    assert run_reference(program, np.array([[100.0], [200.0]]))["j"].ravel().tolist() == [-100, -128]


def test_power_of_two_scales_give_shifts_only():
    rng = np.random.default_rng(2)
    graph = mlp(rng)
    weights = {
        k: WeightQuant(w.codes, w.qtype, np.array([2.0**-5]), np.zeros(1, dtype=int))
        for k, w in {"a.weight": weight(rng, (5, 4)), "b.weight": weight(rng, (3, 5))}.items()
    }
    acts = {"x": ActivationQuant(S8, 2.0**-4), "h": ActivationQuant(U8, 2.0**-4), "y": ActivationQuant(S16, 2.0**-12)}
    program = lower_graph(graph, weights, acts, QuantConfig())
    multipliers = {k: v.tolist() for k, v in program.graph.params.items() if k.endswith("multiplier")}
    # y is finer than its accumulator (2^-9): a left shift by 3
    assert multipliers == {"a:requantize.multiplier": [1], "b:requantize.multiplier": [8]}


def test_product_bits_narrow_the_multipliers_until_the_proof_holds():
    rng = np.random.default_rng(3)
    graph = residual()
    weights, acts = quantizers(rng, graph)
    wide = lower_graph(graph, weights, acts, QuantConfig())
    narrow = lower_graph(graph, weights, acts, QuantConfig(product_bits=24))
    assert max(int(b.product.max()) for b in prove(wide).values()) >= 1 << 24
    assert max(int(b.product.max()) for b in prove(narrow).values()) < 1 << 24


def test_product_bits_that_cannot_hold_are_refused():
    rng = np.random.default_rng(3)
    graph = residual()
    weights, acts = quantizers(rng, graph)
    with pytest.raises(ProofError, match=r"times any multiplier leaves 10 bits\. Use fewer weight"):
        lower_graph(graph, weights, acts, QuantConfig(product_bits=10))


def test_every_accumulator_type_holds_the_worst_partial_sum():
    rng = np.random.default_rng(4)
    graph = residual()
    program = lower_graph(graph, *quantizers(rng, graph, bits=8), QuantConfig())
    for name, bound in prove(program).items():
        qtype = program.graph.tensors[name].qtype
        if name.endswith(":acc"):
            assert qtype.bits == 1 + int(bound.partial.max()).bit_length()


def test_bipolar_activation_is_the_sign_of_the_accumulator():
    graph = mlp(np.random.default_rng(5), act=None)
    rng = np.random.default_rng(5)
    weights = {"a.weight": weight(rng, (5, 4)), "b.weight": weight(rng, (3, 5))}
    bipolar = QType(1, signed=True, bipolar=True)
    acts = {"x": ActivationQuant(S8, 0.1), "h": ActivationQuant(bipolar, 0.8), "y": ActivationQuant(S16, 0.001)}
    program = lower_graph(graph, weights, acts, QuantConfig())
    x = rng.normal(size=(20, 4))
    out = run_reference(program, x, taps=("h", "h:acc"))
    assert np.array_equal(out["h"], np.where(out["h:acc"] >= 0, 1, -1))
    relu = Graph("float", graph.inputs, graph.outputs, mlp(rng).nodes, graph.tensors, graph.params)
    with pytest.raises(QuantError, match="bipolar codes cannot hold"):
        lower_graph(relu, weights, acts, QuantConfig())


def test_missing_quantizers_are_all_named():
    graph = mlp(np.random.default_rng(6))
    with pytest.raises(QuantError, match=r"no quantizer for a\.weight, b\.weight, h, x, y"):
        lower_graph(graph, {}, {}, QuantConfig())


def test_a_bias_that_needs_more_than_forty_eight_bits_is_refused():
    rng = np.random.default_rng(7)
    graph = mlp(rng)
    weights = {"a.weight": weight(rng, (5, 4), scale=1e-15), "b.weight": weight(rng, (3, 5))}
    acts = {"x": ActivationQuant(S8, 1e-3), "h": ActivationQuant(U8, 0.1), "y": ActivationQuant(S16, 0.001)}
    with pytest.raises(QuantError, match=r"a: the bias of channel .* more than 48 bits"):
        lower_graph(graph, weights, acts, QuantConfig())


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_must_be_positive_and_finite(scale):
    rng = np.random.default_rng(8)
    graph = mlp(rng)
    weights = {"a.weight": weight(rng, (5, 4)), "b.weight": weight(rng, (3, 5))}
    acts = {"x": ActivationQuant(S8, scale), "h": ActivationQuant(U8, 0.1), "y": ActivationQuant(S16, 0.001)}
    with pytest.raises(QuantError, match="x: its scale must be positive and finite"):
        lower_graph(graph, weights, acts, QuantConfig())


@pytest.mark.parametrize("product_bits", [None, 24, 31, 32])
def test_biases_are_declared_wide_when_products_may_be(product_bits):
    rng = np.random.default_rng(9)
    graph = mlp(rng)
    weights = {"a.weight": weight(rng, (5, 4)), "b.weight": weight(rng, (3, 5))}
    acts = {"x": ActivationQuant(S8, 0.1), "h": ActivationQuant(U8, 0.1), "y": ActivationQuant(S16, 0.001)}
    program = lower_graph(graph, weights, acts, QuantConfig(product_bits=product_bits))
    declared = {name: str(qtype) for name, qtype in program.graph.param_types.items() if name.endswith(":bias")}
    assert declared == ({} if product_bits in (24, 31) else {"a:bias": "int64", "b:bias": "int64"})


def test_worst_ratio_error_is_recorded():
    rng = np.random.default_rng(10)
    graph = mlp(rng)
    weights = {
        "a.weight": replace(weight(rng, (5, 4)), scale=np.full(5, 0.03)),
        "b.weight": replace(weight(rng, (3, 5)), scale=np.full(3, 0.0625)),
    }
    acts = {"x": ActivationQuant(S8, 1.0), "h": ActivationQuant(U8, 0.5), "y": ActivationQuant(S16, 0.125)}
    program = lower_graph(graph, weights, acts, QuantConfig(multiplier_bits=2))
    worst = program.graph.meta["worst_ratio_error"]  # 0.03 / 0.5 is taken for 1 / 16
    assert worst["node"] == "a:requantize"
    assert worst["relative"] == pytest.approx(1 / 16 / 0.06 - 1)
