"""Drop nodes that reach no output, with their tensors and parameters.

First of the canonical passes: what nobody reads needs no bits, and cannot make a later pass fail.
"""

from __future__ import annotations

from dyadiq.ir.graph import Graph

__all__ = ["drop_dead"]


def drop_dead(graph: Graph) -> Graph:
    """Return the graph without nodes that no output depends on. Graph inputs stay.

    Example:
        >>> from dyadiq.ir.graph import Node, TensorInfo
        >>> nodes = (Node("a", "relu", ("x",), "a"), Node("b", "relu", ("x",), "b"))
        >>> graph = Graph("float", ("x",), ("b",), nodes, dict.fromkeys("xab", TensorInfo((2,))), {})
        >>> [node.name for node in drop_dead(graph).nodes]
        ['b']
    """
    needed = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if node.output in needed:
            kept.append(node)
            needed.update(node.inputs)
    return graph.without_unused(reversed(kept))
