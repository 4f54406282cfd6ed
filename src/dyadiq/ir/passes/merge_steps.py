"""Make one node of every n-th row and every m-th column: ``x[:, :, ::n, ::m]`` is captured as two.

Both are max pools of windows of one position, which only leave positions out; so is their product.
"""

from __future__ import annotations

from dataclasses import replace

from dyadiq.ir.graph import Graph, Node

__all__ = ["merge_steps"]


def merge_steps(graph: Graph) -> Graph:
    """Return the graph with each pair of such pools, the first read by the second alone, made one.

    Example:
        >>> from dyadiq.ir.graph import TensorInfo
        >>> one = {"kernel": (1, 1), "padding": (0, 0), "dilation": (1, 1), "ceil_mode": False}
        >>> rows = Node("rows", "max_pool2d", ("x",), "rows", {**one, "stride": (2, 1)})
        >>> columns = Node("columns", "max_pool2d", ("rows",), "columns", {**one, "stride": (1, 3)})
        >>> infos = {"x": TensorInfo((1, 5, 7)), "rows": TensorInfo((1, 3, 7)), "columns": TensorInfo((1, 3, 3))}
        >>> merged = merge_steps(Graph("float", ("x",), ("columns",), (rows, columns), infos, {}))
        >>> [(node.name, node.inputs, node.attrs["stride"]) for node in merged.nodes]
        [('columns', ('x',), (2, 3))]
    """
    nodes: list[Node] = []
    for node in graph.nodes:
        above = next((n for n in nodes if n.output == node.inputs[0]), None)
        if (
            above is not None
            and _is_step(node)
            and _is_step(above)
            and above.output not in graph.outputs
            and len(graph.consumers(above.output)) == 1
        ):
            nodes.remove(above)
            stride = tuple(a * b for a, b in zip(above.attrs["stride"], node.attrs["stride"], strict=True))
            node = replace(node, inputs=above.inputs, attrs={**node.attrs, "stride": stride})
        nodes.append(node)
    return graph.without_unused(nodes)


def _is_step(node: Node) -> bool:
    is_pool = node.op == "max_pool2d"
    return is_pool and tuple(node.attrs["kernel"]) == (1, 1) and tuple(node.attrs["padding"]) == (0, 0)
