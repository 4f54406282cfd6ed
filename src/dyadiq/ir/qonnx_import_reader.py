"""What has been read of a QONNX graph, and one node of it with its inputs looked up.

Used by the `qonnx_import_*` modules only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.ir.qonnx_import_build import Affine, Dot, Emitter, Parts, UnrepresentableError
from dyadiq.ir.qonnx_import_constants import Constant

__all__ = ["Call", "Mapped", "Reader", "Value", "settled"]


@dataclass(frozen=True, eq=False)
class Mapped:
    """A real tensor that is a function of codes, not rounded yet.

    Attributes:
        shape: Without batch.
        base: Program tensor of the codes, of at most 8 bits.
        reals: Values of all codes of its type, from the least on.
    """

    shape: tuple[int, ...]
    base: str
    reals: NDArray[np.float64]

    def with_reals(self, reals: NDArray[np.float64]) -> Mapped:
        """Return another function of the same codes."""
        return replace(self, reals=np.asarray(reals, dtype=np.float64))


Value = Affine | Constant | Mapped | Parts


@dataclass
class Reader:
    """What has been read so far.

    Attributes:
        out: The program being emitted.
        values: ONNX tensor name to what is known of it.
        notes: What the user should know though nothing is wrong.
        nearest: Whether what has no exact integer form may get a near one.
        near: Names of what got one.
        readers: Operators that read a tensor, by its name.
        tables: Program tensors whose codes are functions of those of another, of at most 8 bits: that, and the code
            for each of its codes.
    """

    out: Emitter = field(default_factory=Emitter)
    values: dict[str, Value] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    nearest: bool = False
    near: list[str] = field(default_factory=list)
    readers: dict[str, list[str]] = field(default_factory=dict)
    tables: dict[str, tuple[str, NDArray[np.int64]]] = field(default_factory=dict)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, without the batch.

        Raises:
            UnrepresentableError: It is none.
        """
        value = self.values.get(name)
        if not isinstance(value, Affine):
            raise UnrepresentableError("the shape of what is no tensor")
        return value.shape

    def note(self, text: str) -> None:
        """Keep a note once."""
        if text not in self.notes:
            self.notes.append(text)


@dataclass(frozen=True)
class Call:
    """One ONNX node with its inputs looked up.

    Attributes:
        reader: Where it is read.
        name: Hint for names.
        inputs: Affine tensors and constants; None for an input left out.
        attrs: Attributes.
    """

    reader: Reader
    name: str
    inputs: tuple[Value | None, ...]
    attrs: Mapping[str, Any]

    def constant(self, i: int, what: str) -> Constant:
        """Return an input that must be constant.

        Raises:
            UnrepresentableError: It is missing or not constant.
        """
        value = self.inputs[i] if i < len(self.inputs) else None
        if not isinstance(value, Constant):
            raise UnrepresentableError(f"{what} must be a constant")
        return value

    def tensor(self, i: int = 0) -> Affine:
        """Return an input that must be a tensor.

        Raises:
            UnrepresentableError: It is missing or a constant.
        """
        value = self.inputs[i] if i < len(self.inputs) else None
        if isinstance(value, Mapped):
            raise UnrepresentableError(
                "reads values of a function (Sigmoid, say) that are not quantized. Quantize them"
            )
        if not isinstance(value, Affine):
            raise UnrepresentableError("expects a tensor that depends on the input")
        return value

    def codes(self, i: int = 0) -> Affine:
        """Return a tensor input as codes of an emitted tensor, nothing pending."""
        return settled(self.reader, self.tensor(i), self.name)


def settled(reader: Reader, value: Affine, name: str, *, keep_clip: bool = False) -> Affine:
    """Return the value over an emitted tensor; a pending clip becomes a node unless it may stay.

    Raises:
        UnrepresentableError: It is raw input data, or clipped between two codes.
    """
    if value.given:
        raise UnrepresentableError(
            f"reads input {value.given!r}, which has no quantizer. Say what its data are: input_types={{...}}"
        )
    if isinstance(value.base, Dot):
        step = [float(f) for f in value.factors()]
        same = len(set(step)) == 1
        count = len(step)
        base = reader.out.dot(value.base, value.shape, [1] * count, [0] * count, step[0] if same else step)
        value = replace(value, base=base)
    if keep_clip or (value.low is None and value.high is None):
        return value
    a, b = value.a[0], value.b[0]
    if len(set(value.a)) > 1 or len(set(value.b)) > 1 or a <= 0:
        raise UnrepresentableError(
            "clips (relu) before any quantizer, with a step per channel. Quantize after the relu"
        )
    assert isinstance(value.base, str)
    info, ends = reader.out.tensors[value.base], []
    assert info.qtype is not None
    for end, edge in ((value.low, info.qtype.qmin), (value.high, info.qtype.qmax)):
        code = Fraction(edge) if end is None else (end - b) / a
        if code.denominator != 1:
            raise UnrepresentableError("clips (relu) between two codes before any quantizer. Quantize after the relu")
        ends.append(int(code))
    base = reader.out.clip(value.base, f"{name}.clip", 0, info.qtype, (ends[0], ends[1]), info.scale, info.zero_point)
    return replace(value, base=base, low=None, high=None)
