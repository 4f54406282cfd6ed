"""The rules of both dialects: legal graphs pass, each broken rule is named."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dyadiq.core.errors import GraphError
from dyadiq.ir import check, shapes
from dyadiq.ir.check import check_graph
from dyadiq.ir.execute import run_node
from dyadiq.ir.graph import FLOAT_OPS, Graph, Node, TensorInfo
from dyadiq.ir.integer import INTEGER_OPS
from dyadiq.ir.shapes import infer_shape, pool_output_size

ONES = (1, 1)
CONV = {"stride": ONES, "padding": ONES, "dilation": ONES, "groups": 1}
POOL = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0)}


def small_graph():
    """conv, pool, concat, flatten, linear: shapes ``[2,4,4] [3,4,4] [3,2,2] [6,2,2] [24] [5]``."""
    nodes = (
        Node("conv", "conv2d", ("x", "conv.weight", "conv.bias"), "conv", {**CONV, "activation": "relu"}),
        Node("pool", "avg_pool2d", ("conv",), "pool", {**POOL, "count_include_pad": True}),
        Node("cat", "concat", ("pool", "pool"), "cat"),
        Node("flat", "flatten", ("cat",), "flat"),
        Node("fc", "linear", ("flat", "fc.weight"), "fc"),
    )
    shapes = {"x": (2, 4, 4), "conv": (3, 4, 4), "pool": (3, 2, 2), "cat": (6, 2, 2), "flat": (24,), "fc": (5,)}
    params = {"conv.weight": np.zeros((3, 2, 3, 3)), "conv.bias": np.zeros(3), "fc.weight": np.zeros((5, 24))}
    return Graph("float", ("x",), ("fc",), nodes, {k: TensorInfo(s) for k, s in shapes.items()}, params)


def with_node(node_name, /, **changes):
    graph = small_graph()
    return graph.replace(nodes=tuple(replace(n, **changes) if n.name == node_name else n for n in graph.nodes))


def with_attrs(name, **attrs):
    node = next(n for n in small_graph().nodes if n.name == name)
    return with_node(name, attrs={**node.attrs, **attrs})


def with_param(name, *shape):
    graph = small_graph()
    return graph.replace(params={**graph.params, name: np.zeros(shape)})


def with_shape(name, *shape):
    graph = small_graph()
    return graph.replace(tensors={**graph.tensors, name: TensorInfo(shape)})


def one_node(op, input_shapes, *, params=(), dialect="float", **attrs):
    """A graph of one node on inputs ``x0, x1, ...`` of the given shapes, its output's shape as inferred."""
    inputs = tuple(f"x{i}" for i in range(len(input_shapes)))
    values = {f"p{i}": np.zeros(shape) for i, shape in enumerate(params)}
    node = Node("n", op, (*inputs, *values), "n", attrs)
    tensors = {name: TensorInfo(tuple(shape)) for name, shape in zip(inputs, input_shapes, strict=True)}
    try:
        out = infer_shape(node, {k: v.shape for k, v in tensors.items()}, {k: v.shape for k, v in values.items()})
    except (GraphError, KeyError, IndexError):
        out = (1,)
    return Graph(dialect, inputs, ("n",), (node,), {**tensors, "n": TensorInfo(out)}, values)


