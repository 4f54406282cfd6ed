"""Move a relu or clamp above the max pool, pad or flatten whose result it alone reads.

Before `fuse_activation`, so that conv, pool, relu becomes one node and a pool: the conv's codes then are unsigned,
where they would spend half of them on values that the relu clips. Exact: relu is monotone, so ``relu(max(x)) =
max(relu(x))``, and flattens and pads of zeros change no value (of a clamp that keeps zero). Integer programs compute
the same way around.
"""

from __future__ import annotations

from dataclasses import replace

from dyadiq.ir.activation import ACTIVATIONS, find_limits
from dyadiq.ir.graph import Graph, Node

__all__ = ["hoist_relu"]

_COMMUTING_OPS = ("max_pool2d", "pad", "flatten")


def hoist_relu(graph: Graph) -> Graph:
    """Return the graph with every relu above the max pools, pads and flattens it alone reads.

    Both nodes and both tensors keep their names; what read the relu reads the pool. So a relu that makes an output of
    the graph stays where it is.

    Example:
        >>> from dyadiq.ir.graph import TensorInfo
        >>> flatten, relu = Node("f", "flatten", ("x",), "f"), Node("r", "relu", ("f",), "r")
        >>> nodes = (flatten, relu, Node("s", "add", ("r", "r"), "s"))
        >>> infos = {"x": TensorInfo((2, 1, 1)), **dict.fromkeys("frs", TensorInfo((2,)))}
        >>> graph = hoist_relu(Graph("float", ("x",), ("s",), nodes, infos, {}))
        >>> [(node.op, node.inputs, node.output) for node in graph.nodes], graph.tensors["r"].shape
        ([('relu', ('x',), 'r'), ('flatten', ('r',), 'f'), ('add', ('f', 'f'), 's')], (2, 1, 1))
    """
    while pair := _find_pair(graph):  # Again for a relu below a flatten below a pool.
        graph = _swapped(graph, *pair)
    return graph


def _find_pair(graph: Graph) -> tuple[Node, Node] | None:
    """Return the first (pool, pad or flatten, relu) to swap."""
    for relu in graph.nodes:
        if relu.op not in ACTIVATIONS or relu.output in graph.outputs:
            continue
        above = graph.producer(relu.inputs[0])
        if (
            above is not None
            and above.op in _COMMUTING_OPS
            and (above.op != "pad" or _keeps_zero(relu))
            and above.output not in graph.outputs
            and len(graph.consumers(above.output)) == 1
        ):
            return above, relu
    return None


def _keeps_zero(activation: Node) -> bool:
    low, high = find_limits(activation) or (None, None)
    return (low is None or low <= 0) and (high is None or high >= 0)


def _swapped(graph: Graph, above: Node, relu: Node) -> Graph:
    source = above.inputs[0]
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.name == above.name:
            nodes += [replace(relu, inputs=(source,)), replace(above, inputs=(relu.output,))]
        elif node.name != relu.name:
            inputs = tuple(above.output if name == relu.output else name for name in node.inputs)
            nodes.append(replace(node, inputs=inputs))
    tensors = {**graph.tensors, relu.output: graph.tensors[source]}
    return graph.replace(nodes=tuple(nodes), tensors=tensors)
