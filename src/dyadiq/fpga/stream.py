"""Integer program to a pipeline that takes one position of an image per clock cycle, in line-buffer form.

Used by target `verilog_stream`; the text is `stream_verilog`. Where `trace` unrolls a network over all positions, here
each layer is logic for one position, and the positions pass through it one after the other, in row-major order.

A *stage* is a group of nodes that work on the same position: a window operator (convolution, pool, flatten of an image)
and what follows it element by element, or a join of two streams. It is an integer program of its own, for one
position, and `trace` and `schedule` make its circuit. Stages are joined by
    windows  shift registers over the positions of a stream; taps outside the image are replaced by the padding code
    queues   where a stage reads streams that arrive at different times

Time is counted in cycles; every frame takes ``period = H * W`` cycles of the input image, back to back. So when each
position of each stream is there is known beforehand, ``times[n] + k * period`` for frame ``k``, and all control is
tables over the cycle number modulo the period. The window of an output position is complete when the position at its
lower right corner arrives, or would arrive: a corner outside the image is a position of the next row or frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import prod

import numpy as np

from dyadiq.core.errors import ExportError
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.core.qtype import QType, bits_for_range
from dyadiq.fpga.pipeline import schedule
from dyadiq.fpga.stream_parts import Pipeline, Queue, Stage, Stream, Window
from dyadiq.fpga.trace import MAX_ADDERS, estimate_adders, find_untraceable, trace
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.integer import IntegerProgram, input_grid
from dyadiq.ir.proof import Bound, node_bound, prove

__all__ = ["MAX_PERIOD", "find_unstreamable", "make_pipeline"]

MAX_PERIOD = 1 << 14
_WINDOWED = ("conv2d", "max_pool2d", "sum_pool2d")
_SOURCE = -1


def find_unstreamable(program: IntegerProgram, max_adders: int = MAX_ADDERS) -> list[tuple[Node, str]]:
    """Return the nodes that cannot be part of such a pipeline, each with the reason and what to do.

    Raises:
        ProofError: A tensor may leave its declared type.
    """
    graph, found = program.graph, []
    prove(program)
    quantizers = [node for node in graph.nodes if node.op == "quantize"]
    shape = graph.tensors[quantizers[0].output].shape
    if len(quantizers) > 1 or len(shape) != 3:
        found.append((quantizers[-1], "the input is no single image. Use target verilog, which unrolls"))
        return found
    if input_grid(graph, quantizers[0]) is not None:
        found.append((quantizers[0], "channels with grids of their own, which pixel ports lack. Use target verilog"))
    if shape[1] * shape[2] > MAX_PERIOD:
        found.append(
            (quantizers[0], f"an image of more than {MAX_PERIOD:,} positions. Export to hls4ml with io_stream")
        )
    for node in graph.nodes:
        info = graph.tensors[node.inputs[0]]
        if node.op in _WINDOWED and not _in_order(graph, node):
            found.append(
                (node, "its windows reach so far beyond the image that two outputs fall on one cycle. Use less padding")
            )
        bipolar = info.qtype is not None and info.qtype.bipolar
        if bipolar and any(node.attrs.get("padding", ())) and node.attrs.get("pad_value", 1) not in (-1, 1):
            found.append((node, "pads -1/+1 codes with another number. Use two-bit activations, or target verilog"))
    counts = {
        node.name: count // max(1, prod(graph.tensors[node.output].shape[1:]))
        for node, count in zip(graph.nodes, _adders(program), strict=True)
    }
    total = sum(counts.values())
    if total > max_adders:
        largest = max(graph.nodes, key=lambda node: counts[node.name])
        reason = (
            f"one position of every layer needs about {total:,} adders, {counts[largest.name]:,} of them here; "
            f"the limit is {max_adders:,}. Use fewer bits, prune, or export to hls4ml with a reuse factor"
        )
        found.append((largest, reason))
    found += find_untraceable(program)
    return found


def _adders(program: IntegerProgram) -> list[int]:
    counts = estimate_adders(program)
    return [counts.get(node.name, 0) for node in program.graph.nodes]


def make_pipeline(program: IntegerProgram, depth: int, progress: Progress = NO_PROGRESS) -> Pipeline:
    """Turn a program on one image into stages.

    Args:
        program: The program.
        depth: Most adders in a row between two registers.
        progress: Told about stages.

    Raises:
        ExportError: The network cannot be streamed; names every node.
        ConfigError: ``depth`` is not positive.
        MissingDependencyError: da4ml is not installed.
        ProofError: A tensor may leave its declared type.
    """
    problems = find_unstreamable(program)
    if problems:
        lines = "".join(f"\n  {node.name} ({node.op}): {reason}" for node, reason in problems)
        raise ExportError(f"the program cannot be streamed:{lines}.")
    graph = program.graph
    groups = _groups(graph)
    (quantizer,) = (node for node in graph.nodes if node.op == "quantize")
    info = graph.tensors[quantizer.output]
    assert info.qtype is not None, "prove has checked that every tensor has a type"
    period = info.shape[1] * info.shape[2]
    times = tuple(range(1, period + 1))  # the input is registered once
    source = Stream(quantizer.output, info.shape[0], (info.shape[1], info.shape[2]), info.qtype, times)
    streams, stages = {source.tensor: source}, []
    n_stages = 1 + max(groups.values(), default=_SOURCE)
    progress.start("stages", n_stages)
    for k in range(n_stages):
        nodes = [node for node in graph.nodes if groups[node.output] == k]
        stage = _make_stage(program, nodes, groups, streams, period, depth)
        stages.append(stage)
        for port in stage.circuit.outputs:
            shape = graph.tensors[port.tensor].shape
            positions = (shape[1], shape[2]) if len(shape) == 3 else (1, 1)
            arrival = tuple(t + stage.plan.latency_cycles for t in stage.times)
            streams[port.tensor] = Stream(port.tensor, len(port.values), positions, port.qtype, arrival)
        progress.advance(1, nodes[0].name)
    progress.finish()
    return Pipeline(period, source, tuple(stages), streams, graph.outputs)


def _groups(graph: Graph) -> dict[str, int]:
    """Return the stage that makes each tensor; -1 for the input codes."""
    groups: dict[str, int] = {}
    count = 0
    for node in graph.nodes:
        known = {groups[name] for name in node.inputs if name in groups}
        if node.op == "quantize":
            groups[node.output] = _SOURCE
        elif not _is_windowed(graph, node) and len(known) == 1 and _SOURCE not in known:
            groups[node.output] = known.pop()
        else:
            groups[node.output] = count
            count += 1
    return groups


def _is_windowed(graph: Graph, node: Node) -> bool:
    return node.op in _WINDOWED or (node.op == "flatten" and prod(graph.tensors[node.inputs[0]].shape[1:]) > 1)


def _make_stage(
    program: IntegerProgram,
    nodes: Sequence[Node],
    groups: Mapping[str, int],
    streams: Mapping[str, Stream],
    period: int,
    depth: int,
) -> Stage:
    graph = program.graph
    own = {node.output for node in nodes}
    read = list(dict.fromkeys(name for node in nodes for name in node.inputs if name in groups and name not in own))
    kept = [n for n in (node.output for node in nodes) if n in graph.outputs or _is_read_elsewhere(graph, n, own)]
    reads: tuple[Window | Queue, ...]
    if _is_windowed(graph, nodes[0]):
        window, times = _window(graph, nodes[0], streams[read[0]], period)
        reads = (window,)
    else:
        reads, times = _queues([streams[name] for name in read], period)
    circuit = trace(_position_program(program, nodes, [streams[name] for name in read], kept))
    return Stage(circuit, schedule(circuit, depth), reads, times)


def _is_read_elsewhere(graph: Graph, tensor: str, own: Iterable[str]) -> bool:
    return any(node.output not in own for node in graph.consumers(tensor))


def _geometry(graph: Graph, node: Node) -> tuple[tuple[int, int], ...]:
    """Return kernel, stride, padding and dilation of a window operator."""
    shape, a = graph.tensors[node.inputs[0]].shape, node.attrs
    if node.op == "flatten":
        return (shape[1], shape[2]), (1, 1), (0, 0), (1, 1)
    kernel = a["kernel"] if node.op != "conv2d" else graph.params[node.inputs[1]].shape[2:]
    return tuple(kernel), tuple(a["stride"]), tuple(a["padding"]), tuple(a.get("dilation", (1, 1)))


def _corners(graph: Graph, node: Node) -> list[int]:
    """Return the index of the position at the lower right corner of every output's window."""
    kernel, stride, padding, dilation = _geometry(graph, node)
    columns = graph.tensors[node.inputs[0]].shape[2]
    out = graph.tensors[node.output].shape[1:] or (1, 1)
    reach = [(k - 1) * d - p for k, d, p in zip(kernel, dilation, padding, strict=True)]
    return [
        (r * stride[0] + reach[0]) * columns + c * stride[1] + reach[1] for r in range(out[0]) for c in range(out[1])
    ]


