"""The parts of a pipeline in line-buffer form: streams, windows, queues, stages.

Made by `stream.make_pipeline`; read by `stream_verilog`, `stream_interface` and target `verilog_stream`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dyadiq.core.qtype import QType
from dyadiq.fpga.pipeline import Schedule
from dyadiq.fpga.trace import Circuit

__all__ = ["Pipeline", "Queue", "Stage", "Stream", "Window"]


@dataclass(frozen=True)
class Stream:
    """A tensor, one position after the other.

    Attributes:
        tensor: Its name in the program.
        elements: Values per position.
        positions: Rows and columns of the image; (1, 1) for a vector.
        qtype: Type of the values.
        times: Cycle in which each position of the first frame is there, ascending.
    """

    tensor: str
    elements: int
    positions: tuple[int, int]
    qtype: QType
    times: tuple[int, ...]

    @property
    def bits(self) -> int:
        """Bits of one position."""
        return self.elements * self.qtype.bits

    def time(self, index: int, period: int) -> int:
        """Return when a position is there; indices beyond the image are positions of other frames."""
        frame, n = divmod(index, len(self.times))
        return self.times[n] + frame * period


@dataclass(frozen=True)
class Window:
    """How a stage reads a stream through a window.

    Attributes:
        tensor: Of the stream.
        offsets: Positions back from the newest one, per row and column of the window.
        rows_inside: Per row of the window, whether it lies in the image, for each output position.
        columns_inside: Likewise per column.
        pad: Code in place of what lies outside.
    """

    tensor: str
    offsets: tuple[tuple[int, ...], ...]
    rows_inside: tuple[tuple[bool, ...], ...]
    columns_inside: tuple[tuple[bool, ...], ...]
    pad: int

    @property
    def depth(self) -> int:
        """Positions that are kept beside the newest one."""
        return max(max(row) for row in self.offsets)


@dataclass(frozen=True)
class Queue:
    """How a stage reads a stream element by element.

    Attributes:
        tensor: Of the stream.
        depth: Most positions that wait; 0 if they are read when they come.
        ahead: Positions that wait at cycle 0, before the first frame.
    """

    tensor: str
    depth: int
    ahead: int


@dataclass(frozen=True)
class Stage:
    """Nodes that work on the same position.

    Attributes:
        circuit: Logic of one position.
        plan: Its registers.
        reads: One per input port of the circuit.
        times: Cycle in which each position's inputs are complete.
    """

    circuit: Circuit
    plan: Schedule
    reads: tuple[Window | Queue, ...]
    times: tuple[int, ...]


@dataclass(frozen=True)
class Pipeline:
    """A network as stages.

    Attributes:
        period: Cycles per frame, one position of the input each.
        source: The input codes.
        stages: In topological order.
        streams: Every stream by tensor, the source included.
        outputs: Tensors of the program's outputs.
    """

    period: int
    source: Stream
    stages: tuple[Stage, ...]
    streams: Mapping[str, Stream]
    outputs: tuple[str, ...]

    @property
    def latency_cycles(self) -> int:
        """Cycles from the first position of a frame to the last position of its outputs."""
        return max(self.streams[name].times[-1] for name in self.outputs)

    @property
    def register_bits(self) -> int:
        """Bits of registers and queues, control apart."""
        total = sum(stage.plan.register_bits for stage in self.stages) + self.source.bits
        return total + sum(read.depth * self.streams[read.tensor].bits for s in self.stages for read in s.reads)
