"""Fixed-point types, windows, and what hls4ml cannot compute exactly.

Used by `hls4ml` and `hls4ml_layers`; imports no hls4ml. `find_inexact` lists the upstream limits, each with
a way out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.qtype import MAX_BITS, QType
from dyadiq.ir.graph import Node
from dyadiq.ir.integer import IntegerProgram
from dyadiq.ir.proof import Bound, prove
from dyadiq.targets.base import Problems
from dyadiq.targets.qonnx_graph import as_pow2

__all__ = ["PAD_SIDES", "Fixed", "cast_type", "clean_name", "dense_kernel", "find_inexact", "window"]

_PORT_BITS = 53  # ports are read and written as float64 by the C simulation
_WIDE_BITS = 62  # the constants are computed in int64
PAD_SIDES = ("top", "left", "bottom", "right")


@dataclass(frozen=True, slots=True)
class Fixed:
    """A fixed-point type: codes of ``qtype`` times ``2^exponent``.

    Example:
        >>> str(Fixed(QType(8, signed=False), -4)), str(Fixed(QType(8, signed=True, narrow=True), 0, saturates=True))
        ('ufixed<8,4>', 'fixed<8,8,RND,SAT_SYM>')
    """

    qtype: QType
    exponent: int
    saturates: bool = False

    def __str__(self) -> str:
        """Spell it as hls4ml does; the second number counts integer bits, sign included."""
        width, signed = self.qtype.bits, self.qtype.signed
        if signed and width == 1:
            width = 2  # bipolar values, and fixed<1,...> has no +1
        end = ",RND,SAT" + ("_SYM" if self.qtype.narrow else "") if self.saturates else ""
        return f"{'' if signed else 'u'}fixed<{width},{width + self.exponent}{end}>"


def clean_name(name: str) -> str:
    """Return a name as C++ takes it.

    Example:
        >>> clean_name("layer1.0/conv"), clean_name("0")
        ('layer1_0_conv', 'l_0')
    """
    text = re.sub(r"\W", "_", name)
    return f"l_{text}" if text[:1].isdigit() or not text else text


def find_inexact(program: IntegerProgram, *, streaming: bool) -> Problems:
    """Return every node that hls4ml cannot compute exactly, each with the reason and a way out.

    Args:
        program: The program.
        streaming: Whether ``io_stream`` is meant, which has fewer layers.
    """
    graph, problems, bounds = program.graph, Problems("hls4ml"), prove(program)
    for node in graph.nodes:
        info, attrs = graph.tensors[node.output], node.attrs
        assert info.qtype is not None
        if node.op == "lookup":
            problems.add(node, "a lookup table, for which no layer is compared yet. Use relu or clamp")
        if node.op == "sum_pool2d" and len(node.inputs) > 2:
            problems.add(node, "an average over windows of different sizes. Use count_include_pad=True, no ceil_mode")
        if node.op == "pad":
            problems.add(
                node, "padding by a node of its own, for which no exact layer is known. Pad in the convolution"
            )
        moved = node.op != "clip" and attrs.get("zero_point")  # a clip may add a constant; that is exact
        if info.zero_point or moved or attrs.get("pad_value"):
            problems.add(node, "zero point is not 0; hls4ml pads and saturates around 0. Use symmetric activations")
        if info.qtype.bipolar:
            problems.add(node, "bipolar activations; hls4ml's sign layer is not compared yet. Use 2 bits")
        if node.op == "conv2d":
            _check_conv(problems, node)
        if node.op == "max_pool2d":
            _check_pool(program, problems, node, int(bounds[node.output].low.min()) >= 0, streaming)
        if node.op == "sum_pool2d" and int(graph.params[node.inputs[1]]):
            problems.add(node, "bias of the pool is not 0 (asymmetric input). Use symmetric activations")
        if node.op in ("requantize", "clip") and not info.qtype.bipolar and cast_type(program, node, bounds) is None:
            low, high = attrs["clip_min"], attrs["clip_max"]
            problems.add(
                node, f"clips to [{low}, {high}], where no fixed-point type saturates. Use full or narrow types"
            )
        if node.op in ("conv2d", "linear") and _spread(info.scale) + _bits_of(bounds[node.output]) > _WIDE_BITS:
            problems.add(node, "scales of its channels too far apart for one accumulator. Use per-tensor weight scales")
        if node.op == "requantize" and _multiplier_bits(program, node) + _bits_of(bounds[node.inputs[0]]) > _WIDE_BITS:
            problems.add(
                node, "multipliers of its channels too far apart for one constant type. Use fewer multiplier_bits"
            )
        if node.op in ("quantize", "requantize") or node.output in graph.outputs:
            bits = info.qtype.bits
            if bits > _PORT_BITS:
                problems.add(node, f"a port of {bits} bits; the C simulation's float64 carries {_PORT_BITS}")
    _check_orders(program, problems)
    return problems


def _bits_of(bound: Bound) -> int:
    return int(bound.partial.max()).bit_length()


def _spread(scale: NDArray[np.float64] | None) -> int:
    """Return how many bits lie between the largest and the smallest scale; 0 if they are no powers of two."""
    exponents = None if scale is None else as_pow2(scale)
    return 0 if exponents is None else int(exponents.max() - exponents.min())


def _multiplier_bits(program: IntegerProgram, node: Node) -> int:
    """Return the bits of the multipliers of a requantize brought to one shift."""
    multiplier, shift = (np.asarray(program.graph.params[i], dtype=np.int64) for i in node.inputs[1:3])
    pairs = np.broadcast(multiplier, shift)
    top = int(shift.max())
    return max(int(m).bit_length() + top - int(e) if m else 0 for m, e in pairs)


def _check_orders(program: IntegerProgram, problems: Problems) -> None:
    """Note sums of tensors whose elements lie in different orders in channels-last hardware."""
    graph = program.graph
    orders: dict[str, Any] = {}
    for node in graph.nodes:
        known = [orders.get(i) for i in node.inputs if i in graph.tensors]
        if node.op == "flatten" and len(graph.tensors[node.inputs[0]].shape) > 1:
            orders[node.output] = graph.tensors[node.inputs[0]].shape
        elif node.op in ("requantize", "clip", "flatten", "add"):
            orders[node.output] = known[0]
        elif node.op == "concat":
            orders[node.output] = tuple(known) if any(known) else None
        if node.op == "add" and any(o != known[0] for o in known):
            problems.add(node, "adds a flattened image to a vector; hls4ml is channels last. Add before flatten")


def _check_conv(problems: Problems, node: Node) -> None:
    attrs = node.attrs
    if attrs["dilation"][0] != 1 or attrs["dilation"][1] != 1:
        problems.add(node, "dilation is not 1, which hls4ml ignores in io_parallel. Use dilation 1")


def _check_pool(program: IntegerProgram, problems: Problems, node: Node, nonnegative: bool, streaming: bool) -> None:
    attrs = node.attrs
    in_shape, out_shape = (program.graph.tensors[t].shape for t in (node.inputs[0], node.output))
    sizes = window(in_shape, out_shape, attrs["kernel"], attrs["stride"], attrs["padding"])
    if any(sizes[f"pad_{side}"] for side in PAD_SIDES) and not nonnegative:
        problems.add(node, "padded max pooling of negative values: hls4ml pads with zeros. Pool after a relu")
    if any(d != 1 for d in attrs["dilation"]):
        problems.add(node, "dilated max pooling, which hls4ml does not have")
    if streaming and tuple(attrs["kernel"]) != tuple(attrs["stride"]):
        problems.add(node, "overlapping max pooling with io_stream, which hls4ml does not have. Use io_parallel")


def cast_type(program: IntegerProgram, node: Node, bounds: Mapping[str, Bound]) -> QType | None:
    """Return the type whose saturation is the node's clipping, or None; an end that never bites is free."""
    graph, source = program.graph, bounds[node.inputs[0]]
    low, high = source.low, source.high
    if node.op == "requantize":
        multiplier, shift = (np.asarray(graph.params[i], dtype=np.int64) for i in node.inputs[1:3])
        rounding = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
        low, high = (((v * multiplier + rounding) >> shift) for v in (low, high))
    offset = node.attrs["zero_point"]
    least, most = int(low.min()) + offset, int(high.max()) + offset
    bottom, top = node.attrs["clip_min"], node.attrs["clip_max"]
    for width in range(1, MAX_BITS + 1):
        kinds = [(width, False, False)] + ([(width, True, False), (width, True, True)] if width > 1 else [])
        for bits, signed, narrow in kinds:
            qtype = QType(bits, signed=signed, narrow=narrow)
            if (qtype.qmin == bottom or qtype.qmin <= least >= bottom) and (
                qtype.qmax == top or qtype.qmax >= most <= top
            ):
                return qtype
    return None


def window(
    in_shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
) -> dict[str, int]:
    """Return the sizes that hls4ml wants of a sliding window; end pads reach as far as the last window does."""
    sizes: dict[str, int] = {}
    sides = (("height", "top", "bottom"), ("width", "left", "right"))
    for i, (side, begin, end) in enumerate(sides):
        reach = (out_shape[i + 1] - 1) * stride[i] + kernel[i]
        sizes |= {f"in_{side}": in_shape[i + 1], f"out_{side}": out_shape[i + 1], f"stride_{side}": stride[i]}
        sizes |= {f"pad_{begin}": padding[i], f"pad_{end}": max(0, reach - in_shape[i + 1] - padding[i])}
    return sizes


def dense_kernel(values: NDArray[np.float64], groups: int) -> NDArray[np.float64]:
    """Return ``[O, I/g, KH, KW]`` as ``[O, I, KH, KW]`` with zeros between the groups."""
    n_out, n_in = values.shape[:2]
    dense = np.zeros((n_out, n_in * groups, *values.shape[2:]))
    per_group = n_out // groups
    for g in range(groups):
        dense[g * per_group : (g + 1) * per_group, g * n_in : (g + 1) * n_in] = values[
            g * per_group : (g + 1) * per_group
        ]
    return dense
