"""Shape rules of both dialects: which shape (without the batch) a node makes from those it reads.

Used by `ir.check`, capture and lowering. Knows nothing about names, order or values. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

from dyadiq.core.errors import GraphError
from dyadiq.core.facts import MAX_TABLE_BITS
from dyadiq.ir.graph import Node

__all__ = ["TABLE_SIZE", "Shape", "infer_shape", "pool_output_size"]

TABLE_SIZE = 2**MAX_TABLE_BITS
"""Entries of a lookup table, whatever the bits of what is looked up (ADR on lookups): structure follows no bits."""

Shape: TypeAlias = tuple[int, ...]
Params: TypeAlias = Sequence[tuple[str, Shape]]


def infer_shape(node: Node, shapes: Mapping[str, Shape], param_shapes: Mapping[str, Shape]) -> Shape:
    """Return the shape (without the batch) of the tensor that a node of either dialect makes.

    Args:
        node: A node whose operator, attributes and number of inputs are right.
        shapes: Shape of every activation it reads, without the batch.
        param_shapes: Shape of every parameter it reads.

    Raises:
        GraphError: A shape that does not fit the operator; the message does not repeat the node's name.

    Example:
        >>> attrs = {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
        >>> node = Node("conv", "conv2d", ("x", "conv.weight"), "conv", attrs)
        >>> infer_shape(node, {"x": (3, 8, 8)}, {"conv.weight": (16, 3, 3, 3)})
        (16, 4, 4)
    """
    activations = [shapes[name] for name in node.inputs if name in shapes]
    params = [(name, param_shapes[name]) for name in node.inputs if name not in shapes]
    return _SHAPE_RULES[node.op](node.attrs, activations, params)


def pool_output_size(size: int, kernel: int, stride: int, padding: int, dilation: int = 1, ceil: bool = False) -> int:
    """Return the number of windows: ``floor((size + 2 p - d (k - 1) - 1) / s) + 1``, or with ceil.

    With ``ceil``, a last window that would start beyond the padded input is left out, as in torch.

    Example:
        >>> pool_output_size(5, 2, 2, 0), pool_output_size(5, 2, 2, 0, ceil=True)
        (2, 3)
    """
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil:
        return span // stride + 1
    n_windows = -(-span // stride) + 1
    return n_windows - 1 if (n_windows - 1) * stride >= size + padding else n_windows


def _expect_rank(shape: Shape, rank: int) -> None:
    """Check the rank of an activation.

    Raises:
        GraphError: Another rank; sizes are given with the batch as N.
    """
    if len(shape) != rank:
        wanted = {1: "[N, F]", 3: "[N, C, H, W]"}[rank]
        raise GraphError(f"input has shape [{', '.join(map(str, ('N', *shape)))}], expected {wanted}.")


def _expect_param(params: Params, position: int, *allowed: Shape) -> None:
    """Check one parameter's shape, if it is there.

    Raises:
        GraphError: None of the allowed shapes.
    """
    if position < len(params):
        name, shape = params[position]
        if shape not in allowed:
            wanted = " or ".join(str(list(a)) for a in allowed)
            raise GraphError(f"parameter {name!r} has shape {list(shape)}, expected {wanted}.")


def _expect_positive(sizes: Shape, *, of: Shape) -> Shape:
    """Return sizes if all are at least one.

    Raises:
        GraphError: The window is larger than the padded input.
    """
    if min(sizes) < 1:
        raise GraphError(f"output would have shape {list(sizes)} for an input of {list(of)}: window larger than input.")
    return sizes


def _expect_layer_extras(params: Params, n_out: int, n_per_output: int) -> None:
    """Check bias, and in the integer dialect weight zero points and group factors.

    Raises:
        GraphError: A shape that does not fit the weight.
    """
    _expect_param(params, 1, (n_out,))
    _expect_param(params, 2, (n_out,), (1,))
    if len(params) > 3:
        name, shape = params[3]
        if len(shape) != 2 or shape[0] != n_out or shape[1] < 1 or n_per_output % shape[1]:
            raise GraphError(
                f"parameter {name!r} has shape {list(shape)}, expected [{n_out}, G] with G dividing {n_per_output}."
            )


def _conv2d(attrs: Mapping[str, Any], activations: Sequence[Shape], params: Params) -> Shape:
    x, (name, weight) = activations[0], params[0]
    _expect_rank(x, 3)
    groups = attrs["groups"]
    if len(weight) != 4 or min(weight) < 1 or groups < 1 or weight[0] % groups or weight[1] * groups != x[0]:
        raise GraphError(
            f"parameter {name!r} has shape {list(weight)}, expected [O, {x[0]} / groups, KH, KW] "
            f"with O divisible by groups = {groups}."
        )
    _expect_layer_extras(params, weight[0], math.prod(weight[1:]))
    sizes = (
        pool_output_size(x[1 + i], weight[2 + i], attrs["stride"][i], attrs["padding"][i], attrs["dilation"][i])
        for i in (0, 1)
    )
    return _expect_positive((weight[0], *sizes), of=x)


def _linear(attrs: Mapping[str, Any], activations: Sequence[Shape], params: Params) -> Shape:
    x, (name, weight) = activations[0], params[0]
    _expect_rank(x, 1)
    if len(weight) != 2 or weight[0] < 1 or weight[1] != x[0]:
        raise GraphError(f"parameter {name!r} has shape {list(weight)}, expected [O, {x[0]}].")
    _expect_layer_extras(params, weight[0], weight[1])
    return (weight[0],)


def _batch_norm(attrs: Mapping[str, Any], activations: Sequence[Shape], params: Params) -> Shape:
    x = activations[0]
    if len(x) not in (1, 3):
        raise GraphError(f"input has shape {['N', *x]}, expected [N, C] or [N, C, H, W].")
    for position in range(4):
        _expect_param(params, position, (x[0],))
    return x


def _same(attrs: Mapping[str, Any], activations: Sequence[Shape], params: Params) -> Shape:
    return activations[0]


def _lookup(attrs: Mapping[str, Any], activations: Sequence[Shape], params: Params) -> Shape:
    _expect_param(params, 0, (TABLE_SIZE,))
    return activations[0]


def _quantize(attrs: Mapping[str, Any], activations: Sequence[Shape], params: Params) -> Shape:
    for position in (0, 1):
        _expect_param(params, position, ())
    if len(params) not in (2, 5):
        raise GraphError(f"got {len(params)} parameters, expected scale and zero point, then all of a grid or nothing.")
    for position in (2, 3, 4):
        _expect_param(params, position, activations[0][:1])
    return activations[0]


def _requantize(attrs: Mapping[str, Any], activations: Sequence[Shape], params: Params) -> Shape:
    for position in (0, 1):
        _expect_param(params, position, (activations[0][0],), (1,))
    return activations[0]


def _add(attrs: Mapping[str, Any], activations: Sequence[Shape], params: Params) -> Shape:
    if len(set(activations)) != 1:
        raise GraphError(f"inputs have shapes {[list(s) for s in activations]}, expected equal ones (no broadcasting).")
    return activations[0]


def _concat(attrs: Mapping[str, Any], activations: Sequence[Shape], params: Params) -> Shape:
    if len({shape[1:] for shape in activations}) != 1:
        raise GraphError(
            f"inputs have shapes {[list(s) for s in activations]}, expected equal ones but for the channels."
        )
    return (sum(shape[0] for shape in activations), *activations[0][1:])


def _pool2d(attrs: Mapping[str, Any], activations: Sequence[Shape], params: Params) -> Shape:
    x = activations[0]
    _expect_rank(x, 3)
    _expect_param(params, 0, ())  # the bias of sum_pool2d
    kernel, padding = attrs["kernel"], attrs["padding"]
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise GraphError(f"padding {padding} must be at most half of kernel {kernel}.")
    dilation, ceil = attrs.get("dilation", (1, 1)), attrs.get("ceil_mode", False)
    sizes: Shape = tuple(
        pool_output_size(x[1 + i], kernel[i], attrs["stride"][i], padding[i], dilation[i], ceil=ceil) for i in (0, 1)
    )
    sizes = _expect_positive((x[0], *sizes), of=x)
    _expect_param(params, 1, sizes[1:])  # the factors of sum_pool2d
    return sizes


def _pad(attrs: Mapping[str, Any], activations: Sequence[Shape], params: Params) -> Shape:
    x = activations[0]
    _expect_rank(x, 3)
    return tuple(size + b + a for size, b, a in zip(x, attrs["before"], attrs["after"], strict=True))


def _flatten(attrs: Mapping[str, Any], activations: Sequence[Shape], params: Params) -> Shape:
    return (math.prod(activations[0]),)


_SHAPE_RULES: Mapping[str, Callable[[Mapping[str, Any], Sequence[Shape], Params], Shape]] = MappingProxyType(
    {
        "conv2d": _conv2d,
        "linear": _linear,
        "batch_norm": _batch_norm,
        "relu": _same,
        "clamp": _same,
        "lookup": _lookup,
        "clip": _same,
        "quantize": _quantize,
        "requantize": _requantize,
        "add": _add,
        "concat": _concat,
        "max_pool2d": _pool2d,
        "avg_pool2d": _pool2d,
        "sum_pool2d": _pool2d,
        "pad": _pad,
        "flatten": _flatten,
    }
)
