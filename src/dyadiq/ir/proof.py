"""Proven ranges of every tensor of an integer program, per channel.

Used by lowering (accumulator types, multiplier widths), by the exporters' checks and by `verify`.
Interval arithmetic on integers; holds for every possible input, because the input quantizer clips.

For an accumulator two things are proven: the interval ``[low, high]`` of its final value, and ``partial``,
a bound on the magnitude of any partial sum in any order:
``partial[o] = |bias[o]| + sum_i |w[o, i]| * max(|low_i|, |high_i|)`` (padding included).
A two's complement accumulator of ``1 + bit_length(partial)`` bits therefore never overflows on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ProofError
from dyadiq.core.qtype import QType, bits_for_range
from dyadiq.ir.graph import Graph, Node
from dyadiq.ir.integer import IntegerProgram, effective_weight, input_grid

__all__ = ["Bound", "accumulator_type", "node_bound", "prove"]

_LIMIT = float(2**62)


@dataclass(frozen=True, slots=True)
class Bound:
    """What is proven of one tensor; arrays of int64 ``[C]`` (``[F]`` after flatten).

    Attributes:
        low: Smallest possible value per channel.
        high: Largest possible value per channel.
        partial: Bound on the magnitude of every partial sum on the way to the value.
        product: For a requantize: bound on ``|x * multiplier| + rounding``; else equal to ``partial``.
    """

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    partial: NDArray[np.int64]
    product: NDArray[np.int64]


def accumulator_type(bound: Bound) -> QType:
    """Return the signed type that holds every partial sum, ``1 + bit_length(max partial)`` bits.

    Example:
        >>> one = np.array([200])
        >>> str(accumulator_type(Bound(-one, one, one, one)))
        'int9'
    """
    top = int(bound.partial.max())
    return bits_for_range(-top - 1, top)


def prove(program: IntegerProgram) -> dict[str, Bound]:
    """Return the bound of every tensor that a node makes, and check declared types against them.

    Raises:
        ProofError: A tensor may leave its declared type, or a product may leave 63 bits.
    """
    graph = program.graph
    bounds: dict[str, Bound] = {}
    for node in graph.nodes:
        bound = node_bound(graph, node, bounds)
        qtype = graph.tensors[node.output].qtype
        if qtype is None or int(bound.low.min()) < qtype.qmin or int(bound.high.max()) > qtype.qmax:
            raise ProofError(
                f"{node.name}: {node.output!r} may reach [{int(bound.low.min())}, {int(bound.high.max())}], "
                f"outside its declared type {qtype}."
            )
        bounds[node.output] = bound
    return bounds


def node_bound(graph: Graph, node: Node, bounds: Mapping[str, Bound]) -> Bound:
    """Return the bound of a node's output from the bounds of its inputs.

    Raises:
        ProofError: A value may leave 63 bits.
    """
    sources = [bounds[name] for name in node.inputs if name in bounds]
    if node.op == "quantize":
        return _of_type(graph, node)
    if node.op in ("conv2d", "linear"):
        return _dot_product(graph, node, sources[0])
    if node.op == "requantize":
        return _requantize(graph, node, sources[0])
    if node.op == "clip":
        zero_point = node.attrs["zero_point"]
        return _clipped(graph, node, sources[0].low + zero_point, sources[0].high + zero_point, sources[0].partial)
    if node.op == "add":
        return _plain(
            sum((s.low for s in sources[1:]), sources[0].low),
            sum((s.high for s in sources[1:]), sources[0].high),
        )
    if node.op == "concat":
        return _plain(np.concatenate([s.low for s in sources]), np.concatenate([s.high for s in sources]))
    if node.op == "sum_pool2d":
        return _sum_pool(graph, node, sources[0])
    if node.op == "lookup":
        return _lookup(graph, node, sources[0])
    if node.op == "pad":
        return _pad(node, sources[0])
    if node.op == "flatten":
        repeat = graph.tensors[node.output].shape[0] // len(sources[0].low)
        return _plain(np.repeat(sources[0].low, repeat), np.repeat(sources[0].high, repeat))
    return _plain(sources[0].low, sources[0].high)  # max_pool2d: padding never wins


def _plain(low: NDArray[np.int64], high: NDArray[np.int64]) -> Bound:
    partial = np.maximum(np.abs(low), np.abs(high))
    return Bound(low, high, partial, partial)


def _of_type(graph: Graph, node: Node) -> Bound:
    info = graph.tensors[node.output]
    if info.qtype is None:
        raise ProofError(f"{node.name}: its output {node.output!r} has no code type.")
    grid = input_grid(graph, node)
    if grid is not None:
        return _plain(*grid.ends())
    n_channels = info.shape[0]
    return _plain(
        np.full(n_channels, info.qtype.qmin, dtype=np.int64), np.full(n_channels, info.qtype.qmax, dtype=np.int64)
    )


def _dot_product(graph: Graph, node: Node, x: Bound) -> Bound:
    weight = effective_weight(graph, node)
    bias = np.asarray(graph.params[node.inputs[2]], dtype=np.int64)
    low, high = x.low, x.high
    if node.op == "conv2d" and any(node.attrs["padding"]):
        low, high = np.minimum(low, node.attrs["pad_value"]), np.maximum(high, node.attrs["pad_value"])
    groups = node.attrs["groups"] if node.op == "conv2d" else 1
    n_out, n_in = weight.shape[0] // groups, weight.shape[1]
    # [O, I]: the bounds that each output channel's group of inputs brings
    lows = np.repeat(low.reshape(groups, n_in), n_out, axis=0)
    highs = np.repeat(high.reshape(groups, n_in), n_out, axis=0)
    per_input = weight.reshape(weight.shape[0], n_in, -1)
    positive = np.maximum(per_input, 0).sum(axis=2)
    negative = np.minimum(per_input, 0).sum(axis=2)
    magnitude = np.maximum(np.abs(lows), np.abs(highs))
    size = np.abs(bias).astype(np.float64) + (np.abs(per_input).sum(axis=2).astype(np.float64) * magnitude).sum(axis=1)
    if size.max() >= _LIMIT:
        raise ProofError(f"{node.name}: its accumulator may leave 63 bits. Use fewer bits.")
    partial = np.abs(bias) + (np.abs(per_input).sum(axis=2) * magnitude).sum(axis=1)
    return Bound(
        bias + (positive * lows + negative * highs).sum(axis=1),
        bias + (positive * highs + negative * lows).sum(axis=1),
        partial,
        partial,
    )


def _sum_pool(graph: Graph, node: Node, x: Bound) -> Bound:
    count = node.attrs["kernel"][0] * node.attrs["kernel"][1]
    bias = int(graph.params[node.inputs[1]])
    low, high = x.low, x.high
    if any(node.attrs["padding"]):
        low, high = np.minimum(low, node.attrs["pad_value"]), np.maximum(high, node.attrs["pad_value"])
    partial = np.abs(bias) + count * np.maximum(np.abs(low), np.abs(high))
    low, high = bias + count * low, bias + count * high
    if len(node.inputs) > 2:
        factor = np.asarray(graph.params[node.inputs[2]], dtype=np.int64)
        if factor.min() < 1 or float(partial.max()) * float(factor.max()) >= _LIMIT:
            raise ProofError(f"{node.name}: its factors must be positive, and its sum times them below 63 bits.")
        least, most = factor.min(), factor.max()
        low, high = np.minimum(low * least, low * most), np.maximum(high * least, high * most)
        partial = partial * most
    return Bound(low, high, partial, partial)


def _lookup(graph: Graph, node: Node, x: Bound) -> Bound:
    table, first = np.asarray(graph.params[node.inputs[1]], dtype=np.int64), node.attrs["first"]
    if int(x.low.min()) < first or int(x.high.max()) >= first + len(table):
        raise ProofError(
            f"{node.name}: looks up codes from {int(x.low.min())} to {int(x.high.max())} in a table of "
            f"{first} to {first + len(table) - 1}."
        )
    seen = [table[low - first : high - first + 1] for low, high in zip(x.low.tolist(), x.high.tolist(), strict=True)]
    return _plain(np.array([part.min() for part in seen]), np.array([part.max() for part in seen]))


def _pad(node: Node, x: Bound) -> Bound:
    a = node.attrs
    low, high = x.low, x.high
    if any((*a["before"][1:], *a["after"][1:])):
        low, high = np.minimum(low, a["pad_value"]), np.maximum(high, a["pad_value"])
    channels = (a["before"][0], a["after"][0])
    return _plain(*(np.pad(edge, channels, constant_values=a["pad_value"]) for edge in (low, high)))


def _requantize(graph: Graph, node: Node, x: Bound) -> Bound:
    multiplier = np.asarray(graph.params[node.inputs[1]], dtype=np.int64)
    shift = np.asarray(graph.params[node.inputs[2]], dtype=np.int64)
    rounding = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
    if (x.partial.astype(np.float64) * multiplier + rounding).max() >= _LIMIT:
        raise ProofError(f"{node.name}: accumulator times multiplier may leave 63 bits. Use fewer multiplier_bits.")
    product = x.partial * multiplier + rounding
    zero_point = node.attrs["zero_point"]
    low = ((x.low * multiplier + rounding) >> shift) + zero_point
    high = ((x.high * multiplier + rounding) >> shift) + zero_point
    return _clipped(graph, node, low, high, product)


def _clipped(
    graph: Graph, node: Node, low: NDArray[np.int64], high: NDArray[np.int64], product: NDArray[np.int64]
) -> Bound:
    qtype = graph.tensors[node.output].qtype
    if qtype is not None and qtype.bipolar:
        bound = _plain(np.where(low >= 0, 1, -1), np.where(high >= 0, 1, -1))
    else:
        bottom, top = node.attrs["clip_min"], node.attrs["clip_max"]
        bound = _plain(np.clip(low, bottom, top), np.clip(high, bottom, top))
    return Bound(bound.low, bound.high, bound.partial, product)
