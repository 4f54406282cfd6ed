"""What nodes make of constants alone, mostly of shapes. Used by `onnx_import` and `qonnx_import`.

To support another operator: write a function and add one line to ``_FOLDED``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.ir.onnx_file import DamagedError, read_constant
from dyadiq.ir.onnx_import_network import OnnxNode

__all__ = ["computed_constant"]

_MAX_COMPUTED = 1 << 20  # numbers of a constant that is computed


def computed_constant(
    node: OnnxNode, constants: Mapping[str, NDArray[Any]], shape: Callable[[str], tuple[int, ...]]
) -> NDArray[Any] | None:
    """Return what a node makes of constants alone, or of the shape of a tensor; None if it is no such node.

    The batch is 0 in a shape, as in what Reshape takes for "as it is".

    Args:
        node: The node.
        constants: Numbers by name.
        shape: Of a tensor by name, without the batch.

    Raises:
        DamagedError: It would be too large.
    """
    if node.op == "Shape" and node.inputs[0] not in constants:
        sizes: NDArray[Any] = np.array((0, *shape(node.inputs[0])), dtype=np.int64)
        return sizes[node.attrs.get("start", 0) : node.attrs.get("end")]
    if node.op not in _FOLDED or not all(name in constants for name in node.inputs if name) or not node.inputs:
        return None
    inputs = [constants[name] for name in node.inputs if name]
    if sum(values.size for values in inputs) > _MAX_COMPUTED and node.op not in ("Identity", "Transpose", "Reshape"):
        raise DamagedError("computes a large constant. Simplify the model first (constant folding)")
    return np.asarray(_FOLDED[node.op](node, *inputs))


def _folded_unsqueeze(node: OnnxNode, x: NDArray[Any], axes: NDArray[Any] | None = None) -> NDArray[Any]:
    found: NDArray[Any] = np.expand_dims(x, tuple(int(a) for a in (node.attrs["axes"] if axes is None else axes)))
    return found


def _folded_gather(node: OnnxNode, x: NDArray[Any], at: NDArray[Any]) -> NDArray[Any]:
    if x.ndim != 1 or at.size > x.size:
        raise DamagedError("gathers from a constant that is no shape")
    return np.asarray(x[at])


def _folded_slice(node: OnnxNode, x: NDArray[Any], *inputs: NDArray[Any]) -> NDArray[Any]:
    parts = [[int(v) for v in part] for part in inputs]
    if not parts:  # before opset 10
        parts = [list(node.attrs[name]) for name in ("starts", "ends", "axes") if name in node.attrs]
    starts, ends = parts[:2]
    axes = parts[2] if len(parts) > 2 else list(range(len(starts)))
    steps = parts[3] if len(parts) > 3 else [1] * len(starts)
    at = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        backwards = step < 0 and end < -x.shape[axis]  # then the first one is meant, too
        at[axis] = slice(start, None if backwards else end, step)
    return np.asarray(x[tuple(at)])


def _folded_constant_of_shape(node: OnnxNode, shape: NDArray[Any]) -> NDArray[Any]:
    sizes = [int(v) for v in shape]
    if any(v < 0 for v in sizes) or prod(sizes) > _MAX_COMPUTED:
        raise DamagedError(f"makes a constant of shape {sizes}")
    value = read_constant(node.attrs["value"]).ravel() if "value" in node.attrs else np.zeros(1, dtype=np.float32)
    return np.full(sizes, value[0], dtype=value.dtype)


def _folded_cast(node: OnnxNode, x: NDArray[Any]) -> NDArray[Any]:
    from onnx import helper

    return np.asarray(x.astype(helper.tensor_dtype_to_np_dtype(int(node.attrs["to"]))))


def _folded_concat(node: OnnxNode, *parts: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate(parts, axis=int(node.attrs.get("axis", 0)))


_FOLDED: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "Cast": _folded_cast,
        "Concat": _folded_concat,
        "ConstantOfShape": _folded_constant_of_shape,
        "Gather": _folded_gather,
        "Identity": lambda _, x: x,
        "Reshape": lambda _, x, shape: x.reshape([int(v) for v in shape]),
        "Slice": _folded_slice,
        "Squeeze": lambda _, x, *__: np.squeeze(x),
        "Transpose": lambda node, x: np.transpose(x, node.attrs.get("perm")),
        "Unsqueeze": _folded_unsqueeze,
    }
)
