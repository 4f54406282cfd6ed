"""Small canonical float graphs, built by hand: no capture, no passes. Used by the tests of curvature.

`FloatGraph` infers shapes by running each node; `NETWORKS` says what each network adds.
"""

import numpy as np
import torch

from dyadiq.ir.execute import run_node
from dyadiq.ir.graph import Graph, Node, TensorInfo

__all__ = ["NETWORKS", "FloatGraph", "gated", "mlp", "residual", "samples"]


class FloatGraph:
    """Adds nodes one by one; every method returns the name of the tensor it makes."""

    def __init__(self, *shape, seed=0):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.params = [], {}
        self.values = {"x": torch.zeros(1, *shape, dtype=torch.float64)}

    def add_node(self, name, op, inputs, output=None, **attrs):
        node = Node(name, op, tuple(inputs), output or name, attrs)
        constants = {k: torch.tensor(v) for k, v in self.params.items()}
        self.values[node.output] = run_node(node, [{**constants, **self.values}[i] for i in inputs])
        self.nodes.append(node)
        return node.output

    def parameter(self, name, *shape):
        fan_in = max(1, int(np.prod(shape[1:])))
        self.params[name] = self.rng.normal(size=shape) * np.sqrt(2.0 / fan_in)
        return name

    def linear(self, name, x, n_out, *, relu=False, weight=None, output=None):
        weight = weight or self.parameter(f"{name}.weight", n_out, self.values[x].shape[1])
        inputs = (x, weight, self.parameter(f"{name}.bias", n_out))
        return self.add_node(name, "linear", inputs, output, **({"activation": "relu"} if relu else {}))

    def conv(self, name, x, n_out, kernel, *, relu=False, stride=1, padding=0, dilation=1, groups=1, output=None):
        n_in = self.values[x].shape[1] // groups
        inputs = (x, self.parameter(f"{name}.weight", n_out, n_in, *kernel), self.parameter(f"{name}.bias", n_out))
        attrs = {"stride": [stride] * 2, "padding": [padding] * 2, "dilation": [dilation] * 2, "groups": groups}
        return self.add_node(name, "conv2d", inputs, output, **attrs, **({"activation": "relu"} if relu else {}))

    def max_pool(self, name, x):
        attrs = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0], "dilation": [1, 1], "ceil_mode": False}
        return self.add_node(name, "max_pool2d", (x,), **attrs)

    def global_pool(self, name, x):
        kernel = list(self.values[x].shape[2:])
        attrs = {"kernel": kernel, "stride": kernel, "padding": [0, 0], "count_include_pad": True}
        return self.add_node(name, "avg_pool2d", (x,), **attrs)

    def build(self, *outputs):
        tensors = {name: TensorInfo(tuple(value.shape[1:])) for name, value in self.values.items()}
        return Graph("float", ("x",), outputs, tuple(self.nodes), tensors, self.params)


def mlp(sizes=(4, 6, 5, 3), seed=0):
    """Linear layers with fused relus."""
    g, x = FloatGraph(sizes[0], seed=seed), "x"
    for i, size in enumerate(sizes[1:]):
        x = g.linear(f"fc{i}", x, size, relu=i + 2 < len(sizes))
    return g.build(x)


def residual(seed=0):
    """Grouped convolution, a wide tensor into an add with a fused relu, pools, stride, dilation."""
    g = FloatGraph(2, 6, 6, seed=seed)
    stem = g.conv("stem", "x", 4, (3, 3), padding=1, relu=True, output="stem_relu")
    grouped = g.conv("grouped", stem, 4, (3, 3), padding=1, groups=2, relu=True)
    wide = g.conv("wide", grouped, 4, (1, 1))
    joined = g.add_node("join", "add", (wide, stem), activation="relu")
    pooled = g.max_pool("pool", joined)
    down = g.conv("down", pooled, 5, (2, 2), stride=2, padding=1, dilation=2, relu=True)
    head = g.add_node("flat", "flatten", (g.global_pool("mean", down),))
    return g.build(g.linear("fc", head, 3))


def branches(seed=0):
    """Concat of a strided and a pooled branch with a relu left alone; a kernel that is not square."""
    g = FloatGraph(2, 4, 4, seed=seed)
    left = g.conv("left", "x", 3, (1, 2), stride=2, relu=True)
    right = g.conv("right", g.max_pool("pool", "x"), 2, (1, 1))
    both = g.add_node("alone", "relu", (g.add_node("cat", "concat", (left, right)),))
    return g.build(g.linear("fc", g.add_node("flat", "flatten", (both,)), 4))


def shared(seed=0):
    """One weight read by two layers."""
    g = FloatGraph(4, seed=seed)
    first = g.linear("first", "x", 4, relu=True)
    second = g.linear("second", first, 4, relu=True, weight="first.weight")
    return g.build(g.linear("fc", second, 3))


def gated():
    """Two branches joined by an add; the relu of the second never opens."""
    g = FloatGraph(4)
    near = g.linear("near", "x", 6, relu=True)
    closed = g.linear("closed", "x", 5, relu=True)
    g.params["closed.bias"][:] = -1e3
    return g.build(g.linear("fc", g.add_node("join", "add", (near, g.linear("behind", closed, 6))), 3))


NETWORKS = {"mlp": mlp, "residual": residual, "branches": branches, "shared": shared}


def samples(graph, n, seed=0):
    """Normal inputs ``[n, ...]`` in float64."""
    return np.random.default_rng(seed).normal(size=(n, *graph.tensors["x"].shape))
