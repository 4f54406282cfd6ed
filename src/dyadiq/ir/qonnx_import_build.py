"""Emits an integer program node by node while a QONNX graph is read; accumulator types come from the proof.

Used by `qonnx_import_nodes` only. An `Affine` is what is known of a real tensor that has not been rounded yet:
``real = clip(a * code + b, low, high)`` per channel, exact rationals over the codes of a program tensor, or over a dot
product that is emitted when its rounding is known, with gain and offset folded into its weights and bias.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.channel_grid import ChannelGrid
from dyadiq.core.qtype import QType, bits_for_range
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.integer import IntegerProgram
from dyadiq.ir.proof import Bound, accumulator_type, node_bound
from dyadiq.ir.qonnx_import_rounding import Rescale

__all__ = [
    "MAX_CHANNELS",
    "MAX_ELEMENTS",
    "Affine",
    "Dot",
    "Emitter",
    "Ends",
    "Parts",
    "UnrepresentableError",
    "narrowed",
]

_LARGEST_IDENTITY = 4096
MAX_CHANNELS, MAX_ELEMENTS = 1 << 16, 1 << 28  # time grows with channels, about 0.2 ms each


class UnrepresentableError(Exception):
    """A node has no exact integer form; the text is the reason. Collected and reported with all others."""


@dataclass(frozen=True, eq=False)
class Dot:
    """A dot product that is not emitted yet.

    Attributes:
        op: ``linear`` or ``conv2d``.
        source: Program tensor it reads.
        weight: Codes ``[O, I, ...]``.
        attrs: Of the node.
        name: Of the node.
        qtype: Declared type of the weights; None for the narrowest.
    """

    op: str
    source: str
    weight: NDArray[np.int64]
    attrs: Mapping[str, Any]
    name: str
    qtype: QType | None = None


Ends = tuple[Fraction | None, Fraction | None]


@dataclass(frozen=True, eq=False)
class Affine:
    """A real tensor ``clip(a * code + b, low, high)``.

    Attributes:
        shape: Without batch.
        base: Program tensor, or a dot product not emitted yet.
        a: Factor per channel, or one.
        b: Offset per channel, or one.
        low: Lower clip (relu), or None.
        high: Upper clip, or None.
        given: The named graph input, if the base is still its raw real data.
        ends: Of raw data, a further clip of each channel, low and high or None; empty if there is none.
    """

    shape: tuple[int, ...]
    base: str | Dot
    a: tuple[Fraction, ...]
    b: tuple[Fraction, ...]
    low: Fraction | None = None
    high: Fraction | None = None
    given: str = ""
    ends: tuple[Ends, ...] = ()

    @property
    def channels(self) -> int:
        """Number of channels (elements of a vector)."""
        return self.shape[0]

    def factors(self) -> tuple[Fraction, ...]:
        """Return ``a`` for every channel."""
        return self.a if len(self.a) == self.channels else self.a * self.channels

    def offsets(self) -> tuple[Fraction, ...]:
        """Return ``b`` for every channel."""
        return self.b if len(self.b) == self.channels else self.b * self.channels

    def scaled(self, factor: Sequence[Fraction], offset: Sequence[Fraction]) -> Affine:
        """Return ``value * factor + offset`` with factors and offsets per channel.

        Raises:
            UnrepresentableError: A clip came before, and the factors are not one and the same.
        """
        if self.ends or (self.given and self.clips):
            return self._scaled_by_channel(factor, offset)
        clipped = self.clips
        if clipped and (len(set(factor)) > 1 or len(set(offset)) > 1):
            raise UnrepresentableError(
                "scales a clipped tensor per channel before it is quantized. Quantize after the relu"
            )
        a = tuple(f * x for f, x in zip(factor, self.factors(), strict=True))
        b = tuple(f * x + o for f, x, o in zip(factor, self.offsets(), offset, strict=True))
        ends = [None if end is None else end * factor[0] + offset[0] for end in (self.low, self.high)]
        if clipped and factor[0] < 0:
            ends.reverse()
        return replace(self, a=a, b=b, low=ends[0], high=ends[1])

    @property
    def clips(self) -> bool:
        """Whether there is one clip for all channels."""
        return self.low is not None or self.high is not None

    def _scaled_by_channel(self, factor: Sequence[Fraction], offset: Sequence[Fraction]) -> Affine:
        """Return `scaled` raw input data whose channels have limits of their own.

        Raises:
            UnrepresentableError: A factor is not positive.
        """
        if any(f <= 0 for f in factor):
            raise UnrepresentableError("changes clipped input data by a factor that is not positive")
        inner, outer = ((self.low, self.high),) * self.channels, self.ends or ((None, None),) * self.channels
        both = [narrowed(x, y) for x, y in zip(inner, outer, strict=True)]
        ends = tuple(
            (None if low is None else low * f + o, None if high is None else high * f + o)
            for (low, high), f, o in zip(both, factor, offset, strict=True)
        )
        a = tuple(f * x for f, x in zip(factor, self.factors(), strict=True))
        b = tuple(f * x + o for f, x, o in zip(factor, self.offsets(), offset, strict=True))
        return replace(self, a=a, b=b, low=None, high=None, ends=ends)

    def clipped(self, low: Sequence[Fraction] | None, high: Sequence[Fraction] | None) -> Affine:
        """Return ``clip(value, low, high)`` with limits per channel, or one for all.

        Raises:
            UnrepresentableError: Limits differ between the channels of what is no raw input data.
        """
        alike = all(len(set(ends)) == 1 for ends in (low, high) if ends)
        if alike and not self.ends:
            first = narrowed((self.low, self.high), (low[0] if low else None, high[0] if high else None))
            return replace(self, low=first[0], high=first[1])
        if not self.given:
            raise UnrepresentableError("clips each channel in its own way before it is quantized. Quantize before it")
        limits = [[None] * self.channels if e is None else list(e) * (self.channels // len(e)) for e in (low, high)]
        ends = self.ends or ((None, None),) * self.channels
        return replace(self, ends=tuple(map(narrowed, ends, zip(*limits, strict=True))))


def narrowed(ends: Ends, by: Ends) -> Ends:
    """Return the limits of a clip followed by another."""
    (bottom, top), (low, high) = ends, by
    if low is not None:
        bottom = low if bottom is None else max(bottom, low)
        top = None if top is None else max(top, low)
    if high is not None:
        top = high if top is None else min(top, high)
        bottom = None if bottom is None else min(bottom, high)
    return bottom, top


@dataclass(frozen=True, eq=False)
class Parts:
    """Tensors to be concatenated along channels once a quantizer has rounded each to its own step."""

    values: tuple[Affine, ...]


@dataclass
class Emitter:
    """Collects the nodes of a program."""

    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    params: dict[str, NDArray[Any]] = field(default_factory=dict)
    types: dict[str, QType] = field(default_factory=dict)
    bounds: dict[str, Bound] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)

    def program(self, outputs: Sequence[str], provenance: Mapping[str, Any]) -> IntegerProgram:
        """Return the program, without nodes that no output needs."""
        graph = self._graph(tuple(outputs))
        needed, kept = set(outputs), []
        for node in reversed(self.nodes):
            if node.output in needed:
                kept.append(node)
                needed |= set(node.inputs)
        return IntegerProgram(graph.without_unused(reversed(kept)), provenance=provenance)

    def _graph(self, outputs: tuple[str, ...] = ()) -> Graph:
        return Graph("integer", tuple(self.inputs), outputs, tuple(self.nodes), self.tensors, self.params, self.types)

    def fresh(self, hint: str) -> str:
        """Return a node name that is not taken."""
        base = name = re.sub(r"[^\w.]+", "_", hint).strip("_") or "node"
        count = 1
        while name in self.tensors:
            count += 1
            name = f"{base}_{count}"
        return name

    def param(self, name: str, values: Any, dtype: Any = np.int64) -> str:
        """Store a parameter and return its name.

        Raises:
            UnrepresentableError: A number is too large.
        """
        try:
            self.params[name] = np.asarray(values, dtype=dtype)
        except OverflowError as error:
            raise UnrepresentableError("needs an integer of more than 64 bits. Use scales closer together") from error
        return name

    def node(
        self,
        op: str,
        hint: str,
        inputs: Sequence[str],
        shape: tuple[int, ...],
        qtype: QType | None = None,
        scale: Any = None,
        code_of_zero: int = 0,
        **attrs: Any,
    ) -> str:
        """Add a node and return its tensor; without a type it gets the one the proof asks for.

        Raises:
            UnrepresentableError: The tensor would be too large.
        """
        if shape[0] > MAX_CHANNELS or prod(shape) > MAX_ELEMENTS:
            raise UnrepresentableError(
                f"makes a tensor of shape {shape}; at most {MAX_CHANNELS} channels and {MAX_ELEMENTS} elements are "
                "supported"
            )
        name = self.fresh(hint)
        node = Node(name, op, tuple(inputs), name, attrs)
        scale = None if scale is None else np.asarray(scale, dtype=np.float64)
        self.tensors[name] = TensorInfo(shape, qtype, scale, code_of_zero)
        self.bounds[name] = bound = node_bound(self._graph(), node, self.bounds)
        if qtype is None:
            self.tensors[name] = TensorInfo(shape, accumulator_type(bound), scale, code_of_zero)
        self.nodes.append(node)
        return name

    def quantize(
        self, source: str, hint: str, qtype: QType, scale: float, zero_point: int, grid: ChannelGrid | None = None
    ) -> str:
        """Add the quantizer of an input."""
        name = self.fresh(hint)
        parts = [source, self.param(f"{name}.scale", scale, np.float64), self.param(f"{name}.zero_point", zero_point)]
        if grid is not None:
            parts += [self.param(f"{name}.{part}", getattr(grid, part)) for part in ("shift", "low", "high")]
        return self.node("quantize", hint, parts, self.tensors[source].shape, qtype, scale, zero_point)

    def requantize(
        self, x: str, hint: str, multiplier: Sequence[int], shift: Sequence[int], qtype: QType,
        scale: Any, zero_point: int = 0, limits: tuple[int, int] | None = None, offset: int = 0,
    ) -> str:  # fmt: skip
        """Add a requantize; multipliers and shifts that are all alike become one.

        The zero point is in the codes already, but for what is added after rounding.
        """
        name = self.fresh(hint)
        alike = len(set(zip(multiplier, shift, strict=True))) == 1
        pairs = (multiplier[:1], shift[:1]) if alike else (multiplier, shift)
        parts = [x, self.param(f"{name}.multiplier", pairs[0]), self.param(f"{name}.shift", pairs[1])]
        low, high = limits or (qtype.qmin, qtype.qmax)
        attrs = {"zero_point": offset, "clip_min": low, "clip_max": high}
        return self.node("requantize", hint, parts, self.tensors[x].shape, qtype, scale, zero_point, **attrs)

    def clip(self, x: str, hint: str, offset: int, qtype: QType, limits: tuple[int, int], scale: Any, zero: int) -> str:
        """Add a clip."""
        attrs = {"zero_point": offset, "clip_min": limits[0], "clip_max": limits[1]}
        return self.node("clip", hint, [x], self.tensors[x].shape, qtype, scale, zero, **attrs)

    def dot(self, dot: Dot, shape: tuple[int, ...], gain: Sequence[int], bias: Sequence[int], scale: Any) -> str:
        """Emit a dot product with its weights times gain, plus bias."""
        name = self.fresh(dot.name)
        factors = np.asarray(gain, dtype=np.int64).reshape(-1, *([1] * (dot.weight.ndim - 1)))
        weight = dot.weight * factors
        qtype = dot.qtype if (factors == 1).all() and dot.qtype else _stored_type(weight)
        parts = [dot.source, self.param(f"{name}.weight", weight), self.param(f"{name}.bias", bias)]
        self.types[parts[1]] = qtype
        return self.node(dot.op, name, parts, shape, scale=scale, **dot.attrs)

    def dot_bounds(self, dot: Dot, shape: tuple[int, ...]) -> Bound:
        """Return the proven range of a dot product before gain and bias."""
        zeros = self.param("pending.bias", np.zeros(len(dot.weight)))
        weight = self.param("pending.weight", dot.weight)
        node = Node("pending", dot.op, (dot.source, weight, zeros), "pending", dot.attrs)
        self.tensors["pending"] = TensorInfo(shape)
        try:
            return node_bound(self._graph(), node, self.bounds)
        finally:
            del self.tensors["pending"], self.params[zeros], self.params[weight]

    def as_dot(self, value: Affine, name: str) -> Dot:
        """Return the base as a dot product: itself, or one with the identity.

        Raises:
            UnrepresentableError: The identity would be too large.
        """
        if isinstance(value.base, Dot):
            return value.base
        n = value.channels
        if len(value.shape) == 3:
            attrs = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": n, "pad_value": 0}
            return Dot("conv2d", value.base, np.ones((n, 1, 1, 1), dtype=np.int64), attrs, f"{name}.offset")
        if n > _LARGEST_IDENTITY:
            raise UnrepresentableError(
                f"needs an offset for each of {n} elements; at most {_LARGEST_IDENTITY} are supported"
            )
        return Dot("linear", value.base, np.eye(n, dtype=np.int64), {}, f"{name}.offset")

    def bound_of(self, value: Affine) -> Bound:
        """Return the proven range of the codes under an affine tensor."""
        if isinstance(value.base, Dot):
            return self.dot_bounds(value.base, value.shape)
        return self.bounds[value.base]

    def rescale(
        self, value: Affine, name: str, r: Rescale, qtype: QType, scale: float, zero_point: int,
        limits: tuple[int, int], offset: int = 0,
    ) -> str:  # fmt: skip
        """Emit the rounding that `find_rescale` found, and add an offset to what it makes."""
        step = [float(f / g) for f, g in zip(value.factors(), r.gain, strict=True)]
        x, multiplier, shift = value.base, r.multiplier, r.shift
        if not isinstance(x, Dot) and not r.plain and set(r.gain) == {1} and len(set(r.bias)) == 1:
            low, high = (int(end) + r.bias[0] for end in (self.bounds[x].low.min(), self.bounds[x].high.max()))
            wide = bits_for_range(low, high)
            x = self.clip(x, f"{name}.moved", r.bias[0], wide, (wide.qmin, wide.qmax), self.tensors[x].scale, 0)
            if r.composed and set(multiplier) != {1}:
                x = self.wide_multiple(x, name, multiplier, step)
        elif isinstance(x, Dot) or not r.plain:
            dot = self.as_dot(value, name)
            x = self.dot(dot, value.shape, r.gain, r.bias, step if len(set(step)) > 1 else step[0])
        else:
            multiplier = tuple(m * g for m, g in zip(multiplier, r.gain, strict=True))
            if r.composed and set(multiplier) != {1}:
                x = self.wide_multiple(x, name, multiplier, step)
        if not r.composed:
            return self.requantize(x, name, multiplier, shift, qtype, scale, zero_point, limits, offset)
        half = 1 << (shift[0] - 1)
        parts = [self.half_of(x, f"{name}.half", offset, shift[0] + 1, scale) for offset in (half - 1, -half)]
        total = self.node("add", f"{name}.sum", parts, value.shape, scale=scale)
        return self.clip(total, name, offset, qtype, limits, scale, zero_point)

    def wide_multiple(self, x: str, name: str, multiplier: Sequence[int], step: Sequence[float]) -> str:
        """Emit codes times integers, in a type that holds them."""
        bound, m = self.bounds[x], np.asarray(multiplier, dtype=np.int64)
        ends = int((bound.low * m).min()), int((bound.high * m).max())
        scale = step if len(set(step)) > 1 else step[0]
        shift = [0] * len(multiplier)
        return self.requantize(x, f"{name}.wide", multiplier, shift, bits_for_range(*ends), scale, limits=ends)

    def half_of(self, x: str, name: str, offset: int, shift: int, scale: float) -> str:
        """Emit ``(x + offset + 2^(shift-1)) >> shift`` without clipping."""
        bound = self.bounds[x]
        low, high = int(bound.low.min()) + offset, int(bound.high.max()) + offset
        wide = bits_for_range(low, high)
        moved = self.clip(x, f"{name}.moved", offset, wide, (wide.qmin, wide.qmax), self.tensors[x].scale, 0)
        half = 1 << (shift - 1)
        qtype = bits_for_range((low + half) >> shift, (high + half) >> shift)
        return self.requantize(moved, name, [1], [shift], qtype, scale)


def _stored_type(codes: NDArray[np.int64]) -> QType:
    return bits_for_range(int(codes.min()), int(codes.max()))