def test_legal_graph_passes():
    check_graph(small_graph())


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (small_graph().replace(dialect="real"), "dialect must be one of .*, got 'real'"),
        (small_graph().replace(outputs=()), r"needs inputs and outputs, got inputs \['x'\] and outputs \[\]"),
        (small_graph().replace(outputs=("fc", "fc")), "graph output 'fc' appears twice"),
        (small_graph().replace(outputs=("nothing",)), "graph output 'nothing' is made by no node"),
        (with_node("pool", name="conv"), "node name 'conv' appears twice"),
        (with_node("pool", output="conv"), "tensor 'conv' appears twice"),
        (with_param("cat", 1), "tensor or parameter 'cat' appears twice"),
        (with_node("fc", output="new"), "tensor 'new' has no entry in graph.tensors"),
        (with_shape("left over", 1), "tensor 'left over' belongs to no node"),
        (with_param("left over", 1), "parameter 'left over' belongs to no node. Use graph.without_unused"),
        (small_graph().replace(param_types={"w": None}), "param_types entry 'w' belongs to no node"),
        (
            small_graph().replace(nodes=small_graph().nodes[::-1]),
            r"fc \(linear\): reads 'flat' before it exists; a node",
        ),
        (with_node("fc", inputs=("no", "fc.weight")), r"fc \(linear\): reads 'no' before it exists; nothing makes it"),
        (with_shape("x", 0, 4, 4), r"graph input 'x': got shape \[0, 4, 4\] without the batch"),
        (with_shape("pool", 3, 2, 1), r"pool \(avg_pool2d\): .*recorded with shape \[3, 2, 1\], expected \[3, 2, 2\]"),
        (with_node("fc", op="gelu"), r"fc \(gelu\): no operator of the float dialect. Known: add, avg_pool2d"),
        (with_node("pool", attrs=POOL), r"pool \(avg_pool2d\): attribute 'count_include_pad' is missing"),
        (with_attrs("fc", bits=3), r"fc \(linear\): unknown attribute 'bits'"),
        (
            with_attrs("flat", activation="relu"),
            r"'relu' is not allowed; expected 'relu' or 'clamp', on conv2d, linear",
        ),
        (with_attrs("fc", activation="gelu"), "activation='gelu' is not allowed"),
        (with_attrs("conv", stride=2), r"stride must be a pair of integers >= 1, got 2"),
        (with_attrs("conv", dilation=(1, 0)), r"dilation must be a pair of integers >= 1, got \(1, 0\)"),
        (with_attrs("conv", padding=(1.0, 1)), r"padding must be a pair of integers >= 0, got \(1.0, 1\)"),
        (with_node("fc", inputs=("fc.weight", "flat")), "activations must come before parameters"),
        (with_node("cat", inputs=()), r"cat \(concat\): got 0 activations and 0 parameters, expected 1 or more"),
        (one_node("linear", [(4,)]), "n .linear.: got 1 activations and 0 parameters, expected 1 and 1 to 2"),
        (with_param("conv.weight", 3, 1, 3, 3), r"conv \(conv2d\): parameter 'conv.weight' has shape \[3, 1, 3, 3\]"),
        (with_param("conv.bias", 4), r"parameter 'conv.bias' has shape \[4\], expected \[3\]"),
        (with_attrs("conv", groups=2), "O divisible by groups = 2"),
        (with_attrs("conv", dilation=(4, 4)), r"output would have shape \[3, -2, -2\] .*window larger than input"),
        (
            with_param("fc.weight", 5, 23),
            r"fc \(linear\): parameter 'fc.weight' has shape \[5, 23\], expected \[O, 24\]",
        ),
        (with_node("fc", inputs=("pool", "fc.weight")), r"input has shape \[N, 3, 2, 2\], expected \[N, F\]"),
        (with_attrs("pool", padding=(2, 0)), r"padding \(2, 0\) must be at most half of kernel \(2, 2\)"),
    ],
)
def test_broken_rule_is_named(graph, message):
    with pytest.raises(GraphError, match=message):
        check_graph(graph)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (
            one_node("add", [(2,), (3,)]),
            r"inputs have shapes \[\[2\], \[3\]\], expected equal ones \(no broadcasting\)",
        ),
        (one_node("concat", [(2, 4, 4), (2, 4, 3)]), "expected equal ones but for the channels"),
        (one_node("batch_norm", [(2, 5)], params=[(2,)] * 4, eps=0.1), r"input has shape \['N', 2, 5\], expected"),
        (
            one_node("batch_norm", [(2,)], params=[(2,), (2,), (3,), (2,)], eps=0.1),
            r"'p2' has shape \[3\], expected \[2\]",
        ),
        (one_node("conv2d", [(4,)], params=[(3, 2, 3, 3)], **CONV), r"expected \[N, C, H, W\]"),
        (one_node("linear", [(4,)], params=[(4, 4)] + [(4,)] * 2), "got 1 activations and 3 parameters"),
    ],
)
def test_shape_that_does_not_fit_is_named(graph, message):
    with pytest.raises(GraphError, match=message):
        check_graph(graph)