def _in_order(graph: Graph, node: Node) -> bool:
    """Whether the windows of the outputs are complete one after the other, and within one frame."""
    corners = _corners(graph, node)
    size = prod(graph.tensors[node.inputs[0]].shape[1:])
    return all(a < b for a, b in pairwise(corners)) and corners[-1] - corners[0] < size


def _window(graph: Graph, node: Node, stream: Stream, period: int) -> tuple[Window, tuple[int, ...]]:
    kernel, stride, padding, dilation = _geometry(graph, node)
    out = graph.tensors[node.output].shape[1:] or (1, 1)
    inside = []
    for axis in (0, 1):
        starts = [n * stride[axis] - padding[axis] for n in range(out[axis])]
        taps = [[0 <= s + i * dilation[axis] < stream.positions[axis] for s in starts] for i in range(kernel[axis])]
        inside.append(taps)
    rows = tuple(tuple(ok for ok in row for _ in range(out[1])) for row in inside[0])
    columns = tuple(tuple(column) * out[0] for column in inside[1])
    line = stream.positions[1]
    offsets = tuple(
        tuple((kernel[0] - 1 - i) * dilation[0] * line + (kernel[1] - 1 - j) * dilation[1] for j in range(kernel[1]))
        for i in range(kernel[0])
    )
    pad = stream.qtype.qmin if node.op == "max_pool2d" else int(node.attrs.get("pad_value", 0))
    times = tuple(stream.time(corner, period) for corner in _corners(graph, node))
    return Window(stream.tensor, offsets, rows, columns, pad), times


