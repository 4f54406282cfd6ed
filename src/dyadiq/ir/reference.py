"""The reference interpreter: what an IntegerProgram means, in numpy int64, slow and obvious.

Every other executor is compared with it, integer for integer (DESIGN section 2). It is written to be read
beside docs/spec/integer-program.md and nothing here is clever: no fusion, no float but the input quantizer.
Each tensor it makes is checked against its declared code type, so a wrong proof cannot pass unseen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import DataError, GraphError, ProofError
from dyadiq.core.qtype import QType
from dyadiq.ir.graph import Graph, Node
from dyadiq.ir.integer import IntegerProgram, effective_weight, input_grid

__all__ = ["named_inputs", "quantize_input", "run_reference"]

Codes = NDArray[np.int64]


def run_reference(
    program: IntegerProgram,
    inputs: NDArray[Any] | Mapping[str, NDArray[Any]],
    *,
    taps: Iterable[str] = (),
    chunk_size: int = 256,
) -> dict[str, Codes]:
    """Run a program on raw real inputs and return the integer codes of its outputs.

    Args:
        program: The program.
        inputs: Real values ``[N, ...]`` by input name; a bare array if there is one input.
        taps: Names of further tensors to return.
        chunk_size: Samples per chunk; bounds memory, changes no result.

    Returns:
        Output name (and tap name) to int64 codes ``[N, ...]``.

    Raises:
        DataError: Missing inputs, wrong shapes, NaN or infinite values.
        ProofError: A tensor leaves its declared code type: the program is wrong.
        GraphError: A tap names no tensor.
    """
    graph = program.graph
    wanted = tuple(dict.fromkeys((*graph.outputs, *taps)))  # a tap may be an output
    for name in wanted:
        if name not in graph.tensors:
            raise GraphError(f"no tensor named {name!r} in the program.")
    arrays = named_inputs(graph, inputs)
    n_samples = len(next(iter(arrays.values())))
    chunks: dict[str, list[Codes]] = {name: [] for name in wanted}
    for start in range(0, n_samples, chunk_size):
        values: dict[str, NDArray[Any]] = {k: v[start : start + chunk_size] for k, v in arrays.items()}
        for node in graph.nodes:
            codes = _OPS[node.op](graph, node, values)
            _check_type(graph, node, codes)
            values[node.output] = codes
        for name in wanted:
            chunks[name].append(np.asarray(values[name]))
    return {name: np.concatenate(parts) for name, parts in chunks.items()}


def named_inputs(graph: Graph, inputs: NDArray[Any] | Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    """Return the inputs by name as float64, checked against the graph.

    Raises:
        DataError: Missing or extra names, wrong shape, no samples, NaN or infinite values.
    """
    if not isinstance(inputs, Mapping):
        if len(graph.inputs) != 1:
            raise DataError(f"the program has inputs {', '.join(graph.inputs)}; pass a mapping by name.")
        inputs = {graph.inputs[0]: inputs}
    if set(inputs) != set(graph.inputs):
        raise DataError(f"inputs must be named {sorted(graph.inputs)}, got {sorted(inputs)}.")
    arrays: dict[str, NDArray[np.float64]] = {}
    for name in graph.inputs:
        array = np.asarray(inputs[name], dtype=np.float64)
        expected = graph.tensors[name].shape
        if array.ndim == 0 or array.shape[1:] != expected:
            raise DataError(f"input {name!r}: expected shape [N, {', '.join(map(str, expected))}], got {array.shape}.")
        if len(array) == 0:
            raise DataError(f"input {name!r} has no samples.")
        if not np.isfinite(array).all():
            raise DataError(
                f"input {name!r}: {int((~np.isfinite(array)).sum())} values are NaN or infinite. Clean the data first."
            )
        arrays[name] = array
    if len({len(a) for a in arrays.values()}) != 1:
        raise DataError(f"inputs have different numbers of samples: { {k: len(v) for k, v in arrays.items()} }.")
    return arrays


def quantize_input(graph: Graph, node: Node, x: NDArray[np.float64]) -> Codes:
    """Return ``clip(floor(x / scale + 1/2) + zero_point, qmin, qmax)`` in float64; bipolar: the sign of x."""
    qtype = _qtype(graph, node)
    if qtype.bipolar:
        return np.where(x >= 0, 1, -1).astype(np.int64)
    scale = float(graph.params[node.inputs[1]])
    grid = input_grid(graph, node)
    if grid is not None:
        return grid.quantize(x, scale)
    zero_point = int(graph.params[node.inputs[2]])
    # Clipping before the cast keeps huge values inside int64.
    codes: Codes = np.clip(np.floor(x / scale + 0.5) + zero_point, qtype.qmin, qtype.qmax).astype(np.int64)
    return codes


def _qtype(graph: Graph, node: Node) -> QType:
    qtype = graph.tensors[node.output].qtype
    if qtype is None:
        raise GraphError(f"{node.name}: its output {node.output!r} has no code type.")
    return qtype


def _check_type(graph: Graph, node: Node, codes: Codes) -> None:
    qtype = _qtype(graph, node)
    low, high = int(codes.min()), int(codes.max())
    if low < qtype.qmin or high > qtype.qmax or (qtype.bipolar and bool((codes == 0).any())):
        raise ProofError(f"{node.name}: codes [{low}, {high}] leave the declared type {qtype} of {node.output!r}.")


def _pad(x: Codes, padding: tuple[int, int], value: int) -> Codes:
    ph, pw = padding
    return np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=value)


def _window(x: Codes, kh: int, kw: int, stride: Any, dilation: Any, out_hw: tuple[int, int]) -> Codes:
    """Return the values that tap (kh, kw) of a sliding window sees at every output position."""
    h0, w0 = kh * dilation[0], kw * dilation[1]
    h1, w1 = h0 + (out_hw[0] - 1) * stride[0] + 1, w0 + (out_hw[1] - 1) * stride[1] + 1
    return x[:, :, h0 : h1 : stride[0], w0 : w1 : stride[1]]


def _conv2d(graph: Graph, node: Node, values: Mapping[str, Codes]) -> Codes:
    a = node.attrs
    x = _pad(values[node.inputs[0]], a["padding"], a["pad_value"])
    weight = effective_weight(graph, node)
    bias = graph.params[node.inputs[2]]
    out_hw = graph.tensors[node.output].shape[1:]
    n_out, n_in = weight.shape[0] // a["groups"], weight.shape[1]
    acc = np.empty((len(x), weight.shape[0], *out_hw), dtype=np.int64)
    acc[:] = bias.reshape(1, -1, 1, 1)
    for g in range(a["groups"]):
        outs, ins = slice(g * n_out, (g + 1) * n_out), slice(g * n_in, (g + 1) * n_in)
        for kh in range(weight.shape[2]):
            for kw in range(weight.shape[3]):
                seen = _window(x[:, ins], kh, kw, a["stride"], a["dilation"], (out_hw[0], out_hw[1]))
                acc[:, outs] += np.einsum("oc,nchw->nohw", weight[outs, :, kh, kw], seen)
    return acc


def _linear(graph: Graph, node: Node, values: Mapping[str, Codes]) -> Codes:
    acc: Codes = values[node.inputs[0]] @ effective_weight(graph, node).T + graph.params[node.inputs[2]]
    return acc


def _requantize(graph: Graph, node: Node, values: Mapping[str, Codes]) -> Codes:
    x = values[node.inputs[0]]
    per_channel = (1, -1, *([1] * (x.ndim - 2)))
    multiplier = graph.params[node.inputs[1]].reshape(per_channel)
    shift = graph.params[node.inputs[2]].reshape(per_channel)
    rounding = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
    return _saturate(graph, node, (x * multiplier + rounding) >> shift)


def _saturate(graph: Graph, node: Node, wide: Codes) -> Codes:
    wide = wide + node.attrs["zero_point"]
    if _qtype(graph, node).bipolar:
        return np.where(wide >= 0, 1, -1).astype(np.int64)
    codes: Codes = np.clip(wide, node.attrs["clip_min"], node.attrs["clip_max"])
    return codes


def _clip(graph: Graph, node: Node, values: Mapping[str, Codes]) -> Codes:
    return _saturate(graph, node, values[node.inputs[0]])


def _add(graph: Graph, node: Node, values: Mapping[str, Codes]) -> Codes:
    total = values[node.inputs[0]]
    for name in node.inputs[1:]:
        total = total + values[name]
    return total


def _concat(graph: Graph, node: Node, values: Mapping[str, Codes]) -> Codes:
    return np.concatenate([values[name] for name in node.inputs], axis=1)


def _max_pool2d(graph: Graph, node: Node, values: Mapping[str, Codes]) -> Codes:
    a = node.attrs
    out_h, out_w = graph.tensors[node.output].shape[1:]
    x = _pad(values[node.inputs[0]], a["padding"], _qtype(graph, node).qmin)
    # With ceil_mode the last window may hang over the edge; what it misses never wins.
    need_h = (out_h - 1) * a["stride"][0] + (a["kernel"][0] - 1) * a["dilation"][0] + 1
    need_w = (out_w - 1) * a["stride"][1] + (a["kernel"][1] - 1) * a["dilation"][1] + 1
    more = ((0, 0), (0, 0), (0, max(0, need_h - x.shape[2])), (0, max(0, need_w - x.shape[3])))
    x = np.pad(x, more, constant_values=_qtype(graph, node).qmin)
    taps = [(i, j) for i in range(a["kernel"][0]) for j in range(a["kernel"][1])]
    seen = [_window(x, i, j, a["stride"], a["dilation"], (out_h, out_w)) for i, j in taps]
    largest: Codes = np.maximum.reduce(seen)
    return largest


def _sum_pool2d(graph: Graph, node: Node, values: Mapping[str, Codes]) -> Codes:
    a = node.attrs
    out_h, out_w = graph.tensors[node.output].shape[1:]
    x = _pad(values[node.inputs[0]], a["padding"], a["pad_value"])
    acc = np.full((len(x), x.shape[1], out_h, out_w), int(graph.params[node.inputs[1]]), dtype=np.int64)
    for i in range(a["kernel"][0]):
        for j in range(a["kernel"][1]):
            acc += _window(x, i, j, a["stride"], (1, 1), (out_h, out_w))
    return acc * graph.params[node.inputs[2]] if len(node.inputs) > 2 else acc


def _lookup(graph: Graph, node: Node, values: Mapping[str, Codes]) -> Codes:
    codes: Codes = graph.params[node.inputs[1]][values[node.inputs[0]] - node.attrs["first"]]
    return codes


def _pad_node(graph: Graph, node: Node, values: Mapping[str, Codes]) -> Codes:
    a = node.attrs
    sides = ((0, 0), *zip(a["before"], a["after"], strict=True))
    return np.pad(values[node.inputs[0]], sides, constant_values=a["pad_value"])


def _flatten(graph: Graph, node: Node, values: Mapping[str, Codes]) -> Codes:
    x = values[node.inputs[0]]
    return x.reshape(len(x), -1)


def _quantize(graph: Graph, node: Node, values: Mapping[str, NDArray[Any]]) -> Codes:
    return quantize_input(graph, node, values[node.inputs[0]])


_OPS: Mapping[str, Any] = {
    "quantize": _quantize,
    "conv2d": _conv2d,
    "linear": _linear,
    "requantize": _requantize,
    "add": _add,
    "clip": _clip,
    "concat": _concat,
    "max_pool2d": _max_pool2d,
    "sum_pool2d": _sum_pool2d,
    "lookup": _lookup,
    "pad": _pad_node,
    "flatten": _flatten,
}