INTEGER_CONV = {**CONV, "pad_value": 0}
CLIP = {"zero_point": 0, "clip_min": 0, "clip_max": 15}


@pytest.mark.parametrize(
    "graph",
    [
        one_node("quantize", [(3,)], params=[(), ()], dialect="integer"),
        one_node("conv2d", [(2, 4, 4)], params=[(3, 2, 3, 3), (3,)], dialect="integer", **INTEGER_CONV),
        one_node("linear", [(6,)], params=[(4, 6), (4,), (4,), (4, 3)], dialect="integer"),
        one_node("linear", [(6,)], params=[(4, 6), (4,), (1,)], dialect="integer"),
        one_node("requantize", [(3, 2, 2)], params=[(3,), (1,)], dialect="integer", **CLIP),
        one_node("add", [(3,)] * 3, dialect="integer"),
        one_node("clip", [(3,)], dialect="integer", **CLIP),
        one_node("concat", [(3,), (2,)], dialect="integer"),
        one_node("max_pool2d", [(3, 5, 5)], dialect="integer", **POOL, dilation=ONES, ceil_mode=True),
        one_node("sum_pool2d", [(3, 5, 5)], params=[()], dialect="integer", **POOL, pad_value=0),
        one_node("flatten", [(3, 5, 5)], dialect="integer"),
    ],
)
def test_integer_operators_pass(graph):
    check_graph(graph)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (one_node("relu", [(3,)], dialect="integer"), r"n \(relu\): no operator of the integer dialect"),
        (one_node("quantize", [(3,)], params=[(), (3,)], dialect="integer"), r"'p1' has shape \[3\], expected \[\]"),
        (
            one_node("requantize", [(3,)], params=[(2,), (3,)], dialect="integer", **CLIP),
            r"'p0' .*expected \[3\] or \[1\]",
        ),
        (
            one_node("linear", [(6,)], params=[(4, 6)], dialect="integer"),
            "got 1 activations and 1 parameters, expected 1 and 2 to 4",
        ),
        (
            one_node("linear", [(6,)], params=[(4, 6), (4,), (4,), (4, 4)], dialect="integer"),
            r"expected \[4, G\] with G dividing 6",
        ),
        (one_node("clip", [(3,)], dialect="integer"), "attribute 'zero_point' is missing"),
    ],
)
def test_broken_integer_rule_is_named(graph, message):
    with pytest.raises(GraphError, match=message):
        check_graph(graph)


def test_every_operator_has_rules():
    assert set(check._ARITY["float"]) == set(FLOAT_OPS)
    assert set(check._ARITY["integer"]) == set(INTEGER_OPS)
    assert set(shapes._SHAPE_RULES) == set(FLOAT_OPS) | set(INTEGER_OPS)


def test_pool_sizes_are_those_of_torch():
    n_compared = 0
    for size in range(1, 8):
        for kernel, stride, dilation, ceil in np.ndindex(4, 3, 2, 2):
            kernel, stride, dilation = kernel + 1, stride + 1, dilation + 1
            for padding in range(kernel // 2 + 1):
                ours = pool_output_size(size, kernel, stride, padding, dilation, ceil=bool(ceil))
                if size + 2 * padding < dilation * (kernel - 1) + 1:
                    continue
                attrs = {name: (v, v) for name, v in (("kernel", kernel), ("stride", stride), ("padding", padding))}
                attrs |= {"dilation": (dilation, dilation), "ceil_mode": bool(ceil)}
                theirs = run_node(Node("n", "max_pool2d", (), "n", attrs), [torch.zeros(1, 1, size, size)])
                assert theirs.shape == (1, 1, ours, ours)
                n_compared += 1
    assert n_compared > 400