def _queues(streams: Sequence[Stream], period: int) -> tuple[tuple[Queue, ...], tuple[int, ...]]:
    """Return how streams are read together, and when."""
    arrivals = [np.array(stream.times) for stream in streams]
    when = np.max(arrivals, axis=0)
    if any((when > t).any() and (when == t).any() for t in arrivals):
        when = when + 1  # a queue cannot be read in the cycle in which it is written
    queues = []
    for stream, t in zip(streams, arrivals, strict=True):
        waiting = [int((-((t - c) // period) + (when - c) // period).sum()) for c in (0, *(t + 1))]
        ahead, most = waiting[0], max(waiting)
        queues.append(Queue(stream.tensor, most, ahead % most if most else 0))
    return tuple(queues), tuple(int(t) for t in when)


def _position_program(
    program: IntegerProgram, nodes: Sequence[Node], streams: Sequence[Stream], kept: Sequence[str]
) -> IntegerProgram:
    """Return the program of one position of a stage; every tensor has the narrowest type that is proven for it."""
    graph = program.graph
    params = {name: graph.params[name] for node in nodes for name in node.inputs if name in graph.params}
    params |= {"scale": np.array(1.0), "zero_point": np.array(0)}
    tensors: dict[str, TensorInfo] = {}
    made: list[Node] = []
    bounds: dict[str, Bound] = {}
    pads = {name: _pads(graph, name) for name in kept}
    kernel = _geometry(graph, nodes[0])[0] if _is_windowed(graph, nodes[0]) else (1, 1)

    def append(node: Node, shape: tuple[int, ...], qtype: QType) -> None:
        tensors[node.output] = TensorInfo(shape, qtype)
        bound = node_bound(Graph("integer", (), (), (), tensors, params, graph.param_types), node, bounds)
        if node.op != "quantize" and not qtype.bipolar:
            ends = [int(bound.low.min()), int(bound.high.max()), *pads.get(node.output, ())]
            tensors[node.output] = TensorInfo(shape, bits_for_range(min(ends), max(ends)))
        bounds[node.output] = bound
        made.append(node)

    for stream in streams:
        shape: tuple[int, ...] = (
            (stream.elements, *kernel) if len(graph.tensors[stream.tensor].shape) == 3 else (stream.elements,)
        )
        name = f"{stream.tensor}:codes"
        tensors[name] = TensorInfo(shape)
        append(Node(name, "quantize", (name, "scale", "zero_point"), stream.tensor), shape, stream.qtype)
    for node in nodes:
        info = graph.tensors[node.output]
        assert info.qtype is not None, "prove has checked that every tensor has a type"
        shape = (info.shape[0], 1, 1) if len(info.shape) == 3 else info.shape
        append(_at_one_position(node), shape, info.qtype)
    inputs = tuple(f"{stream.tensor}:codes" for stream in streams)
    types = {name: qtype for name, qtype in graph.param_types.items() if name in params}
    return IntegerProgram(Graph("integer", inputs, tuple(kept), tuple(made), tensors, params, types))


def _pads(graph: Graph, tensor: str) -> list[int]:
    """Return the padding codes of those that read a tensor; they must fit its type."""
    readers = [node for node in graph.consumers(tensor) if any(node.attrs.get("padding", ()))]
    return [int(node.attrs["pad_value"]) for node in readers if "pad_value" in node.attrs]


def _at_one_position(node: Node) -> Node:
    """Return a node that sees its window as its whole input."""
    whole = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "ceil_mode": False}
    attrs = {key: whole.get(key, value) for key, value in node.attrs.items()}
    return replace(node, attrs=attrs)
