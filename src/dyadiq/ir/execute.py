"""Run a float Graph in torch: the one interpreter of the float dialect.

Used by capture (to compare with the user's model), curvature, calibration and `quant.module`; differentiable in
inputs and parameters. Works before and after `ir.passes`. Knows nothing about quantization: those who do replace
parameters (``params``) or tensors (``hook``).

Also the one place that says what a *batch* is: a tensor or array of inputs, a mapping of them by input name (for
networks with several), or a tuple or list that starts with one of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from numpy.typing import NDArray
from torch import Tensor

from dyadiq.core.errors import DataError, GraphError
from dyadiq.ir.activation import find_limits
from dyadiq.ir.graph import Graph, Node

__all__ = [
    "Batch",
    "Hook",
    "NamedInputs",
    "batch_inputs",
    "graph_params",
    "iterate_batches",
    "passing_mask",
    "run_graph",
    "run_node",
]

Batch: TypeAlias = Tensor | NDArray[Any] | Mapping[str, Any] | Sequence[Any]
Hook: TypeAlias = Callable[[str, Tensor], Tensor | None]


class NamedInputs(dict[str, Tensor]):
    """Input name to tensor, of one batch of a network with several inputs."""

    def to(self, target: torch.dtype | torch.device | str) -> NamedInputs:
        """Return the same on another device or in another dtype, as `Tensor.to`."""
        return NamedInputs({name: value.to(target) for name, value in self.items()})


def graph_params(
    graph: Graph, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Return the parameters of a float graph as tensors that share no memory with it.

    Example:
        >>> graph = Graph("float", (), (), (), {}, {"fc.weight": np.ones((1, 2))})
        >>> graph_params(graph, torch.float64)
        {'fc.weight': tensor([[1., 1.]], dtype=torch.float64)}
    """
    return {name: torch.tensor(value, dtype=dtype, device=device) for name, value in graph.params.items()}


def run_graph(
    graph: Graph,
    inputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor],
    params: Mapping[str, Tensor] | None = None,
    hook: Hook | None = None,
) -> list[Tensor]:
    """Return the outputs of a float graph, in the order of ``graph.outputs``.

    Batch norm uses its running statistics. Computes in the dtype of ``params`` if some are given, else in that of
    the first input; inputs are cast to it.

    Args:
        graph: A graph of the float dialect, canonical or not.
        inputs: One tensor, a sequence in the order of ``graph.inputs``, or a mapping by name.
        params: Tensors that stand in for parameters of the same name; the others come from the graph. Loops should
            convert once with `graph_params` and pass the result.
        hook: Called with the name and value of every tensor, graph inputs included, as soon as it exists; a returned
            tensor takes the value's place for all readers.

    Raises:
        GraphError: The graph is of the integer dialect or holds an unknown operator.
        DataError: Inputs are missing, unknown, or of another shape than the graph's.

    Shapes:
        Each input ``[N, *graph.tensors[name].shape]``.

    Example:
        >>> from dyadiq.ir.graph import TensorInfo
        >>> nodes = (Node("fc", "linear", ("x", "w"), "fc"), Node("act", "relu", ("fc",), "act"))
        >>> infos = {"x": TensorInfo((2,)), "fc": TensorInfo((1,)), "act": TensorInfo((1,))}
        >>> graph = Graph("float", ("x",), ("act",), nodes, infos, {"w": np.array([[1.0, -2.0]])})
        >>> run_graph(graph, torch.tensor([[3.0, 1.0], [0.0, 1.0]]))
        [tensor([[1.],
                [0.]])]
    """
    if graph.dialect != "float":
        raise GraphError(
            f"run_graph executes the float dialect, got a graph of the {graph.dialect!r} one. "
            "Use ir.reference.run_reference for integer programs."
        )
    values = _named_inputs(graph, inputs)
    like = next(iter(params.values())) if params else next(iter(values.values()))
    constants = dict(params) if params else {}
    for name, array in graph.params.items():
        if name not in constants:
            constants[name] = torch.tensor(array, dtype=like.dtype, device=like.device)
    for name, value in values.items():
        values[name] = _hooked(hook, name, value.to(like.dtype))
    last_reader = {name: node.name for node in graph.nodes for name in node.inputs}
    for node in graph.nodes:
        arguments = [values[name] if name in values else constants[name] for name in node.inputs]
        values[node.output] = _hooked(hook, node.output, run_node(node, arguments))
        for name in set(node.inputs):  # Nobody reads it again: let go of the memory.
            if name in values and last_reader[name] == node.name and name not in graph.outputs:
                del values[name]
    return [values[name] for name in graph.outputs]


