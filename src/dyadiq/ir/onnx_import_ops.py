"""One function per ONNX operator: the calls of torch that a node means, which `capture_ops` translates.

Used by `onnx_import` only. A function raises `DamagedError` with the reason, which is collected. To support another
operator: write a function and add one line to ``OPERATORS``.

Arithmetic with constants, one number a channel, becomes a batch norm of mean 0 and variance 1, which folds into its
neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.ir.capture_builder import Ref
from dyadiq.ir.onnx_file import DamagedError
from dyadiq.ir.onnx_import_network import Network, OnnxNode, Rule, plain_name
from dyadiq.ir.onnx_import_orders import transpose
from dyadiq.ir.onnx_import_windows import average_pool, conv, max_pool

__all__ = ["OPERATORS"]

_FLOAT_TYPES = (1, 10, 11)
_BATCH_NORM = "aten.batch_norm.default"


def _gemm(net: Network, node: OnnxNode) -> None:
    if node.attrs.get("transA", 0):
        raise DamagedError("transA turns its input")
    weight, bias = net.constant(node, 1, "its second factor"), net.constant(node, 2, "its third input")
    if weight is None or weight.ndim != 2:
        raise DamagedError("expected a constant matrix as second factor")
    weight = weight * float(node.attrs.get("alpha", 1.0)) if node.attrs.get("alpha", 1.0) != 1 else weight
    if bias is not None:
        bias = bias * float(node.attrs.get("beta", 1.0)) if node.attrs.get("beta", 1.0) != 1 else bias
    _linear(net, node, weight if node.attrs.get("transB", 0) else weight.T, bias)


def _matmul(net: Network, node: OnnxNode) -> None:
    weight = net.constant(node, 1, "its second factor")
    if weight is None or weight.ndim != 2:
        raise DamagedError("expected a constant matrix as second factor")
    _linear(net, node, weight.T, None)


def _linear(net: Network, node: OnnxNode, weight: NDArray[Any], bias: NDArray[Any] | None) -> None:
    made = None
    if bias is not None:
        made = net.param(node.inputs[2], np.broadcast_to(bias.reshape(-1), (len(weight),)).copy())
    if (order := net.features.get(node.inputs[0])) is not None:
        moved = np.empty_like(weight)
        moved[:, list(order)] = weight
        weight = moved
    w = net.param(node.inputs[1], np.ascontiguousarray(weight))
    net.call(node, "aten.linear.default", {"input": net.x(node), "weight": w, "bias": made})


# -- single values ---------------------------------------------------------------------------------


def _batch_norm(net: Network, node: OnnxNode) -> None:
    if node.attrs.get("training_mode", 0):
        raise DamagedError("normalises with the statistics of the batch. Export the model in eval mode")
    names = ("weight", "bias", "running_mean", "running_var")
    params = {}
    for i, name in enumerate(names, start=1):
        values = net.constant(node, i, f"its {name}")
        if values is None:
            raise DamagedError(f"has no {name}")
        params[name] = net.param(node.inputs[i], values)
    eps = float(node.attrs.get("epsilon", 1e-5))
    net.call(node, _BATCH_NORM, {"input": net.x(node), **params, "training": False, "momentum": 0.1, "eps": eps})


def _affine(net: Network, node: OnnxNode, x: Ref, factor: NDArray[Any], offset: NDArray[Any]) -> None:
    """Multiply and add one number a channel."""
    n = net.shape(x)[0]
    dtype = net.builder.dtype.removeprefix("torch.")
    values = {
        "weight": factor, "bias": offset, "running_mean": np.zeros(1), "running_var": np.ones(1)
    }  # fmt: skip
    params = {
        name: net.param(f"{node.path}.{plain_name(node.output)}.{name}", np.broadcast_to(v, (n,)).astype(dtype))
        for name, v in values.items()
    }
    net.call(node, _BATCH_NORM, {"input": x, **params, "training": False, "momentum": 0.1, "eps": 0.0})


def _per_channel(net: Network, x: Ref, values: NDArray[Any]) -> NDArray[np.float64]:
    """Return a constant as one number a channel, or one for all.

    Raises:
        DamagedError: It differs inside a channel, or does not broadcast.
    """
    shape = net.shape(x)
    ours = (1,) * (1 + len(shape) - values.ndim) + values.shape
    if len(ours) != 1 + len(shape) or ours[1] not in (1, shape[0]) or math.prod(ours) != ours[1]:
        raise DamagedError(
            f"arithmetic with a constant of shape {list(values.shape)}; one number a channel is supported"
        )
    return values.reshape(-1).astype(np.float64)


def _arithmetic(net: Network, node: OnnxNode) -> None:
    left, right = net.x(node, 0), net.x(node, 1)
    constants = [ref.name in net.constants for ref in (left, right)]
    if constants[0] and node.op == "Div":
        raise DamagedError("divides by a tensor")
    if any(constants):
        x, other = (right, left) if constants[0] else (left, right)
        c = _per_channel(net, x, net.constants[other.name])
        if node.op == "Div" and not c.all():
            raise DamagedError("divides by zero")
        factor, offset = np.ones(1), np.zeros(1)
        if node.op == "Sub":
            factor, offset = (-factor, c) if constants[0] else (factor, -c)
        elif node.op == "Add":
            offset = c
        else:
            factor = 1 / c if node.op == "Div" else c
        _affine(net, node, x, factor, offset)
        return
    if node.op == "Add":
        net.call(node, "aten.add.Tensor", {"self": left, "other": right, "alpha": 1})
        return
    for x, other in ((left, right), (right, left)):
        if node.op == "Mul" and net.activations.get(other.name, ("", ""))[1] == x.name:
            function = {"Sigmoid": "silu", "HardSigmoid": "hardswish"}[net.activations[other.name][0]]
            net.call(node, f"aten.{function}.default", {"self": x})
            return
    raise DamagedError("arithmetic other than the sum of two tensors, or with constants")


def _sum(net: Network, node: OnnxNode) -> None:
    total = net.x(node)
    for i in range(1, len(node.inputs)):
        last = i == len(node.inputs) - 1
        result = node.output if last else f"{node.output} sum {i}"
        total = net.call(node, "aten.add.Tensor", {"self": total, "other": net.x(node, i), "alpha": 1}, result)
    if len(node.inputs) == 1:
        _same(net, node)


def _clip(net: Network, node: OnnxNode) -> None:
    limits: dict[str, float | None] = {}
    for i, name in ((1, "min"), (2, "max")):
        given = net.constant(node, i, f"its {name}")
        if given is not None and given.size != 1:
            raise DamagedError(f"its {name} has {given.size} numbers, expected one")
        limits[name] = float(node.attrs[name]) if name in node.attrs else None if given is None else float(given.item())
    if all(v is None for v in limits.values()):
        _same(net, node)
        return
    net.call(node, "aten.clamp.default", {"self": net.x(node), **limits})


def _simple(operator: str) -> Rule:
    def rule(net: Network, node: OnnxNode) -> None:
        net.call(node, f"aten.{operator}.default", {"self": net.x(node)})
        if node.op == "Sigmoid":
            net.activations[node.output] = (node.op, node.inputs[0])

    return rule


def _hard_sigmoid(net: Network, node: OnnxNode) -> None:
    alpha, beta = float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))
    if abs(alpha - 1 / 6) > 1e-6 or beta != 0.5:
        raise DamagedError(f"alpha={alpha}, beta={beta}; torch's hardsigmoid has 1/6 and 0.5")
    net.call(node, "aten.hardsigmoid.default", {"self": net.x(node)})
    net.activations[node.output] = (node.op, node.inputs[0])


def _leaky_relu(net: Network, node: OnnxNode) -> None:
    slope = round(float(node.attrs.get("alpha", 0.01)), 7)  # the file has it in float32
    net.call(node, "aten.leaky_relu.default", {"self": net.x(node), "negative_slope": slope})


def _gelu(net: Network, node: OnnxNode) -> None:
    approximate = node.attrs.get("approximate", "none")
    net.call(node, "aten.gelu.default", {"self": net.x(node), "approximate": approximate})


def _global_average_pool(net: Network, node: OnnxNode) -> None:
    net.call(node, "aten.mean.dim", {"self": net.x(node), "dim": (2, 3), "keepdim": True})


def _global_max_pool(net: Network, node: OnnxNode) -> None:
    kernel = net.shape(net.x(node))[1:]
    args = {"kernel_size": kernel, "stride": kernel, "padding": (0, 0), "dilation": (1, 1), "ceil_mode": False}
    net.call(node, "aten.max_pool2d.default", {"self": net.x(node), **args})


def _axes(net: Network, node: OnnxNode, rank: int) -> tuple[int, ...]:
    """Return the axes of a node, an attribute or an input, counted from 0."""
    given = node.ints("axes", ()) if "axes" in node.attrs else net.constant(node, 1, "its axes")
    axes = () if given is None else tuple(int(a) for a in given)
    return tuple(a + rank if a < 0 else a for a in axes)


def _reduce_mean(net: Network, node: OnnxNode) -> None:
    axes = _axes(net, node, 1 + len(net.shape(net.x(node))))
    keepdim = bool(node.attrs.get("keepdims", 1))
    net.call(node, "aten.mean.dim", {"self": net.x(node), "dim": axes, "keepdim": keepdim})


def _concat(net: Network, node: OnnxNode) -> None:
    tensors = tuple(net.x(node, i) for i in range(len(node.inputs)))
    net.call(node, "aten.cat.default", {"tensors": tensors, "dim": int(node.attrs.get("axis", 1))})


def _pad(net: Network, node: OnnxNode) -> None:
    given = node.ints("pads", ()) if "pads" in node.attrs else net.constant(node, 1, "its pads")
    value = net.constant(node, 2, "its value")
    if given is None or (len(node.inputs) > 3 and node.inputs[3]):
        raise DamagedError("pads some axes only. Export with one pad an axis")
    pads = tuple(int(p) for p in given)
    begin, end = pads[: len(pads) // 2], pads[len(pads) // 2 :]
    mirrored = tuple(v for pair in zip(reversed(begin), reversed(end), strict=True) for v in pair)
    constant = float(node.attrs.get("value", 0.0)) if value is None or not value.size else float(value.item())
    mode = node.attrs.get("mode", "constant")
    net.call(node, "aten.pad.default", {"self": net.x(node), "pad": mirrored, "mode": mode, "value": constant})


def _view(net: Network, node: OnnxNode, sizes: Sequence[int]) -> None:
    net.call(node, "aten.view.default", {"self": net.x(node)}, "", ("N", *sizes))


def _flatten(net: Network, node: OnnxNode) -> None:
    axis = int(node.attrs.get("axis", 1))
    if axis not in (1, -len(net.shape(net.x(node)))):
        raise DamagedError(f"flattens from axis {axis}, expected 1")
    _view(net, node, (math.prod(net.shape(net.x(node))),))


def _reshape(net: Network, node: OnnxNode) -> None:
    wanted = net.constant(node, 1, "its shape")
    if wanted is None or wanted.ndim != 1 or not wanted.size:
        raise DamagedError("has no shape to take")
    shape, sizes = net.shape(net.x(node)), [int(v) for v in wanted]
    total = math.prod(shape)
    first, rest = sizes[0], [shape[i] if v == 0 and i < len(shape) else v for i, v in enumerate(sizes[1:])]
    if -1 in rest and first != -1:
        known = math.prod(v for v in rest if v != -1)
        rest = [total // known if v == -1 and known > 0 else v for v in rest]
    keeps_batch = first in (0, -1) or first in net.batches
    if not keeps_batch or math.prod(rest) != total or any(v < 1 for v in rest):
        raise DamagedError(
            f"reshapes {['N', *shape]} to {sizes}, which does not keep dimension 0 as the batch. Use x.flatten(1)"
        )
    _view(net, node, rest)


def _squeeze(net: Network, node: OnnxNode) -> None:
    shape = (0, *net.shape(net.x(node)))
    axes = _axes(net, node, len(shape)) or tuple(i for i, n in enumerate(shape) if n == 1)
    if any(not 0 < a < len(shape) or shape[a] != 1 for a in axes):
        raise DamagedError(f"squeezes axes {axes} of {['N', *shape[1:]]}")
    _view(net, node, [n for i, n in enumerate(shape) if i and i not in axes])


def _unsqueeze(net: Network, node: OnnxNode) -> None:
    shape = list(net.shape(net.x(node)))
    axes = _axes(net, node, 1 + len(shape) + len(_axes(net, node, 0)))
    for axis in sorted(axes):
        if not 0 < axis <= len(shape) + 1:
            raise DamagedError(f"puts an axis at {axis}")
        shape.insert(axis - 1, 1)
    _view(net, node, shape)


def _same(net: Network, node: OnnxNode) -> None:
    net.call(node, "aten.alias.default", {"self": net.x(node)})


def _cast(net: Network, node: OnnxNode) -> None:
    if int(node.attrs.get("to", 0)) not in _FLOAT_TYPES:
        raise DamagedError("turns values of the network into another type")
    _same(net, node)


def _slice(net: Network, node: OnnxNode) -> None:
    """Every n-th row and column: one call an axis.

    Raises:
        DamagedError: It says not where.
    """
    parts = []
    for i, name in enumerate(("starts", "ends", "axes", "steps"), start=1):
        given = node.ints(name, ()) if name in node.attrs else net.constant(node, i, f"its {name}")
        parts.append(None if given is None else [int(v) for v in given])
    starts, ends, axes, steps = parts
    if starts is None or ends is None:
        raise DamagedError("has no starts and ends")
    axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
    x = net.x(node)
    for i, (start, end, axis, step) in enumerate(zip(starts, ends, axes, steps, strict=True)):
        result = node.output if i == len(starts) - 1 else f"{node.output} slice {i}"
        args = {"dim": axis, "start": start, "end": end, "step": step}
        x = net.call(node, "aten.slice.Tensor", {"self": x, **args}, result)


OPERATORS: Mapping[str, Rule] = MappingProxyType(
    {
        "Add": _arithmetic,
        "AveragePool": average_pool,
        "BatchNormalization": _batch_norm,
        "Cast": _cast,
        "Clip": _clip,
        "Concat": _concat,
        "Conv": conv,
        "Div": _arithmetic,
        "Dropout": _same,
        "Flatten": _flatten,
        "Gelu": _gelu,
        "Gemm": _gemm,
        "GlobalAveragePool": _global_average_pool,
        "GlobalMaxPool": _global_max_pool,
        "HardSigmoid": _hard_sigmoid,
        "HardSwish": _simple("hardswish"),
        "Identity": _same,
        "LeakyRelu": _leaky_relu,
        "MatMul": _matmul,
        "MaxPool": max_pool,
        "Mul": _arithmetic,
        "Pad": _pad,
        "ReduceMean": _reduce_mean,
        "Relu": _simple("relu"),
        "Reshape": _reshape,
        "Sigmoid": _simple("sigmoid"),
        "Slice": _slice,
        "Squeeze": _squeeze,
        "Sub": _arithmetic,
        "Sum": _sum,
        "Tanh": _simple("tanh"),
        "Transpose": transpose,
        "Unsqueeze": _unsqueeze,
    }
)
