"""The reference interpreter against loops over Python integers, and its refusals."""

from __future__ import annotations

import itertools
from fractions import Fraction
from math import floor

import numpy as np
import pytest

from dyadiq.core.errors import DataError, GraphError, ProofError
from dyadiq.core.qtype import QType
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.integer import IntegerProgram
from dyadiq.ir.proof import accumulator_type, prove
from dyadiq.ir.reference import run_reference
from dyadiq.quant.exact import run_exact

INT8 = QType(8, signed=True)


def program(shape, qtype, node, out_shape, out_type, params, zero_point=0):
    """One operator behind an input quantizer of scale 1."""
    first = Node("q", "quantize", ("x", "x.scale", "x.zero_point"), "q")
    tensors = {"x": TensorInfo(shape), "q": TensorInfo(shape, qtype), node.output: TensorInfo(out_shape, out_type)}
    constants = {"x.scale": np.array(1.0), "x.zero_point": np.array(zero_point, dtype=np.int64)}
    constants |= {k: np.asarray(v, dtype=np.int64) for k, v in params.items()}
    return IntegerProgram(Graph("integer", ("x",), (node.output,), (first, node), tensors, constants))


def slow_conv(x, w, bias, stride, padding, dilation, groups, pad_value):
    """Convolution by seven nested loops over Python integers."""
    n, _, h, width = x.shape
    o, i_per_group, kh, kw = w.shape
    oh = (h + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    ow = (width + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    out = np.zeros((n, o, oh, ow), dtype=object)
    for s, c, y, z in itertools.product(range(n), range(o), range(oh), range(ow)):
        total = int(bias[c])
        first = (c // (o // groups)) * i_per_group
        for i, a, b in itertools.product(range(i_per_group), range(kh), range(kw)):
            row, col = y * stride[0] + a * dilation[0] - padding[0], z * stride[1] + b * dilation[1] - padding[1]
            inside = 0 <= row < h and 0 <= col < width
            total += int(w[c, i, a, b]) * (int(x[s, first + i, row, col]) if inside else pad_value)
        out[s, c, y, z] = total
    return out


@pytest.mark.parametrize(
    ("size", "channels", "out", "kernel", "stride", "padding", "dilation", "groups", "pad_value"),
    [
        ((5, 7), 3, 4, (3, 3), (1, 1), (1, 1), (1, 1), 1, 0),
        ((7, 5), 4, 6, (3, 2), (2, 1), (1, 0), (1, 1), 2, -3),  # groups, uneven stride, nonzero padding code
        ((9, 9), 3, 3, (3, 3), (1, 2), (2, 2), (2, 2), 3, 5),  # depthwise, dilated
        ((1, 1), 1, 1, (1, 1), (1, 1), (0, 0), (1, 1), 1, 0),
    ],
)
def test_conv_equals_loops(size, channels, out, kernel, stride, padding, dilation, groups, pad_value):
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (2, channels, *size))
    w = rng.integers(-8, 8, (out, channels // groups, *kernel))
    bias = rng.integers(-500, 500, out)
    expected = slow_conv(x, w, bias, stride, padding, dilation, groups, pad_value)
    attrs = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "pad_value": pad_value}
    node = Node("conv", "conv2d", ("q", "w", "b"), "acc", attrs)
    prog = program((channels, *size), INT8, node, expected.shape[1:], QType(32, signed=True), {"w": w, "b": bias})
    assert np.array_equal(run_reference(prog, x)["acc"], expected)
    assert np.array_equal(run_exact(prog, x)["acc"], expected)
    bound = prove(prog)["acc"]
    assert (expected.max(axis=(0, 2, 3)) <= bound.high).all()
    assert (expected.min(axis=(0, 2, 3)) >= bound.low).all()


def test_weights_use_zero_points_and_group_factors():
    rng = np.random.default_rng(1)
    x, w = rng.integers(-128, 128, (3, 4)), rng.integers(0, 16, (2, 4))
    zero_point, factor = np.array([7, 3]), np.array([[1, 5], [2, 255]])
    real = (w - zero_point[:, None]) * np.repeat(factor, 2, axis=1)
    node = Node("fc", "linear", ("q", "w", "b", "z", "f"), "acc")
    params = {"w": w, "b": [1, -1], "z": zero_point, "f": factor}
    prog = program((4,), INT8, node, (2,), QType(32, signed=True), params)
    assert np.array_equal(run_reference(prog, x)["acc"], x @ real.T + [1, -1])
    assert np.array_equal(run_exact(prog, x)["acc"], x @ real.T + [1, -1])


@pytest.mark.parametrize("top", [2**24 - 1, 2**24, 2**24 + 1, 2**40 + 1, 2**53 - 1])
def test_dot_products_are_exact_whatever_floating_type_holds_them(top):
    wide = QType(16, signed=True)
    x = np.array([[1, 1], [-1, -1], [1, 0], [0, 1]])
    w = np.array([[top // 32768 - 1, 1], [1 - top // 32768, -1]])
    bias = np.array([-1, 1]) * (top - int(np.abs(w[0]).sum()) * 32768)  # partial sums reach `top` and no more
    for op, shape, node_x in (("linear", (2,), x), ("conv2d", (2, 1, 1), x[:, :, None, None])):
        attrs = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1, "pad_value": 0}
        weight = w if op == "linear" else w[:, :, None, None]
        node = Node("dot", op, ("q", "w", "b"), "acc", attrs if op == "conv2d" else {})
        out = (2,) if op == "linear" else (2, 1, 1)
        prog = program(shape, wide, node, out, QType(54, signed=True), {"w": weight, "b": bias})
        samples = np.concatenate([node_x, node_x * 32767, -32768 * node_x])
        assert int(prove(prog)["acc"].partial.max()) == top
        assert np.array_equal(run_exact(prog, samples)["acc"], run_reference(prog, samples)["acc"])


def test_requantize_is_round_half_up_of_the_exact_quotient():
    x = np.arange(-300, 301)[:, None] * np.ones((1, 3), dtype=int)
    m, e = np.array([77, 1, 3]), np.array([8, 1, 0])
    node = Node("r", "requantize", ("q", "m", "e"), "y", {"zero_point": 2, "clip_min": -100, "clip_max": 101})
    prog = program((3,), QType(16, signed=True), node, (3,), INT8, {"m": m, "e": e})
    expected = [
        [max(-100, min(101, floor(Fraction(int(v) * int(mm), 2 ** int(ee)) + Fraction(1, 2)) + 2)) for v, mm, ee in row]
        for row in ([(v[c], m[c], e[c]) for c in range(3)] for v in x)
    ]
    assert run_reference(prog, x)["y"].tolist() == expected
    assert run_exact(prog, x)["y"].tolist() == expected


def test_bipolar_output_is_the_sign_with_zero_positive():
    node = Node("r", "requantize", ("q", "m", "e"), "y", {"zero_point": 0, "clip_min": -1, "clip_max": 1})
    prog = program((1,), INT8, node, (1,), QType(1, signed=True, bipolar=True), {"m": [1], "e": [0]})
    x = np.array([[-5], [-1], [0], [1], [7]])
    assert run_reference(prog, x)["y"].ravel().tolist() == [-1, -1, 1, 1, 1]
    assert run_exact(prog, x)["y"].ravel().tolist() == [-1, -1, 1, 1, 1]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "ceil_mode", "out"),
    [
        ((6, 6), (2, 2), (2, 2), (0, 0), False, (3, 3)),
        ((7, 5), (3, 3), (2, 2), (1, 1), False, (4, 3)),
        ((6, 6), (3, 3), (2, 2), (0, 0), True, (3, 3)),  # the last window hangs over
    ],
)
def test_max_pool_equals_loops(size, kernel, stride, padding, ceil_mode, out):
    rng = np.random.default_rng(2)
    x = rng.integers(-128, 0, (2, 3, *size))  # all negative: a padding code of 0 would win
    attrs = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": (1, 1), "ceil_mode": ceil_mode}
    prog = program((3, *size), INT8, Node("p", "max_pool2d", ("q",), "y", attrs), (3, *out), INT8, {})
    result = run_reference(prog, x)["y"]
    for n, c, i, j in itertools.product(range(2), range(3), range(out[0]), range(out[1])):
        rows = [
            r for r in range(i * stride[0] - padding[0], i * stride[0] - padding[0] + kernel[0]) if 0 <= r < size[0]
        ]
        cols = [
            k for k in range(j * stride[1] - padding[1], j * stride[1] - padding[1] + kernel[1]) if 0 <= k < size[1]
        ]
        assert result[n, c, i, j] == max(x[n, c, r, k] for r in rows for k in cols)
    assert np.array_equal(run_exact(prog, x)["y"], result)


def test_sum_pool_counts_padding_codes():
    rng = np.random.default_rng(3)
    x = rng.integers(-128, 128, (2, 3, 5, 5))
    attrs = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1), "pad_value": 4}
    node = Node("p", "sum_pool2d", ("q", "b"), "y", attrs)
    prog = program((3, 5, 5), INT8, node, (3, 3, 3), QType(32, signed=True), {"b": -36})
    padded = np.full((2, 3, 7, 7), 4)
    padded[:, :, 1:6, 1:6] = x
    result = run_reference(prog, x)["y"]
    for i, j in itertools.product(range(3), range(3)):
        window = padded[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        assert np.array_equal(result[:, :, i, j], window.sum(axis=(2, 3)) - 36)
    assert np.array_equal(run_exact(prog, x)["y"], result)


def test_input_quantizer_rounds_half_up_and_saturates():
    node = Node("p", "flatten", ("q",), "y")
    prog = program((7,), INT8, node, (7,), INT8, {}, zero_point=1)
    x = np.array([[-0.5, 0.5, 1.5, -1.5, 1e30, -1e30, 0.49999999999999994]])
    # The last one is the float64 trap: 0.49999999999999994 + 0.5 rounds to 1.0 before the floor.
    assert run_reference(prog, x)["y"].tolist() == [[1, 2, 3, 0, 127, -128, 2]]
    assert run_exact(prog, x)["y"].tolist() == [[1, 2, 3, 0, 127, -128, 2]]


def test_chunks_change_nothing():
    rng = np.random.default_rng(4)
    x = rng.integers(-128, 128, (9, 4))
    node = Node("fc", "linear", ("q", "w", "b"), "acc")
    prog = program((4,), INT8, node, (2,), QType(32, signed=True), {"w": rng.integers(-8, 8, (2, 4)), "b": [0, 0]})
    assert np.array_equal(run_reference(prog, x, chunk_size=2)["acc"], run_reference(prog, x)["acc"])
    for size in (1, 2, 7, None):
        assert np.array_equal(run_exact(prog, x, chunk_size=size)["acc"], run_reference(prog, x)["acc"])


def test_taps_return_inner_tensors_and_refuse_unknown_ones():
    prog = program((4,), INT8, Node("p", "flatten", ("q",), "y"), (4,), INT8, {})
    assert set(run_reference(prog, np.zeros((1, 4)), taps=("q",))) == {"y", "q"}
    with pytest.raises(GraphError, match="no tensor named 'nope'"):
        run_reference(prog, np.zeros((1, 4)), taps=("nope",))


def test_a_tensor_outside_its_type_is_refused():
    node = Node("fc", "linear", ("q", "w", "b"), "acc")
    prog = program((1,), INT8, node, (1,), QType(8, signed=True), {"w": [[2]], "b": [0]})
    with pytest.raises(ProofError, match=r"codes \[200, 200\] leave the declared type int8"):
        run_reference(prog, np.array([[100]]))
    with pytest.raises(ProofError, match=r"may reach \[-256, 254\]"):
        prove(prog)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((2, 3)), r"expected shape \[N, 4\], got \(2, 3\)"),
        (np.zeros((0, 4)), "has no samples"),
        (np.array([[0.0, np.nan, np.inf, 1.0]]), "2 values are NaN or infinite"),
        ({"y": np.zeros((1, 4))}, r"inputs must be named \['x'\], got \['y'\]"),
    ],
)
def test_bad_inputs_are_named(inputs, message):
    prog = program((4,), INT8, Node("p", "flatten", ("q",), "y"), (4,), INT8, {})
    with pytest.raises(DataError, match=message):
        run_reference(prog, inputs)


def test_partial_bound_is_reached_by_the_worst_input():
    w, bias = np.array([[3, -5, 7]]), np.array([-11])
    node = Node("fc", "linear", ("q", "w", "b"), "acc")
    prog = program((3,), INT8, node, (1,), QType(32, signed=True), {"w": w, "b": bias})
    bound = prove(prog)["acc"]
    assert run_reference(prog, np.array([[-128, 127, -128]]))["acc"][0, 0] == bound.low[0]
    assert run_reference(prog, np.array([[127, -128, 127]]))["acc"][0, 0] == bound.high[0]
    assert bound.partial[0] == 11 + 128 * 15
    assert accumulator_type(bound) == QType(12, signed=True)