def run_node(node: Node, arguments: Sequence[Tensor]) -> Tensor:
    """Return the tensor one float node makes from its inputs (activations and parameters, in the node's order).

    Raises:
        GraphError: The operator is not of the float dialect.

    Example:
        >>> run_node(Node("a", "add", ("x", "y"), "a", {"activation": "relu"}), [torch.tensor([-3.0]), torch.ones(1)])
        tensor([0.])
    """
    if node.op not in _OPERATORS:
        raise GraphError(
            f"{node.name}: {node.op!r} is no operator of the float dialect. Known: {', '.join(sorted(_OPERATORS))}."
        )
    result = _OPERATORS[node.op](node.attrs, *arguments)
    return _ACTIVATIONS[node.attrs["activation"]](node.attrs, result) if "activation" in node.attrs else result


def passing_mask(node: Node, output: Tensor) -> Tensor | None:
    """Return where the activation fused into a node, or that it is, passes gradients, from its output; None: all over.

    Example:
        >>> passing_mask(Node("a", "relu", ("x",), "a"), torch.tensor([0.0, 2.0]))
        tensor([False,  True])
    """
    limits = find_limits(node)
    if limits is None:
        return None
    low, high = limits
    above = torch.ones_like(output, dtype=torch.bool) if low is None else output > low
    return above if high is None else above & (output < high)


def batch_inputs(batch: Batch, dtype: torch.dtype = torch.float32) -> Tensor | NamedInputs:
    """Return the network inputs of a batch: the batch itself, or the first element of a tuple or list.

    Args:
        batch: A tensor, an array, a mapping of them by input name, or a tuple or list such as ``(inputs, labels)``.
        dtype: Floating type of the result.

    Raises:
        DataError: Nothing in it, not numbers, NaN or infinity among them, or inputs of different batch sizes.

    Example:
        >>> batch_inputs((np.array([[1, 2]]), np.array([0])))
        tensor([[1., 2.]])
        >>> batch_inputs({"a": np.array([[1]]), "b": np.array([[2]])})
        {'a': tensor([[1.]]), 'b': tensor([[2.]])}
    """
    first: Any = batch
    if isinstance(batch, (tuple, list)):
        if not batch:
            raise DataError("a batch is an empty tuple or list, expected (inputs, ...). Drop empty batches.")
        first = batch[0]
    if not isinstance(first, Mapping):
        return _finite_input(first, dtype)
    named = NamedInputs()
    for name, value in first.items():
        try:
            named[name] = _finite_input(value, dtype)
        except DataError as err:
            raise DataError(f"input {name!r}: {err}") from err
    if len({len(value) for value in named.values()}) != 1:
        sizes = {name: len(value) for name, value in named.items()}
        raise DataError(f"inputs of a batch must be of one batch size, got {sizes or 'none'}.")
    return named


def _finite_input(first: Any, dtype: torch.dtype) -> Tensor:
    """Return one input as a tensor.

    Raises:
        DataError: It is unusable.
    """
    if not isinstance(first, (Tensor, np.ndarray)):
        raise DataError(
            "a batch must be a tensor, an array, a mapping of them by input name, or a tuple or list that starts with "
            f"one of these, got {type(first).__name__}."
        )
    if isinstance(first, np.ndarray):
        if first.dtype.kind not in "biuf":
            raise DataError(f"batch inputs must be real numbers, got an array of {first.dtype}.")
        first = torch.tensor(first)
    if first.is_complex():
        raise DataError(f"batch inputs must be real numbers, got a tensor of {first.dtype}.")
    if first.ndim == 0 or first.numel() == 0:
        raise DataError(
            f"batch inputs are empty: got shape {list(first.shape)}, expected [N, ...] with N >= 1. Drop empty batches."
        )
    result: Tensor = first.to(dtype)
    bad = ~torch.isfinite(result)
    if bad.any():
        where = [int(i) for i in bad.nonzero()[0]]
        raise DataError(
            f"batch inputs hold {int(bad.sum())} values that are NaN or infinite, the first at index {where}. "
            "Clean the data before use."
        )
    return result


