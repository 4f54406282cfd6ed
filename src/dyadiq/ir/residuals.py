"""Residual streams: tensors that an add reads beside layers, and a copy of them on a grid of its own for the layers.

Not a canonical pass: asked for by `QuantConfig.residual_bits`. Used by users as `dyadiq.separate_residuals` and by the
pipeline; `cost.facts` asks `find_streams` which decisions keep the fixed width.

A tensor with several readers is one decision, so a stream that a convolution reads with 4 bits is added with 4 bits
too, and its rounding errors pile up from block to block. The published networks of 4 bits do not do that: HAWQ-V3
(Yao et al. 2021) and LSQ (Esser et al. 2020) round what layers read and keep what is added wide. Here a ``concat`` of
one tensor in front of the layers says so: the same values, a site of its own. It lowers to one ``requantize``.
"""

from __future__ import annotations

from dataclasses import replace

from dyadiq.core.errors import ConfigError
from dyadiq.ir.graph import Graph, Node
from dyadiq.ir.sites import PASS_THROUGH_OPS, Sites

__all__ = ["check_separated", "find_streams", "separate_residuals"]

_LAYER_OPS = ("conv2d", "linear")


def separate_residuals(graph: Graph) -> Graph:
    """Return the graph with a copy, ``<tensor>:narrow``, of every tensor that both an add and layers read.

    Convolutions and linears read the copy, everything else the tensor itself. A graph without such
    tensors, or separated before, comes back as it is.

    Example:
        >>> from dyadiq.ir.graph import TensorInfo
        >>> nodes = (Node("fc", "linear", ("x", "w"), "fc"), Node("sum", "add", ("x", "fc"), "sum"))
        >>> graph = Graph("float", ("x",), ("sum",), nodes, dict.fromkeys(("x", "fc", "sum"), TensorInfo((1,))), {})
        >>> [(node.op, node.inputs) for node in separate_residuals(graph).nodes]
        [('concat', ('x',)), ('linear', ('x:narrow', 'w')), ('add', ('x', 'fc'))]
    """
    nodes, tensors = list(graph.nodes), dict(graph.tensors)
    for name in (*graph.inputs, *(node.output for node in graph.nodes)):
        readers = graph.consumers(name)
        layers = [node.name for node in readers if node.op in _LAYER_OPS]
        if not layers or not any(_joins(graph, node) for node in readers):
            continue
        copy = f"{name}:narrow"
        tensors[copy] = graph.tensors[name]
        nodes = [
            replace(node, inputs=tuple(copy if i == name else i for i in node.inputs)) if node.name in layers else node
            for node in nodes
        ]
        made = next((i for i, node in enumerate(nodes) if node.output == name), -1)
        nodes.insert(made + 1, Node(copy, "concat", (name,), copy))
    return graph.replace(nodes=tuple(nodes), tensors=tensors) if len(nodes) > len(graph.nodes) else graph


def find_streams(graph: Graph, sites: Sites) -> frozenset[str]:
    """Return the decisions that only sums read (adds, average pools, and copies for layers), but network inputs.

    Example:
        >>> from dyadiq.ir.graph import TensorInfo
        >>> from dyadiq.ir.sites import find_sites
        >>> nodes = (Node("a", "add", ("x", "x"), "a"), Node("b", "add", ("a", "x"), "b"))
        >>> graph = Graph("float", ("x",), ("b",), nodes, dict.fromkeys("xab", TensorInfo((1,))), {})
        >>> find_streams(graph, find_sites(graph))
        frozenset({'a'})
    """
    summed: set[str] = set()
    other = set(sites.inputs | sites.outputs)
    for node in graph.nodes:
        if node.op in PASS_THROUGH_OPS or (node.op == "concat" and len(node.inputs) == 1):
            continue
        read = {sites.decision_of[name] for name in graph.activations(node) if name not in sites.wide}
        (summed if node.op in ("add", "avg_pool2d") else other).update(read)
    return frozenset(summed - other)


def check_separated(graph: Graph) -> None:
    """Check that no tensor is read by adds and layers alike.

    Raises:
        ConfigError: One is: its width cannot be fixed for the add alone.
    """
    if separate_residuals(graph) is not graph:
        raise ConfigError(
            "residual_bits fixes the width of what adds read, but layers read the same tensors. Separate them first: "
            "graph = separate_residuals(capture(model, x)); or leave residual_bits out."
        )


def _joins(graph: Graph, node: Node) -> bool:
    """Return whether a node is an add, or a pool, pad or the like with an add behind it."""
    if node.op == "add":
        return True
    return node.op in PASS_THROUGH_OPS and any(_joins(graph, reader) for reader in graph.consumers(node.output))
