"""Fuse a relu or clamp into the node whose result it alone reads.

After this pass a conv2d, linear, add or avg_pool2d with ``activation="relu"`` (or ``"clamp"`` and its ``limits``) makes
one tensor, named like the activation's; one that is left reads a tensor with other readers, a graph input, or the
result of another operator. The integer program then needs no relu: it is the clip of the requantization.
"""

from __future__ import annotations

from dataclasses import replace

from dyadiq.ir.activation import ACTIVATIONS
from dyadiq.ir.check import FUSABLE_OPS
from dyadiq.ir.graph import Graph, Node

__all__ = ["fuse_activation"]


def fuse_activation(graph: Graph) -> Graph:
    """Return the graph with every activation fused that can be: ``relu(conv(x))`` is one node.

    Example:
        >>> import numpy as np
        >>> from dyadiq.ir.graph import TensorInfo
        >>> nodes = (Node("fc", "linear", ("x", "w"), "fc"), Node("act", "relu", ("fc",), "act"))
        >>> graph = Graph("float", ("x",), ("act",), nodes, dict.fromkeys(("x", "fc", "act"), TensorInfo((1,))),
        ...               {"w": np.ones((1, 1))})
        >>> [(node.name, node.output, node.attrs) for node in fuse_activation(graph).nodes]
        [('fc', 'act', {'activation': 'relu'})]
    """
    nodes: list[Node] = []
    for node in graph.nodes:
        producer = next((n for n in nodes if node.inputs and n.output == node.inputs[0]), None)
        if (
            node.op in ACTIVATIONS
            and producer is not None
            and producer.op in FUSABLE_OPS
            and producer.attrs.get("activation", "relu") == "relu"
            and ("activation" not in producer.attrs or node.op == "relu")
            and producer.output not in graph.outputs
            and len(graph.consumers(producer.output)) == 1
        ):
            fused = replace(producer, output=node.output, attrs={**producer.attrs, "activation": node.op, **node.attrs})
            nodes[nodes.index(producer)] = fused
        else:
            nodes.append(node)
    return graph.without_unused(nodes)
