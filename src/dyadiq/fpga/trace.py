"""Integer program to netlist: every operator unrolled in space, from input codes to output codes.

Used by target `verilog` and by `lut_cost`. The input quantizer (real numbers to codes) is software and stays outside:
a circuit starts at codes. Meaning: docs/spec/integer-program.md; each function below is the operator of its name.

Biases, zero points, rounding halves and signs are carried as offsets of values (`netlist.Value`) until an adder takes
them in, so a bias and a rounding half are one adder, and the -1/+1 codes of a bipolar tensor are one bit each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.channel_grid import ChannelGrid, carried_type
from dyadiq.core.errors import DataError, ExportError, GraphError
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.core.qtype import QType
from dyadiq.fpga.adder_graph import MAX_WEIGHT, multiply_matrix
from dyadiq.fpga.limits import MAX_LUTS, check_size, guess_luts, signed_digits
from dyadiq.fpga.netlist import Netlist, Value, constant
from dyadiq.ir.graph import Graph, Node
from dyadiq.ir.integer import IntegerProgram, effective_weight, input_grid
from dyadiq.ir.proof import prove

__all__ = ["MAX_ADDERS", "Circuit", "Port", "estimate_adders", "find_untraceable", "requantize_values", "trace"]

MAX_ADDERS = 600_000  # the digits network at 8 bits needs 520,000, four minutes and three million LUTs

Values = NDArray[Any]  # of netlist.Value


@dataclass(frozen=True)
class Port:
    """A tensor at the edge of a circuit.

    Attributes:
        tensor: Name of the code tensor in the program.
        shape: Without the batch dimension; elements are in row-major order.
        qtype: Type of its codes.
        values: One value of the netlist per element.
        grid: Grids of the channels of an input, or None. Then elements are numbers of steps from the channel's lowest,
            which are no wider than the grid, wherever it lies.
    """

    tensor: str
    shape: tuple[int, ...]
    qtype: QType
    values: tuple[Value, ...]
    grid: ChannelGrid | None = None

    @property
    def carried(self) -> QType:
        """Type of an element as it is carried."""
        return self.qtype if self.grid is None else carried_type(self.grid)

    def elements(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return codes ``[N, C, ...]`` as they are carried."""
        return codes if self.grid is None else self.grid.numbers(codes)


@dataclass(frozen=True)
class Circuit:
    """A netlist with its ports.

    Attributes:
        net: The operations.
        inputs: One port per input quantizer, named by the tensor of codes that it makes.
        outputs: One port per output of the program.
        spans: Node name to the number of operations in the netlist after it: those from the number before are its own.
    """

    net: Netlist
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    spans: Mapping[str, int] = field(default_factory=dict)

    def predict(self, codes: Mapping[str, NDArray[np.int64]], chunk: int = 1024) -> dict[str, NDArray[np.int64]]:
        """Return the output codes that the circuit computes from input codes: the emulator.

        Args:
            codes: Codes ``[N, ...]`` by name of the port.
            chunk: Samples at a time; bounds memory, changes no result.

        Raises:
            DataError: A port is missing, or its codes have another shape or leave its type.
        """
        flat = np.concatenate([_checked(port, codes) for port in self.inputs], axis=1)
        wanted = [value for port in self.outputs for value in port.values]
        parts = [self.net.run(flat[start : start + chunk], wanted) for start in range(0, len(flat), chunk)]
        columns = np.concatenate(parts)
        out, start = {}, 0
        for port in self.outputs:
            out[port.tensor] = columns[:, start : start + len(port.values)].reshape(len(flat), *port.shape)
            start += len(port.values)
        return out


