"""What the engine runs: buffers in one arena, tensors in them, steps in order. And how that becomes words of a file.

Made by `compile`, placed by `arena`, written by `file`; read and checked again by native/engine/image.cpp.
Normative text: docs/spec/engine.md. Knows no graph.

A tensor lies as ``[height][width][channel]``, with margins around it that hold the code of zero. Codes of at most
8 bits are bytes, ``code + code_offset`` (0 for unsigned types, 128 for signed ones); others are int32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.qtype import QType

__all__ = ["INT32_RANGE", "NONE", "PLAN_VERSION", "Branch", "Buffer", "EnginePlan", "Finish", "Step", "TensorRef"]

PLAN_VERSION = 12
NONE = -1
INT32_RANGE = (-(1 << 31), (1 << 31) - 1)

_OPCODES = {
    "quantize": 1,
    "conv": 2,
    "join": 3,
    "max_pool": 4,
    "sum_pool": 5,
    "lookup": 6,
    "pad": 7,
    "copy": 8,
    "flatten": 9,
    "fill": 10,
    "output": 11,
    "lower": 12,
    "bits": 13,
    "quads": 14,
}


@dataclass
class Buffer:
    """A piece of the arena; may hold several tensors side by side in channels.

    Attributes:
        wide: int32, else bytes.
        height: Rows without margins.
        width: Columns without margins.
        channels: Of all its tensors.
        margins: Rows and columns at the top, left, bottom and right.
        fill: Element that margins hold.
        offset: Bytes from the start of the arena, a multiple of 64; None until it is placed.
        dense: Whether pixels of bytes are no whole quads.
    """

    wide: bool
    height: int
    width: int
    channels: int
    margins: tuple[int, int, int, int] = (0, 0, 0, 0)
    fill: int | None = None
    offset: int | None = None
    dense: bool = False

    @property
    def pixel_stride(self) -> int:
        """Elements from one pixel to the next: bytes come in whole quads, unless they are dense."""
        return self.channels if self.wide or self.dense else -(-self.channels // 4) * 4

    @property
    def n_bytes(self) -> int:
        """Bytes with margins."""
        top, left, bottom, right = self.margins
        n_pixels = (top + self.height + bottom) * (left + self.width + right)
        return n_pixels * self.pixel_stride * (4 if self.wide else 1)

    def words(self) -> list[int]:
        """Return the buffer as words of a plan."""
        offset = 0 if self.offset is None else self.offset
        sizes = [int(self.wide), self.height, self.width, self.pixel_stride]
        return [offset // 64, *sizes, *self.margins, self.fill or 0]


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Some channels of a buffer.

    Attributes:
        buffer: Index among the buffers.
        first_channel: Where it starts.
        channels: How many.
        code_offset: What is added to codes in memory.
    """

    buffer: int
    first_channel: int
    channels: int
    code_offset: int


@dataclass(frozen=True, slots=True)
class Finish:
    """``clip(sum + zero_point, low, high)``, or the sign of ``sum + zero_point``."""

    zero_point: int = 0
    low: int = INT32_RANGE[0]
    high: int = INT32_RANGE[1]
    sign: bool = False

    def words(self) -> list[int]:
        """Return the fields in the order of a plan."""
        return [self.zero_point, self.low, self.high, int(self.sign)]


@dataclass(frozen=True)
class Branch:
    """One summand: ``clip((x + before) * multiplier >> shift, low, high)``; without a multiplier, ``x + before``."""

    x: TensorRef
    before: int = 0
    multiplier: NDArray[np.int64] | None = None
    shift: NDArray[np.int64] | None = None
    low: int = INT32_RANGE[0]
    high: int = INT32_RANGE[1]

    def with_channels(self, ordered: Callable[[NDArray[np.int64]], NDArray[np.int64]]) -> Branch:
        """Return the branch with its multipliers and shifts in another order."""
        if self.multiplier is None or self.shift is None:
            return self
        return replace(self, multiplier=ordered(self.multiplier), shift=ordered(self.shift))


@dataclass
class Step:
    """One step: what it is, whom it reads and writes, and its fields as words.

    Attributes:
        op: Key of the opcodes.
        name: Of the node it ends with, for people.
        reads: Tensors it reads.
        writes: The tensor it makes, and what it works in.
        words: Its fields, without the opcode.
        layer: Node of the convolution or linear layer in it; None where there is none.
        algorithm: Of that, of `weights.ALGORITHMS` or `lowering.BASELINES`.
        choices: All that can run it.
    """

    op: str
    name: str
    reads: tuple[TensorRef, ...]
    writes: tuple[TensorRef, ...]
    words: list[int]
    layer: str | None = None
    algorithm: str | None = None
    choices: tuple[str, ...] = ()

    def encoded(self) -> list[int]:
        """Return opcode and fields."""
        return [_OPCODES[self.op], *self.words]


@dataclass
class EnginePlan:
    """A compiled program.

    Attributes:
        inputs: Name and shape of every input.
        outputs: Name and shape of every output.
        buffers: Pieces of the arena.
        tensors: What steps refer to by index.
        steps: In order.
        payloads: Name and values of everything steps point to: int8, int32 or float64.
        types: Of payloads by name, where that is narrower than what their values lie in.
        measured: What algorithms were chosen by, for people; None: by the rule or by name.
        arena_bytes: Size of the arena; 0 until buffers are placed.
    """

    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    outputs: tuple[tuple[str, tuple[int, ...]], ...]
    buffers: list[Buffer] = field(default_factory=list)
    tensors: list[TensorRef] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    payloads: list[tuple[str, NDArray[Any]]] = field(default_factory=list)
    arena_bytes: int = 0
    types: dict[str, QType] = field(default_factory=dict)
    measured: Mapping[str, Any] | None = None

    def tensor_index(self, ref: TensorRef) -> int:
        """Return the index of a tensor, which is entered when it is new."""
        if ref not in self.tensors:
            self.tensors.append(ref)
        return self.tensors.index(ref)

    def payload_index(self, name: str, values: NDArray[Any], qtype: QType | None = None) -> int:
        """Enter values and return their index in the file, where the plan itself comes first.

        Args:
            name: For people; made unique.
            values: Of int8, int32 or float64.
            qtype: How they are packed; None: as they are.
        """
        taken = {known for known, _ in self.payloads}
        unique = name if name not in taken else f"{name}#{len(self.payloads)}"
        self.payloads.append((unique, values))
        if qtype is not None:
            self.types[unique] = qtype
        return len(self.payloads)

    def words(self) -> NDArray[np.int32]:
        """Return the plan as the words of a file."""
        sizes = [_size(shape) for _, shape in (*self.inputs, *self.outputs)]
        low, high = self.arena_bytes & 0xFFFFFFFF, self.arena_bytes >> 32
        counts = [len(self.buffers), len(self.tensors), len(self.inputs), len(self.outputs), len(self.steps)]
        words: list[int] = [PLAN_VERSION, low - (1 << 32) if low >> 31 else low, high, *counts, *sizes]
        for buffer in self.buffers:
            words += buffer.words()
        for ref in self.tensors:
            words += [ref.buffer, ref.first_channel, ref.channels, ref.code_offset]
        for step in self.steps:
            words += step.encoded()
        return np.array(words, dtype=np.int32)


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))
