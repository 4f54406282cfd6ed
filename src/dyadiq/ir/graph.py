"""The dataflow graph: one class for both dialects, numpy inside, no torch.

Used by everything that follows capture. Immutable in spirit: passes return new graphs (`Graph.replace`).

A node makes exactly one tensor. Names: a node is named by its module path (``layer1.0.conv1``), its output
tensor likewise unless a pass fused something into it (conv1 + bn1 + relu: node ``conv1``, output ``relu``).
Parameters are named as in the model's state dict. Activation shapes leave out the batch dimension.

Float dialect, operators and attributes (`FLOAT_OPS`); integer dialect in `ir.integer`.
A `conv2d`, `linear`, `add` or `avg_pool2d` node may carry ``activation="relu"``, or ``"clamp"`` with ``limits``, after
fusion, and a `conv2d` or `linear` node is free of batch norm after folding. Source: DESIGN sections 1 and 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import GraphError
from dyadiq.core.qtype import QType

__all__ = ["FLOAT_OPS", "OPTIONAL_ATTRS", "Dialect", "Graph", "Node", "TensorInfo"]

Dialect = Literal["float", "integer"]

FLOAT_OPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        # name: attributes it must carry, all JSON-able
        "conv2d": ("stride", "padding", "dilation", "groups"),  # pairs (h, w); inputs x, weight[, bias]
        "linear": (),  # inputs x, weight[, bias]; x is [N, I]
        "batch_norm": ("eps",),  # inputs x, weight, bias, running_mean, running_var; channel axis 1
        "relu": (),
        "clamp": ("limits",),  # pair (low, high) of real values, None for no limit
        "lookup": ("function",),  # a function of single values, one of ir.activation.FUNCTIONS
        "add": (),  # two activations of equal shape
        "concat": (),  # activations, channel axis 1; of a single one: the same values on a grid of their own
        "max_pool2d": ("kernel", "stride", "padding", "dilation", "ceil_mode"),
        "avg_pool2d": ("kernel", "stride", "padding", "count_include_pad"),  # global: kernel = (H, W)
        "pad": ("before", "after"),  # zeros around [N, C, H, W]: how many per side of (C, H, W)
        "flatten": (),  # [N, ...] to [N, F]
    }
)

OPTIONAL_ATTRS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "avg_pool2d": ("ceil_mode",),  # False if absent; with it, windows may hang over the padded edge
        # For training only; what a network computes in eval mode does not depend on them.
        # momentum: weight of a batch in the running statistics (None: cumulative average), 0.1 if absent
        # num_batches_tracked: the model's counter (None: it has none), 0 if absent
        # neutral: names of parameters that the model does not have (affine=False)
        "batch_norm": ("momentum", "num_batches_tracked", "neutral"),
    }
)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What is known of an activation tensor.

    Attributes:
        shape: Without the batch dimension.
        qtype: Code type in the integer dialect; None for real values.
        scale: Real value of one step, float64, shape ``[]`` or ``[C]`` (accumulators per channel).
        zero_point: Code that stands for 0.0.
    """

    shape: tuple[int, ...]
    qtype: QType | None = None
    scale: NDArray[np.float64] | None = None
    zero_point: int = 0


@dataclass(frozen=True, slots=True)
class Node:
    """One operation that makes one tensor.

    Attributes:
        name: Unique; the module path it came from.
        op: Operator of the dialect.
        inputs: Names of activation tensors and parameters, in the operator's order.
        output: Name of the tensor it makes.
        attrs: JSON-able attributes.
        source: Where in the user's code it came from, ``file:line`` or a module path; for messages.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    output: str
    attrs: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class Graph:
    """A network as data.

    Attributes:
        dialect: ``float`` or ``integer``.
        inputs: Names of the input tensors.
        outputs: Names of the output tensors.
        nodes: In topological order.
        tensors: Every activation tensor by name, inputs included.
        params: Constants by name: float32/float64 in the float dialect, int64 in the integer one
            (input scales excepted).
        param_types: Code type of every integer parameter that is stored packed.
        meta: Free JSON-able facts (model class, versions).

    Example:
        >>> x, y = TensorInfo((2,)), TensorInfo((3,))
        >>> node = Node("fc", "linear", ("x", "fc.weight"), "fc")
        >>> graph = Graph("float", ("x",), ("fc",), (node,), {"x": x, "fc": y}, {"fc.weight": np.ones((3, 2))})
        >>> graph.producer("fc").op, [n.name for n in graph.consumers("x")], graph.activations(node)
        ('linear', ['fc'], ('x',))
    """

    dialect: Dialect
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    tensors: Mapping[str, TensorInfo]
    params: Mapping[str, NDArray[Any]]
    param_types: Mapping[str, QType] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def producer(self, tensor: str) -> Node | None:
        """Return the node that makes a tensor; None for a graph input.

        Raises:
            GraphError: No such tensor.
        """
        if tensor in self.inputs:
            return None
        for node in self.nodes:
            if node.output == tensor:
                return node
        raise GraphError(f"no tensor named {tensor!r} in the graph.")

    def consumers(self, tensor: str) -> tuple[Node, ...]:
        """Return the nodes that read a tensor, in order, each once."""
        return tuple(n for n in self.nodes if tensor in n.inputs)

    def activations(self, node: Node) -> tuple[str, ...]:
        """Return the activation inputs of a node (its inputs that are not parameters)."""
        return tuple(i for i in node.inputs if i not in self.params)

    def replace(self, **changes: Any) -> Graph:
        """Return a copy with some fields changed."""
        return replace(self, **changes)

    def without_unused(self, nodes: Iterable[Node]) -> Graph:
        """Return a copy with these nodes, dropping tensors and parameters that nothing refers to."""
        kept = tuple(nodes)
        used = {i for n in kept for i in n.inputs} | {n.output for n in kept}
        used |= set(self.inputs) | set(self.outputs)
        return replace(
            self,
            nodes=kept,
            tensors={k: v for k, v in self.tensors.items() if k in used},
            params={k: v for k, v in self.params.items() if k in used},
            param_types={k: v for k, v in self.param_types.items() if k in used},
        )
