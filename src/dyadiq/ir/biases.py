"""Which bias moves with a weight when the weight is rounded by the outputs of its layer.

Used by `quant.candidates`, which shifts biases, and by curvature, which measures what both do together. Knows no bits.
"""

from __future__ import annotations

from collections import Counter

from dyadiq.ir.graph import Graph

__all__ = ["weight_biases"]


def weight_biases(graph: Graph) -> dict[str, str]:
    """Return, by weight, the bias of its layer, of the first if several layers share the weight.

    Weights of layers without a bias are absent, and those whose bias another layer reads too: it cannot move.

    Example:
        >>> import numpy as np
        >>> from dyadiq.ir.graph import Node, TensorInfo
        >>> params = {"w": np.ones((1, 2)), "b": np.ones(1)}
        >>> node = Node("fc", "linear", ("x", "w", "b"), "y")
        >>> infos = {"x": TensorInfo((2,)), "y": TensorInfo((1,))}
        >>> weight_biases(Graph("float", ("x",), ("y",), (node,), infos, params))
        {'w': 'b'}
    """
    layers = [node for node in graph.nodes if node.op in ("conv2d", "linear") and node.inputs[1] in graph.params]
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    first = {node.inputs[1]: node for node in reversed(layers)}
    with_bias = {weight: node.inputs[2] for weight, node in first.items() if len(node.inputs) > 2}
    return {weight: bias for weight, bias in with_bias.items() if readers[bias] == 1}
