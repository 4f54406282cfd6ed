"""The rules of both dialects, checked by machine: `check_graph` accepts a Graph or names the first thing wrong.

Run after capture, after every pass, after lowering and after loading. Looks at structure and shapes only; values
(finite, in range) are the business of capture and `ir.proof`. No torch.

A graph is legal when
- names are unique: nodes; tensors; parameters; and no parameter is called like a tensor;
- nodes are in topological order, and nothing is missing or left over among tensors and parameters;
- every operator is one of its dialect (`FLOAT_OPS`, `INTEGER_OPS`), with its attributes and its number of inputs;
- every tensor and parameter has the shape its operator implies (`infer_shape`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from dyadiq.core.errors import GraphError
from dyadiq.ir.activation import ACTIVATIONS, FUNCTIONS
from dyadiq.ir.graph import FLOAT_OPS, OPTIONAL_ATTRS, Graph, Node
from dyadiq.ir.integer import INTEGER_OPS
from dyadiq.ir.shapes import Shape, infer_shape

__all__ = ["FUSABLE_OPS", "check_graph", "infer_shape"]

FUSABLE_OPS = ("conv2d", "linear", "add", "avg_pool2d")  # may carry an activation in the float dialect

_MANY = 1 << 30
# operator: fewest and most activations, fewest and most parameters
_ARITY: Mapping[str, Mapping[str, tuple[int, int, int, int]]] = MappingProxyType(
    {
        "float": {
            "conv2d": (1, 1, 1, 2),
            "linear": (1, 1, 1, 2),
            "batch_norm": (1, 1, 4, 4),
            "relu": (1, 1, 0, 0),
            "clamp": (1, 1, 0, 0),
            "lookup": (1, 1, 0, 0),
            "add": (2, 2, 0, 0),
            "concat": (1, _MANY, 0, 0),
            "max_pool2d": (1, 1, 0, 0),
            "avg_pool2d": (1, 1, 0, 0),
            "pad": (1, 1, 0, 0),
            "flatten": (1, 1, 0, 0),
        },
        "integer": {
            "quantize": (1, 1, 2, 5),
            "conv2d": (1, 1, 2, 4),
            "linear": (1, 1, 2, 4),
            "requantize": (1, 1, 2, 2),
            "add": (2, _MANY, 0, 0),
            "clip": (1, 1, 0, 0),
            "concat": (2, _MANY, 0, 0),
            "max_pool2d": (1, 1, 0, 0),
            "sum_pool2d": (1, 1, 1, 2),
            "lookup": (1, 1, 1, 1),
            "pad": (1, 1, 0, 0),
            "flatten": (1, 1, 0, 0),
        },
    }
)


def check_graph(graph: Graph) -> None:
    """Return if a graph of either dialect keeps all rules.

    Raises:
        GraphError: The first rule broken, with the node, what was found and what was expected.

    Example:
        >>> from dyadiq.ir.graph import TensorInfo
        >>> import numpy as np
        >>> nodes = (Node("fc", "linear", ("x", "fc.weight"), "fc"),)
        >>> tensors = {"x": TensorInfo((2,)), "fc": TensorInfo((4,))}
        >>> check_graph(Graph("float", ("x",), ("fc",), nodes, tensors, {"fc.weight": np.ones((3, 2))}))
        Traceback (most recent call last):
        dyadiq.core.errors.GraphError: fc (linear): tensor 'fc' is recorded with shape [4], expected [3].
    """
    if graph.dialect not in _ARITY:
        raise GraphError(f"graph dialect must be one of {sorted(_ARITY)}, got {graph.dialect!r}.")
    _check_names(graph)
    shapes: dict[str, Shape] = {name: tuple(graph.tensors[name].shape) for name in graph.inputs}
    param_shapes = {name: tuple(value.shape) for name, value in graph.params.items()}
    for name, shape in shapes.items():
        if not shape or min(shape) < 1:
            raise GraphError(f"graph input {name!r}: got shape {list(shape)} without the batch, expected sizes >= 1.")
    for node in graph.nodes:
        where = f"{node.name} ({node.op})"
        for name in node.inputs:
            if name not in shapes and name not in param_shapes:
                reason = "a node further down makes it" if name in graph.tensors else "nothing makes it"
                raise GraphError(f"{where}: reads {name!r} before it exists; {reason}. Sort the nodes or add it.")
        _check_operator(graph, node)
        try:
            inferred = infer_shape(node, shapes, param_shapes)
        except GraphError as err:
            raise GraphError(f"{where}: {err}") from err
        recorded = tuple(graph.tensors[node.output].shape)
        if recorded != inferred:
            raise GraphError(
                f"{where}: tensor {node.output!r} is recorded with shape {list(recorded)}, expected {list(inferred)}."
            )
        shapes[node.output] = inferred


def _check_names(graph: Graph) -> None:
    """Check uniqueness and that the tables of tensors and parameters fit the nodes.

    Raises:
        GraphError: A name is used twice, missing or left over.
    """
    if not graph.inputs or not graph.outputs:
        raise GraphError(
            f"a graph needs inputs and outputs, got inputs {list(graph.inputs)} and outputs {list(graph.outputs)}."
        )
    made = [*graph.inputs, *(node.output for node in graph.nodes)]
    for kind, names in (
        ("node name", [node.name for node in graph.nodes]),
        ("tensor", made),
        ("graph output", list(graph.outputs)),
        ("tensor or parameter", [*made, *graph.params]),
    ):
        twice = _first_repeated(names)
        if twice is not None:
            raise GraphError(f"{kind} {twice!r} appears twice; names must be unique.")
    for name in made:
        if name not in graph.tensors:
            raise GraphError(f"tensor {name!r} has no entry in graph.tensors; expected its TensorInfo.")
    for name in graph.outputs:
        if name not in made:
            raise GraphError(f"graph output {name!r} is made by no node and is no graph input.")
    read = {name for node in graph.nodes for name in node.inputs}
    for kind, left_over in (
        ("tensor", sorted(set(graph.tensors) - set(made))),
        ("parameter", sorted(set(graph.params) - read)),
        ("param_types entry", sorted(set(graph.param_types) - set(graph.params))),
    ):
        if left_over:
            raise GraphError(f"{kind} {left_over[0]!r} belongs to no node. Use graph.without_unused(nodes).")


def _first_repeated(names: Sequence[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _check_operator(graph: Graph, node: Node) -> None:
    """Check operator, attributes and number of inputs of one node.

    Raises:
        GraphError: Unknown operator, missing or unknown attribute, wrong number or order of inputs.
    """
    where = f"{node.name} ({node.op})"
    known = FLOAT_OPS if graph.dialect == "float" else INTEGER_OPS
    if node.op not in known:
        raise GraphError(
            f"{where}: no operator of the {graph.dialect} dialect. Known: {', '.join(sorted(known))}. "
            "Add new operators to the dialect's table, check, executor and spec."
        )
    missing = [name for name in known[node.op] if name not in node.attrs]
    if missing:
        raise GraphError(f"{where}: attribute {missing[0]!r} is missing, got {sorted(node.attrs)}.")
    if graph.dialect == "float":
        _check_float_attrs(node)
    for name in ("kernel", "stride", "dilation", "padding"):
        if name in node.attrs:
            _check_numbers(where, name, node.attrs[name], 2, lowest=0 if name == "padding" else 1)
    for name in ("before", "after"):
        if name in node.attrs:
            _check_numbers(where, name, node.attrs[name], 3, lowest=0)
    n_activations = sum(name not in graph.params for name in node.inputs)
    n_params = len(node.inputs) - n_activations
    least, most, least_params, most_params = _ARITY[graph.dialect][node.op]
    if not (least <= n_activations <= most and least_params <= n_params <= most_params):
        raise GraphError(
            f"{where}: got {n_activations} activations and {n_params} parameters, expected "
            f"{_interval(least, most)} and {_interval(least_params, most_params)}."
        )
    if any(name in graph.params for name in node.inputs[:n_activations]):
        raise GraphError(f"{where}: activations must come before parameters, got inputs {list(node.inputs)}.")


def _check_float_attrs(node: Node) -> None:
    """Check that a float node has no attribute beyond those of its operator and a fused activation.

    Raises:
        GraphError: Unknown attribute or illegal activation.
    """
    where = f"{node.name} ({node.op})"
    fused = ("activation", "limits") if node.attrs.get("activation") == "clamp" else ("activation",)
    extra = sorted(set(node.attrs) - {*FLOAT_OPS[node.op], *OPTIONAL_ATTRS.get(node.op, ()), *fused})
    if extra:
        raise GraphError(f"{where}: unknown attribute {extra[0]!r}, expected {sorted(FLOAT_OPS[node.op])}.")
    if node.op == "lookup" and node.attrs["function"] not in FUNCTIONS:
        raise GraphError(f"{where}: function must be one of {', '.join(FUNCTIONS)}, got {node.attrs['function']!r}.")
    activation = node.attrs.get("activation", node.op if node.op in ACTIVATIONS else None)
    if "activation" in node.attrs and (node.op not in FUSABLE_OPS or activation not in ACTIVATIONS):
        raise GraphError(
            f"{where}: activation={activation!r} is not allowed; "
            f"expected 'relu' or 'clamp', on {', '.join(FUSABLE_OPS)} only."
        )
    if activation == "clamp":
        _check_limits(where, node.attrs.get("limits"))


def _check_limits(where: str, limits: Any) -> None:
    """Check the limits of a clamp.

    Raises:
        GraphError: Not a pair of numbers or None, both None, or in the wrong order.
    """
    are_numbers = isinstance(limits, (tuple, list)) and len(limits) == 2
    are_numbers = are_numbers and all(v is None or (type(v) in (int, float) and math.isfinite(v)) for v in limits)
    known = [v for v in limits if v is not None] if are_numbers else []
    if not known or known != sorted(known):
        raise GraphError(f"{where}: limits must be (low, high), low <= high, at most one of them None, got {limits!r}.")


def _check_numbers(where: str, name: str, value: Any, count: int, lowest: int) -> None:
    """Check a pair or triple of integers.

    Raises:
        GraphError: Another number of them, no integers, or too small.
    """
    are_numbers = isinstance(value, (tuple, list)) and len(value) == count and all(type(v) is int for v in value)
    if not are_numbers or min(value) < lowest:
        kind = {2: "pair", 3: "triple"}[count]
        raise GraphError(f"{where}: {name} must be a {kind} of integers >= {lowest}, got {value!r}.")


def _interval(least: int, most: int) -> str:
    if most == _MANY:
        return f"{least} or more"
    return str(least) if least == most else f"{least} to {most}"
