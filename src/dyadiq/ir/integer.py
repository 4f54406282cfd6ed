"""The integer dialect: operators, their attributes, and the program that lowering makes.

Read by `ir.reference` (its meaning), `ir.proof` (its bounds), `quant.exact` and every target.
The normative text is docs/spec/integer-program.md; this file is its data model. No torch.

All tensors hold integer codes; a program's float inputs meet a `quantize` node first, and scales
elsewhere are metadata of `TensorInfo`. Parameters of a node are inputs by name, int64 unless said:

    op            inputs                                       attributes
    quantize      x, scale (float64 []), zero_point []
                  [, shift [C], low [C], high [C]]             -
    conv2d        x, weight [O, I/g, KH, KW], bias [O]
                  [, weight_zero_point [O] [, group_factor]]   stride, padding, dilation, groups, pad_value
    linear        x, weight [O, I], bias [O]
                  [, weight_zero_point [O] [, group_factor]]   -
    requantize    x, multiplier [C] or [1], shift likewise     zero_point, clip_min, clip_max
    add           two or more wide tensors                     -
    clip          x                                            zero_point, clip_min, clip_max
    concat        tensors of one type, channel axis            -
    max_pool2d    x                                            kernel, stride, padding, dilation, ceil_mode
    sum_pool2d    x, bias [] [, factor [OH, OW]]               kernel, stride, padding, pad_value
    lookup        x, table [256]                               first
    pad           x                                            before, after, pad_value
    flatten       x                                            -

Meaning, in one line each (shift is arithmetic, floor):
    quantize       y = clip(floor(x / scale + 1/2) + zero_point); with a grid (version 2), per channel
                   y = clip(floor(x / (scale 2^shift) + 1/2), low, high) 2^shift
    conv2d/linear  acc = bias + sum (weight - weight_zero_point) * group_factor * padded(x)
    requantize     y = clip(((x * multiplier + r) >> shift) + zero_point, clip_min, clip_max), r = 2^(shift-1) or 0
    clip           y = clip(x + zero_point, clip_min, clip_max)
    sum_pool2d     acc = (bias + sum padded(x)) * factor
    lookup         y = table[x - first]
    pad            codes pad_value around x, so many per side of (C, H, W)
A requantize or clip whose output type is bipolar gives +1 where its value before clipping is >= 0, else -1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.channel_grid import ChannelGrid
from dyadiq.core.errors import GraphError
from dyadiq.core.qtype import QType
from dyadiq.ir.graph import Graph, Node

__all__ = [
    "INTEGER_OPS",
    "NARROW_BIAS",
    "SPEC_VERSION",
    "WIDE_BIAS",
    "IntegerProgram",
    "effective_weight",
    "input_grid",
]

SPEC_VERSION = 3
"""Newest version of the specification that is implemented; programs have the oldest that says all they use."""

NARROW_BIAS, WIDE_BIAS = QType(32, signed=True), QType(64, signed=True)
"""Types of biases: int32, unless ``Graph.param_types`` says int64. Bits of weights and activations play no part."""

INTEGER_OPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "quantize": (),
        "conv2d": ("stride", "padding", "dilation", "groups", "pad_value"),
        "linear": (),
        "requantize": ("zero_point", "clip_min", "clip_max"),
        "add": (),
        "clip": ("zero_point", "clip_min", "clip_max"),
        "concat": (),
        "max_pool2d": ("kernel", "stride", "padding", "dilation", "ceil_mode"),
        "sum_pool2d": ("kernel", "stride", "padding", "pad_value"),
        "pad": ("before", "after", "pad_value"),
        "lookup": ("first",),
        "flatten": (),
    }
)


@dataclass(frozen=True)
class IntegerProgram:
    """A network whose every step between input quantizer and outputs is integer arithmetic.

    Attributes:
        graph: Graph of the integer dialect. Output tensors carry ``scale`` and ``zero_point``:
            ``real = (code - zero_point) * scale``.
        spec_version: Version of docs/spec/integer-program.md it follows; 0 stands for the oldest that has all it uses.
        provenance: Plan, seeds, versions, hashes; JSON-able.
    """

    graph: Graph
    spec_version: int = 0
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a float graph.

        Raises:
            GraphError: Wrong dialect, unknown operator, or one that the version does not have.
        """
        if self.graph.dialect != "integer":
            raise GraphError(f"an IntegerProgram needs the integer dialect, got {self.graph.dialect!r}.")
        for node in self.graph.nodes:
            if node.op not in INTEGER_OPS:
                raise GraphError(f"{node.name}: {node.op!r} is no operator of the integer dialect.")
        newer = [(*_version_of(node), node.name) for node in self.graph.nodes]
        oldest, what, name = max(newer, key=lambda entry: entry[0], default=(1, "", ""))
        if self.spec_version == 0:
            object.__setattr__(self, "spec_version", oldest)
        if self.spec_version < oldest:
            raise GraphError(
                f"{name}: {what} is part of version {oldest} of the integer specification, but the "
                f"program says version {self.spec_version}."
            )

    def dequantize(self, outputs: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.float64]]:
        """Return real values of output codes: ``(code - zero_point) * scale``."""
        real = {}
        for name, codes in outputs.items():
            info = self.graph.tensors[name]
            scale = np.asarray(1.0 if info.scale is None else info.scale, dtype=np.float64)
            if scale.ndim == 1:
                scale = scale.reshape(-1, *([1] * (len(info.shape) - 1)))
            real[name] = (codes - info.zero_point) * scale
        return real


def input_grid(graph: Graph, node: Node) -> ChannelGrid | None:
    """Return the grid of every channel of a quantize node; None where all have that of the type."""
    return ChannelGrid(*(graph.params[name] for name in node.inputs[3:6])) if len(node.inputs) > 3 else None


def _version_of(node: Node) -> tuple[int, str]:
    """Return the version of the specification that a node needs, and for what."""
    if node.op in ("pad", "lookup"):
        return 3, f"the operator {node.op}"
    if node.op == "sum_pool2d" and len(node.inputs) > 2:
        return 3, "a factor for every window"
    if node.op == "quantize" and len(node.inputs) > 3:
        return 2, "a grid for every channel"
    return 1, ""


def effective_weight(graph: Graph, node: Node) -> NDArray[np.int64]:
    """Return ``(weight - weight_zero_point) * group_factor`` of a conv2d or linear node, as int64.

    Shapes:
        weight ``[O, I, ...]``; weight_zero_point ``[O]`` or ``[1]``; group_factor ``[O, G]`` where G divides
        the number of weights per output channel, taken in row-major order.
    """
    weight = np.asarray(graph.params[node.inputs[1]], dtype=np.int64)
    if len(node.inputs) > 3:
        zero_point = np.asarray(graph.params[node.inputs[3]], dtype=np.int64)
        weight = weight - zero_point.reshape(-1, *([1] * (weight.ndim - 1)))
    if len(node.inputs) > 4:
        factor = np.asarray(graph.params[node.inputs[4]], dtype=np.int64)
        flat = weight.reshape(*factor.shape, -1)
        weight = (flat * factor[:, :, None]).reshape(weight.shape)
    return weight