def iterate_batches(batches: Iterable[Batch], dtype: torch.dtype = torch.float32) -> Iterator[Tensor | NamedInputs]:
    """Yield the network inputs of every batch.

    Raises:
        DataError: There is no batch at all, or one is unusable (its index is in the message).

    Example:
        >>> [tuple(x.shape) for x in iterate_batches([torch.ones(4, 2), (torch.ones(1, 2), torch.zeros(1))])]
        [(4, 2), (1, 2)]
    """
    n_batches = 0
    for batch in batches:
        try:
            inputs = batch_inputs(batch, dtype)
        except DataError as err:
            raise DataError(f"batch {n_batches}: {err}") from err
        yield inputs
        n_batches += 1
    if n_batches == 0:
        raise DataError(
            "no batches: got an empty iterable, expected at least one batch. "
            "A generator can be read only once; pass a list or a DataLoader."
        )


def _named_inputs(graph: Graph, inputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return inputs by name, checked against the graph.

    Raises:
        DataError: Inputs are missing, unknown, or of another shape.
    """
    if isinstance(inputs, Tensor):
        inputs = [inputs]
    if isinstance(inputs, Mapping):
        if set(inputs) != set(graph.inputs):
            raise DataError(f"the graph's inputs are {list(graph.inputs)}, got {sorted(inputs)}.")
        named = {name: inputs[name] for name in graph.inputs}
    else:
        if len(inputs) != len(graph.inputs):
            raise DataError(
                f"the graph has {len(graph.inputs)} inputs {list(graph.inputs)}, got {len(inputs)}. Give a mapping by "
                "name; in a batch, what follows the first element of a tuple is taken for labels."
            )
        named = dict(zip(graph.inputs, inputs, strict=True))
    for name, value in named.items():
        expected = graph.tensors[name].shape
        if tuple(value.shape[1:]) != tuple(expected) or value.ndim == 0:
            sizes = ", ".join(str(size) for size in ("N", *expected))
            raise DataError(f"input {name!r}: got shape {list(value.shape)}, expected [{sizes}].")
    return named


def _hooked(hook: Hook | None, name: str, value: Tensor) -> Tensor:
    replaced = hook(name, value) if hook is not None else None
    return value if replaced is None else replaced


def _conv2d(attrs: Mapping[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.conv2d(
        x, weight, bias, tuple(attrs["stride"]), tuple(attrs["padding"]), tuple(attrs["dilation"]), attrs["groups"]
    )


def _linear(attrs: Mapping[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight, bias)


def _batch_norm(
    attrs: Mapping[str, Any], x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor
) -> Tensor:
    return F.batch_norm(x, running_mean, running_var, weight, bias, training=False, eps=attrs["eps"])


def _max_pool2d(attrs: Mapping[str, Any], x: Tensor) -> Tensor:
    return F.max_pool2d(
        x,
        tuple(attrs["kernel"]),
        tuple(attrs["stride"]),
        tuple(attrs["padding"]),
        tuple(attrs["dilation"]),
        ceil_mode=attrs["ceil_mode"],
    )


def _avg_pool2d(attrs: Mapping[str, Any], x: Tensor) -> Tensor:
    return F.avg_pool2d(
        x,
        tuple(attrs["kernel"]),
        tuple(attrs["stride"]),
        tuple(attrs["padding"]),
        ceil_mode=attrs.get("ceil_mode", False),
        count_include_pad=attrs["count_include_pad"],
    )


def _relu(attrs: Mapping[str, Any], x: Tensor) -> Tensor:
    return F.relu(x)


def _clamp(attrs: Mapping[str, Any], x: Tensor) -> Tensor:
    low, high = attrs["limits"]
    return torch.clamp(x, low, high)


_ACTIVATIONS: Mapping[str, Callable[..., Tensor]] = MappingProxyType({"relu": _relu, "clamp": _clamp})

_FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "gelu": F.gelu,
        "hardsigmoid": F.hardsigmoid,
        "hardswish": F.hardswish,
        "leaky_relu": F.leaky_relu,
        "sigmoid": torch.sigmoid,
        "silu": F.silu,
        "tanh": torch.tanh,
    }
)


def _pad(attrs: Mapping[str, Any], x: Tensor) -> Tensor:
    sides = zip(reversed(attrs["before"]), reversed(attrs["after"]), strict=True)  # torch starts from the last axis
    return F.pad(x, [amount for side in sides for amount in side])


_OPERATORS: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
        "conv2d": _conv2d,
        "linear": _linear,
        "batch_norm": _batch_norm,
        **_ACTIVATIONS,
        "lookup": lambda attrs, x: _FUNCTIONS[attrs["function"]](x),
        "add": lambda _, x, y: x + y,
        "concat": lambda _, *tensors: torch.cat(tensors, dim=1),
        "max_pool2d": _max_pool2d,
        "avg_pool2d": _avg_pool2d,
        "pad": _pad,
        "flatten": lambda _, x: torch.flatten(x, 1),
    }
)