def _checked(port: Port, codes: Mapping[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    if port.tensor not in codes:
        raise DataError(f"the circuit needs codes of {port.tensor!r}, got {sorted(codes)}.")
    array = np.asarray(codes[port.tensor])
    if array.shape[1:] != port.shape or array.dtype.kind not in "iu" or len(array) == 0:
        raise DataError(
            f"codes of {port.tensor!r}: expected integers [N, {', '.join(map(str, port.shape))}] with N >= 1, "
            f"got {array.dtype} {array.shape}."
        )
    low, high = int(array.min()), int(array.max())
    if low < port.qtype.qmin or high > port.qtype.qmax or (port.qtype.bipolar and bool((array == 0).any())):
        raise DataError(f"codes of {port.tensor!r} [{low}, {high}] leave their type {port.qtype}.")
    array = array.astype(np.int64)
    if port.grid is not None and not port.grid.holds(array):
        raise DataError(f"codes of {port.tensor!r} are no codes of their channels' grids.")
    flat = port.elements(array).reshape(len(array), -1)
    return (flat + 1) // 2 if port.qtype.bipolar else flat


def estimate_adders(program: IntegerProgram) -> dict[str, int]:
    """Return roughly how many adders each node needs fully unrolled, in microseconds and without da4ml.

    For a dot product: half the non-zero signed digits of its weights (sharing finds about as much), at every position.

    Example:
        >>> from dyadiq.ir.graph import TensorInfo
        >>> node = Node("fc", "linear", ("x", "w", "b"), "y")
        >>> graph = Graph("integer", ("x",), ("y",), (node,), {"x": TensorInfo((2,)), "y": TensorInfo((1,))},
        ...               {"w": np.array([[7, 5]]), "b": np.zeros(1, np.int64)})
        >>> estimate_adders(IntegerProgram(graph))
        {'fc': 2}
    """
    graph, counts = program.graph, {}
    for node in program.graph.nodes:
        shape = graph.tensors[node.output].shape
        elements = int(np.prod(shape))
        if node.op in ("linear", "conv2d"):
            digits = int(signed_digits(effective_weight(graph, node)).sum())
            counts[node.name] = digits * int(np.prod(shape[1:])) // 2
        elif node.op == "requantize":
            per_element = signed_digits(np.asarray(graph.params[node.inputs[1]])).mean()
            counts[node.name] = int(elements * (per_element + 1))
        elif node.op in ("max_pool2d", "sum_pool2d"):
            counts[node.name] = elements * (node.attrs["kernel"][0] * node.attrs["kernel"][1] - 1)
        elif node.op in ("add", "clip"):
            counts[node.name] = elements
    return counts


def find_untraceable(program: IntegerProgram) -> list[tuple[Node, str]]:
    """Return the nodes that cannot become adders at any size, each with the reason and what to do."""
    graph = program.graph
    found = []
    for node in graph.nodes:
        if node.op not in _OPERATORS:
            found.append((node, "an operator that is not yet drawn as logic"))
        if node.op == "sum_pool2d" and len(node.inputs) > 2:
            found.append((node, "an average over windows of different sizes, not yet drawn as logic"))
        if node.op in ("linear", "conv2d"):
            largest = int(np.abs(effective_weight(graph, node)).max(initial=0))
            if largest >= MAX_WEIGHT:
                found.append((node, f"a weight of {largest} has more than 24 bits. Use narrower weights"))
    return found


def trace(program: IntegerProgram, progress: Progress = NO_PROGRESS, max_luts: int = MAX_LUTS) -> Circuit:
    """Turn a program into a circuit that computes every output from input codes at once.

    Args:
        program: The program.
        progress: Told about traced nodes.
        max_luts: A program of more, by `limits.guess_luts`, is refused before anything is traced.

    Raises:
        ExportError: A weight is too wide.
        TooLargeError: The network is too large to unroll.
        MissingDependencyError: da4ml is not installed.
        ProofError: A tensor of the program may leave its declared type.
    """
    prove(program)
    problems = find_untraceable(program)
    if problems:
        lines = "".join(f"\n  {node.name} ({node.op}): {reason}" for node, reason in problems)
        raise ExportError(f"the program cannot be unrolled:{lines}.")
    check_size(guess_luts(program), max_luts)
    graph, net = program.graph, Netlist()
    tensors: dict[str, Values] = {}
    inputs, spans = [], {}
    progress.start("trace", len(graph.nodes))
    for node in graph.nodes:
        values = _OPERATORS[node.op](net, graph, node, tensors)
        tensors[node.output] = values
        spans[node.name] = len(net.ops)
        if node.op == "quantize":
            inputs.append(replace(_port(graph, node.output, values), grid=input_grid(graph, node)))
        progress.advance(1, node.name)
    progress.finish()
    outputs = tuple(_port(graph, name, tensors[name]) for name in graph.outputs)
    return Circuit(net, tuple(inputs), outputs, MappingProxyType(spans))


def _port(graph: Graph, tensor: str, values: Values) -> Port:
    info = graph.tensors[tensor]
    if info.qtype is None:
        raise GraphError(f"tensor {tensor!r} has no code type.")
    return Port(tensor, info.shape, info.qtype, tuple(values.ravel()))


def _array(values: Sequence[Value], shape: tuple[int, ...]) -> Values:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)


def _shape(graph: Graph, node: Node) -> tuple[int, ...]:
    return graph.tensors[node.output].shape


def _quantize(net: Netlist, graph: Graph, node: Node, _tensors: Mapping[str, Values]) -> Values:
    qtype = graph.tensors[node.output].qtype
    assert qtype is not None, "prove has checked that every tensor has a type"
    count = int(np.prod(_shape(graph, node)))
    if qtype.bipolar:
        bits = [net.input(0, 1) for _ in range(count)]
        return _array([Value(bit.wire, shift=1, offset=-1) for bit in bits], _shape(graph, node))
    grid = input_grid(graph, node)
    if grid is None:
        return _array([net.input(qtype.qmin, qtype.qmax) for _ in range(count)], _shape(graph, node))
    each = count // len(grid.shift)
    values = []
    for shift, low, high in zip(grid.shift.tolist(), grid.low.tolist(), grid.high.tolist(), strict=True):
        steps = [net.input(0, high - low) for _ in range(each)]
        if low == high:
            values += [constant(low << shift)] * each
        else:
            values += [Value(step.wire, shift=shift, offset=low << shift) for step in steps]
    return _array(values, _shape(graph, node))


def _linear(net: Netlist, graph: Graph, node: Node, tensors: Mapping[str, Values]) -> Values:
    values = multiply_matrix(net, effective_weight(graph, node), list(tensors[node.inputs[0]]))
    bias = graph.params[node.inputs[2]]
    return _array([v.plus(int(b)) for v, b in zip(values, bias, strict=True)], _shape(graph, node))


def _conv2d(net: Netlist, graph: Graph, node: Node, tensors: Mapping[str, Values]) -> Values:
    a = node.attrs
    x = _padded(tensors[node.inputs[0]], a["padding"], a["pad_value"])
    weight, bias = effective_weight(graph, node), graph.params[node.inputs[2]]
    out = np.empty(_shape(graph, node), dtype=object)
    n_out, n_in = weight.shape[0] // a["groups"], weight.shape[1]
    for group in range(a["groups"]):
        outs, ins = slice(group * n_out, (group + 1) * n_out), slice(group * n_in, (group + 1) * n_in)
        matrix = weight[outs].reshape(n_out, -1)
        for row in range(out.shape[1]):
            for column in range(out.shape[2]):
                window = _window(x[ins], row, column, weight.shape[2:], a["stride"], a["dilation"])
                sums = multiply_matrix(net, matrix, list(window.ravel()))
                out[outs, row, column] = [v.plus(int(b)) for v, b in zip(sums, bias[outs], strict=True)]
    return out


def _padded(x: Values, padding: Sequence[int], code: int) -> Values:
    (ph, pw), (channels, height, width) = padding, x.shape
    out = np.empty((channels, height + 2 * ph, width + 2 * pw), dtype=object)
    out[...] = constant(code)
    out[:, ph : ph + height, pw : pw + width] = x
    return out


def _window(
    x: Values, row: int, column: int, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Values:
    top, left = row * stride[0], column * stride[1]
    bottom, right = top + (kernel[0] - 1) * dilation[0] + 1, left + (kernel[1] - 1) * dilation[1] + 1
    return x[:, top : bottom : dilation[0], left : right : dilation[1]]


def _requantize(net: Netlist, graph: Graph, node: Node, tensors: Mapping[str, Values]) -> Values:
    x = tensors[node.inputs[0]]
    multiplier, shift = (np.broadcast_to(graph.params[name], (len(x),)) for name in node.inputs[1:3])
    qtype = graph.tensors[node.output].qtype
    assert qtype is not None, "prove has checked that every tensor has a type"
    rows = [
        requantize_values(net, list(channel.ravel()), int(m), int(e), node.attrs, bipolar=qtype.bipolar)
        for channel, m, e in zip(x.reshape(len(x), -1), multiplier, shift, strict=True)
    ]
    return _array([value for row in rows for value in row], x.shape)


def requantize_values(
    net: Netlist, values: Sequence[Value], multiplier: int, shift: int, attrs: Mapping[str, Any], *, bipolar: bool
) -> list[Value]:
    """Return ``clip(((x * multiplier + r) >> shift) + zero_point, clip_min, clip_max)`` of every value.

    Raises:
        MissingDependencyError: da4ml is not installed.
        ProofError: The multiplier has more than 24 bits.
    """
    half = 1 << (shift - 1) if shift else 0
    out = []
    for value in values:
        product = multiply_matrix(net, np.array([[multiplier]]), [value])[0] if multiplier != 1 else value
        rescaled = net.shift_right(product.plus(half), shift)
        out.append(_saturate(net, rescaled, attrs, bipolar=bipolar))
    return out


def _saturate(net: Netlist, value: Value, attrs: Mapping[str, Any], *, bipolar: bool) -> Value:
    moved = value.plus(attrs["zero_point"])
    return net.sign(moved) if bipolar else net.clip(moved, attrs["clip_min"], attrs["clip_max"])


def _clip(net: Netlist, graph: Graph, node: Node, tensors: Mapping[str, Values]) -> Values:
    qtype = graph.tensors[node.output].qtype
    bipolar = qtype is not None and qtype.bipolar
    x = tensors[node.inputs[0]]
    return _array([_saturate(net, v, node.attrs, bipolar=bipolar) for v in x.ravel()], x.shape)


def _add(net: Netlist, _graph: Graph, node: Node, tensors: Mapping[str, Values]) -> Values:
    first = tensors[node.inputs[0]]
    total = list(first.ravel())
    for name in node.inputs[1:]:
        total = [net.add(x, y) for x, y in zip(total, tensors[name].ravel(), strict=True)]
    return _array(total, first.shape)


def _concat(_net: Netlist, _graph: Graph, node: Node, tensors: Mapping[str, Values]) -> Values:
    return np.concatenate([tensors[name] for name in node.inputs], axis=0)


def _max_pool2d(net: Netlist, graph: Graph, node: Node, tensors: Mapping[str, Values]) -> Values:
    a, qtype = node.attrs, graph.tensors[node.output].qtype
    assert qtype is not None, "prove has checked that every tensor has a type"
    out = np.empty(_shape(graph, node), dtype=object)
    x = _padded(tensors[node.inputs[0]], a["padding"], qtype.qmin)
    for channel, row, column in np.ndindex(*out.shape):
        seen = _window(x[channel : channel + 1], row, column, a["kernel"], a["stride"], a["dilation"]).ravel()
        out[channel, row, column] = _tree(list(seen), net.maximum, constant(qtype.qmin))
    return out


def _sum_pool2d(net: Netlist, graph: Graph, node: Node, tensors: Mapping[str, Values]) -> Values:
    a, bias = node.attrs, int(graph.params[node.inputs[1]])
    out = np.empty(_shape(graph, node), dtype=object)
    x = _padded(tensors[node.inputs[0]], a["padding"], a["pad_value"])
    for channel, row, column in np.ndindex(*out.shape):
        seen = _window(x[channel : channel + 1], row, column, a["kernel"], a["stride"], (1, 1)).ravel()
        out[channel, row, column] = _tree(list(seen), net.add, constant(0)).plus(bias)
    return out


def _tree(values: list[Value], join: Callable[[Value, Value], Value], empty: Value) -> Value:
    """Join values pairwise, in as few levels as possible."""
    while len(values) > 1:
        rest = values[-1:] if len(values) % 2 else []
        values = [join(x, y) for x, y in zip(values[0::2], values[1::2], strict=False)] + rest
    return values[0] if values else empty


def _flatten(_net: Netlist, _graph: Graph, node: Node, tensors: Mapping[str, Values]) -> Values:
    return tensors[node.inputs[0]].ravel()


_OPERATORS: Mapping[str, Any] = {
    "quantize": _quantize,
    "conv2d": _conv2d,
    "linear": _linear,
    "requantize": _requantize,
    "add": _add,
    "clip": _clip,
    "concat": _concat,
    "max_pool2d": _max_pool2d,
    "sum_pool2d": _sum_pool2d,
    "flatten": _flatten,
}
