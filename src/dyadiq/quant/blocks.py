"""Blocks of a network, from its graph: the stretches between places where a single tensor carries everything.

Used by block reconstruction. In a residual network these are the stem, the residual blocks (an inner layer is no place
to cut: the shortcut is under way) and the classifier; in a chain every layer is one. Nothing is listed by hand.
"""

from __future__ import annotations

from dyadiq.ir.graph import Graph, Node

__all__ = ["find_blocks"]

_LAYERS = ("conv2d", "linear")


def find_blocks(graph: Graph) -> list[tuple[Node, ...]]:
    """Return the nodes of a canonical graph in blocks, in order; every block but a lone first one has a layer.

    Nodes without a layer (pooling, flatten) go with the block that follows them, the last ones with the one before.

    Example:
        >>> from dyadiq.ir.graph import TensorInfo
        >>> nodes = (Node("a", "linear", ("x", "w"), "a"), Node("b", "linear", ("a", "w"), "b"),
        ...          Node("sum", "add", ("a", "b"), "sum"), Node("c", "linear", ("sum", "w"), "c"))
        >>> graph = Graph("float", ("x",), ("c",), nodes, {}, {})
        >>> [[node.name for node in block] for block in find_blocks(graph)]
        [['a'], ['b', 'sum'], ['c']]
    """
    last_use = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
    for name in graph.outputs:
        last_use[name] = len(graph.nodes)
    blocks: list[tuple[Node, ...]] = []
    pending: list[Node] = []
    made = list(graph.inputs)
    for index, node in enumerate(graph.nodes):
        pending.append(node)
        made.append(node.output)
        live = [name for name in made if last_use.get(name, -1) > index]
        if len(live) == 1 and any(n.op in _LAYERS for n in pending):
            blocks.append(tuple(pending))
            pending = []
    if pending and blocks and not any(node.op in _LAYERS for node in pending):
        blocks[-1] += tuple(pending)
    elif pending:
        blocks.append(tuple(pending))
    return blocks
