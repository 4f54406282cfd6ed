"""Let convolutions pad their own input where a pad before them is the same on opposite sides.

``nn.ZeroPad2d(1)`` before a convolution is its ``padding=1``: one node less, and no padded copy of an activation.
Where the sides differ (TensorFlow's SAME with stride 2), or another operator reads the padded tensor, the pad stays.
"""

from __future__ import annotations

from dataclasses import replace

from dyadiq.ir.graph import Graph, Node

__all__ = ["fuse_pad"]


def fuse_pad(graph: Graph) -> Graph:
    """Return the graph with every symmetric pad of H and W that only convolutions read made part of them.

    Example:
        >>> import numpy as np
        >>> from dyadiq.ir.graph import TensorInfo
        >>> attrs = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
        >>> pad = Node("p", "pad", ("x",), "p", {"before": (0, 1, 1), "after": (0, 1, 1)})
        >>> nodes = (pad, Node("c", "conv2d", ("p", "w"), "c", attrs))
        >>> infos = {"x": TensorInfo((1, 4, 4)), "p": TensorInfo((1, 6, 6)), "c": TensorInfo((1, 4, 4))}
        >>> graph = Graph("float", ("x",), ("c",), nodes, infos, {"w": np.ones((1, 1, 3, 3))})
        >>> [(node.name, node.inputs, node.attrs["padding"]) for node in fuse_pad(graph).nodes]
        [('c', ('x', 'w'), (1, 1))]
    """
    pads = {node.output: node for node in graph.nodes if _is_fusable(graph, node)}
    nodes = []
    for node in graph.nodes:
        pad = pads.get(node.inputs[0])
        if pad is not None:
            padding = tuple(
                own + more for own, more in zip(node.attrs["padding"], pad.attrs["before"][1:], strict=True)
            )
            node = replace(node, inputs=(pad.inputs[0], *node.inputs[1:]), attrs={**node.attrs, "padding": padding})
        if node.output not in pads:
            nodes.append(node)
    return graph.without_unused(nodes)


def _is_fusable(graph: Graph, node: Node) -> bool:
    if node.op != "pad" or node.output in graph.outputs:
        return False
    before, after = tuple(node.attrs["before"]), tuple(node.attrs["after"])
    is_symmetric = before == after and before[0] == 0
    return is_symmetric and all(reader.op == "conv2d" for reader in graph.consumers(node.output))
