"""Standard integer ONNX: MatMulInteger, ConvInteger and an integer rescale; equal to the reference in onnxruntime.

Used through `TARGETS["onnx"]`. Knows nothing of other targets. Raw real data go in (float64), int64 codes come out;
the input quantizer is part of the model, in float64. No float operator follows it.

Why it is exact on every machine:
- Dot products run on uint8 times uint8 with zero points. Wider codes are split into digits, x = sum_k B^k d_k - offset,
  and the partial products are added in int64; B is chosen so that each partial product provably fits int32.
  Weights are never int8: some x86 kernels add pairs of uint8*int8 products in saturating 16 bits.
- Padding: ConvInteger pads with its zero point, so the zero point is set to the code of the padding value p and
  sum w*x = sum w*(x - p) + p * sum w; the last term joins the bias.
- Rescale in int64: ONNX Div truncates toward zero, so K * 2^e is added first with K from the proven lower bound;
  the dividend is then >= 0, truncation is floor, and K is subtracted afterwards.
Source: docs/spec/integer-program.md; ONNX operators at opset 17.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.channel_grid import ChannelGrid
from dyadiq.core.errors import ExportError
from dyadiq.ir.graph import Node
from dyadiq.ir.integer import IntegerProgram, input_grid
from dyadiq.ir.proof import prove
from dyadiq.targets.base import Codes, Problems, Target, save_bytes
from dyadiq.targets.onnx_graph import OnnxBuilder, OnnxModel, output_facts, pool_window
from dyadiq.targets.onnx_product import INT32_MAX, DotProduct, plan_product

__all__ = ["OnnxTarget"]

_OPSET = 17


class OnnxTarget(Target):
    """The target ``onnx``."""

    name: ClassVar[str] = "onnx"
    filename: ClassVar[str] = "model.onnx"

    def check(self, program: IntegerProgram) -> list[str]:
        """Return notes: which nodes need several byte products.

        Raises:
            ExportError: A dot product too long for int32 partial sums even in 1-bit digits.
            ProofError: The program leaves its declared types.
        """
        bounds = prove(program)
        problems, notes = Problems(self.name), []
        for node in program.graph.nodes:
            if node.op in ("conv2d", "linear"):
                try:
                    plan = plan_product(program.graph, node, bounds)
                except ExportError as error:
                    problems.add(node, str(error))
                    continue
                if plan.n_products > 1:
                    notes.append(
                        f"{node.name}: {plan.n_products} byte products, codes or weights are wider than 8 bits"
                    )
        problems.raise_if_any("Use fewer weight or activation bits for these layers.")
        return notes

    def write(self, program: IntegerProgram, path: Path) -> list[Path]:
        """Write ``model.onnx``.

        Raises:
            ExportError: As `check`.
            StorageError: The disk is full or not writable.
        """
        self.check(program)
        model = _Emitter(program).model()
        return [save_bytes(self.file(path), model.SerializeToString(deterministic=True))]

    def emulate(self, path: Path, inputs: Mapping[str, NDArray[Any]]) -> Codes:
        """Run the file in onnxruntime on one thread.

        Raises:
            ArtifactError: No such file, or onnxruntime refuses it.
            DataError: Inputs missing, or of the wrong shape.
        """
        return OnnxModel(self.existing_file(path)).run_codes(inputs)


@dataclass(frozen=True)
class _Value:
    """A tensor of the ONNX graph that holds the codes of a program tensor, and the type it holds them in."""

    name: str
    dtype: str


def _storage(low: int, high: int) -> str:
    """Return the smallest ONNX type among uint8, int8, int32, int64 that holds a range."""
    for dtype in ("uint8", "int8", "int32"):
        info = np.iinfo(dtype)
        if info.min <= low and high <= info.max:
            return dtype
    return "int64"


class _Emitter:
    """Turns the nodes of a program into ONNX nodes, in order."""

    def __init__(self, program: IntegerProgram) -> None:
        self.program, self.graph = program, program.graph
        self.bounds = prove(program)
        self.onnx = OnnxBuilder(_OPSET)
        self.values: dict[str, _Value] = {}

    def model(self) -> Any:
        for name in self.graph.inputs:
            self.onnx.input(name, np.float64, self.graph.tensors[name].shape)
        for node in self.graph.nodes:
            bound, qtype = self.bounds[node.output], self.graph.tensors[node.output].qtype
            bipolar = qtype is not None and qtype.bipolar
            dtype = "int8" if bipolar else _storage(int(bound.low.min()), int(bound.high.max()))
            self.values[node.output] = _Value(_EMIT[node.op](self, node, dtype), dtype)
        for name in self.graph.outputs:
            made = self.onnx.cast(self.values[name].name, np.int64, hint=name, output=name)
            self.onnx.output(made, np.int64, self.graph.tensors[name].shape)
        facts = {"outputs": output_facts(self.program), "spec_version": self.program.spec_version, "target": "onnx"}
        return self.onnx.model("dyadiq", facts)

    # -- small pieces ------------------------------------------------------------------------------

    def as_type(self, value: _Value, dtype: str, hint: str) -> str:
        return value.name if value.dtype == dtype else self.onnx.cast(value.name, dtype, hint=hint)

    def cast_from(self, name: str, have: str, want: str, hint: str) -> str:
        return self.as_type(_Value(name, have), want, hint)

    def source(self, node: Node, position: int = 0) -> _Value:
        return self.values[node.inputs[position]]

    def per_channel(self, values: Any, rank: int) -> NDArray[np.int64]:
        """Shape constants ``[C]`` (or ``[1]``) so that they broadcast over ``[N, C, ...]``."""
        array = np.asarray(values, dtype=np.int64)
        return array.reshape(1, -1, *([1] * (rank - 2))) if array.size > 1 else array.reshape(())

    def arithmetic(self, op: str, name: str, values: Any, dtype: str, hint: str) -> str:
        return self.onnx.node(op, [name, self.onnx.constant(values, dtype)], hint=hint)

    def saturate(self, name: str, have: str, node: Node, add: int, want: str) -> str:
        """Emit ``clip(x + add, clip_min, clip_max)``, or the sign for bipolar codes, in the type asked for."""
        qtype = self.graph.tensors[node.output].qtype
        if qtype is not None and qtype.bipolar:
            positive = self.arithmetic("GreaterOrEqual", name, -add, have, node.name)
            one, minus = (self.onnx.constant(v, want) for v in (1, -1))
            return self.onnx.node("Where", [positive, one, minus], hint=node.name)
        if add:
            name = self.arithmetic("Add", name, add, have, node.name)
        limits = [self.onnx.constant(node.attrs[key], have) for key in ("clip_min", "clip_max")]
        clipped = self.onnx.node("Clip", [name, *limits], hint=node.name)
        return self.cast_from(clipped, have, want, node.name)

    # -- operators ---------------------------------------------------------------------------------

    def quantize(self, node: Node, dtype: str) -> str:
        """``clip(floor(x / s + 1/2) + z)`` in float64, clipped before the cast."""
        qtype = self.graph.tensors[node.output].qtype
        assert qtype is not None
        x, hint = node.inputs[0], node.name
        if qtype.bipolar:
            positive = self.arithmetic("GreaterOrEqual", x, 0.0, "float64", hint)
            one, minus = (self.onnx.constant(v, dtype) for v in (1, -1))
            return self.onnx.node("Where", [positive, one, minus], hint=hint)
        scale, grid = float(self.graph.params[node.inputs[1]]), input_grid(self.graph, node)
        if grid is not None:
            return self.quantize_channels(x, scale, grid, dtype, hint, len(self.graph.tensors[node.output].shape) + 1)
        x = self.arithmetic("Div", x, scale, "float64", hint)
        x = self.arithmetic("Add", x, 0.5, "float64", hint)
        x = self.onnx.node("Floor", [x], hint=hint)
        x = self.arithmetic("Add", x, float(self.graph.params[node.inputs[2]]), "float64", hint)
        limits = [self.onnx.constant(v, "float64") for v in (qtype.qmin, qtype.qmax)]
        return self.onnx.cast(self.onnx.node("Clip", [x, *limits], hint=hint), dtype, hint=hint)

    def quantize_channels(self, x: str, scale: float, grid: ChannelGrid, dtype: str, hint: str, rank: int) -> str:
        """``clip(floor(x / (s 2^k) + 1/2), low, high) 2^k`` of every channel, in float64."""
        shift, low, high = (grid.along(values, rank) for values in (grid.shift, grid.low, grid.high))
        x = self.arithmetic("Div", x, np.ldexp(scale, shift), "float64", hint)
        x = self.onnx.node("Floor", [self.arithmetic("Add", x, 0.5, "float64", hint)], hint=hint)
        for op, values in (("Max", low), ("Min", high), ("Mul", np.ldexp(1.0, shift))):
            x = self.arithmetic(op, x, values, "float64", hint)
        return self.onnx.cast(x, dtype, hint=hint)

    def split(self, value: _Value, plan: DotProduct, hint: str) -> list[str]:
        """Return the digits of ``x + offset`` as uint8 tensors, lowest first."""
        count = len(plan.x_zeros)
        if value.dtype == "uint8" and plan.offset == 0 and plan.base == 256:
            return [value.name]
        work = "int64" if value.dtype == "int64" else "int32"
        if work == "int32" and plan.base**count > INT32_MAX:
            work = "int64"
        rest = self.as_type(value, work, hint)
        if plan.offset:
            rest = self.arithmetic("Add", rest, plan.offset, work, hint)
        digits = []
        for k in range(count):
            last = k == count - 1
            digit = rest if last else self.arithmetic("Mod", rest, plan.base, work, hint)
            digits.append(self.onnx.cast(digit, np.uint8, hint=hint))
            if not last:
                rest = self.arithmetic("Div", rest, plan.base, work, hint)
        return digits

    def dot_product(self, node: Node, dtype: str) -> str:
        plan = plan_product(self.graph, node, self.bounds)
        conv, hint = node.op != "linear", node.name
        rank = len(self.graph.tensors[node.output].shape) + 1
        digits = self.split(self.source(node), plan, hint)
        bias = np.asarray(self.graph.params[node.inputs[2 if node.op != "sum_pool2d" else 1]], dtype=np.int64)
        correction = bias + plan.anchor * plan.weight.reshape(len(plan.weight), -1).sum(axis=1)
        fits = dtype != "int64" and int(np.abs(correction).max()) <= INT32_MAX
        work = "int32" if plan.n_products == 1 and fits else "int64"
        total = ""
        for k, (digit, x_zero) in enumerate(zip(digits, plan.x_zeros, strict=True)):
            for j, (w_digit, w_zero) in enumerate(zip(plan.w_digits, plan.w_zeros, strict=True)):
                part = self.byte_product(node, digit, x_zero, w_digit if conv else w_digit.T, w_zero)
                part = self.cast_from(part, "int32", work, hint)
                factor = plan.base**k * 256**j
                if factor > 1:
                    part = self.arithmetic("Mul", part, factor, work, hint)
                total = self.onnx.node("Add", [total, part], hint=hint) if total else part
        if correction.any():
            total = self.arithmetic("Add", total, self.per_channel(correction, rank), work, hint)
        return self.cast_from(total, work, dtype, hint)

    def byte_product(self, node: Node, x: str, x_zero: int, weight: NDArray[np.uint8], w_zero: int) -> str:
        inputs = [x, self.onnx.constant(weight, np.uint8, hint=f"{node.name}/weight")]
        inputs += [self.onnx.constant(z, np.uint8) for z in (x_zero, w_zero)]
        if node.op == "linear":
            return self.onnx.node("MatMulInteger", inputs, hint=node.name)
        a = node.attrs
        (ph, pw), kernel = a["padding"], list(weight.shape[2:])
        return self.onnx.node(
            "ConvInteger",
            inputs,
            hint=node.name,
            kernel_shape=kernel,
            strides=list(a["stride"]),
            pads=[ph, pw, ph, pw],
            dilations=list(a.get("dilation", (1, 1))),
            group=a.get("groups", weight.shape[0]),
        )

    def requantize(self, node: Node, dtype: str) -> str:
        """``((x * m + r) >> e) + z``, clipped: all in int64, floor made of a truncating Div on values >= 0."""
        rank, hint = len(self.graph.tensors[node.output].shape) + 1, node.name
        multiplier = np.asarray(self.graph.params[node.inputs[1]], dtype=np.int64)
        shift = np.asarray(self.graph.params[node.inputs[2]], dtype=np.int64)
        x = self.as_type(self.source(node), "int64", hint)
        if (multiplier != 1).any():
            x = self.arithmetic("Mul", x, self.per_channel(multiplier, rank), "int64", hint)
        if shift.any():
            rounding = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
            lowest = (self.bounds[node.inputs[0]].low * multiplier + rounding) >> shift
            lift = np.maximum(-lowest, 0)  # K: floor(dividend / 2^e) + K >= 0
            if multiplier.size == shift.size == 1:
                lift = lift.max(keepdims=True)
            x = self.arithmetic("Add", x, self.per_channel(rounding + (lift << shift), rank), "int64", hint)
            x = self.arithmetic("Div", x, self.per_channel(np.int64(1) << shift, rank), "int64", hint)
            if lift.any():
                x = self.arithmetic("Sub", x, self.per_channel(lift, rank), "int64", hint)
        return self.saturate(x, "int64", node, node.attrs["zero_point"], dtype)

    def add(self, node: Node, dtype: str) -> str:
        work = "int64" if "int64" in (dtype, *(self.values[i].dtype for i in node.inputs)) else "int32"
        total = self.as_type(self.source(node), work, node.name)
        for i in range(1, len(node.inputs)):
            total = self.onnx.node("Add", [total, self.as_type(self.source(node, i), work, node.name)], hint=node.name)
        return self.cast_from(total, work, dtype, node.name)

    def clip(self, node: Node, dtype: str) -> str:
        bound, add = self.bounds[node.inputs[0]], node.attrs["zero_point"]
        values = [int(bound.low.min()), int(bound.high.max()), add, node.attrs["clip_min"], node.attrs["clip_max"]]
        values += [values[0] + add, values[1] + add, -add]
        work = "int32" if max(map(abs, values)) <= INT32_MAX else "int64"
        return self.saturate(self.as_type(self.source(node), work, node.name), work, node, add, dtype)

    def concat(self, node: Node, dtype: str) -> str:
        parts = [self.as_type(self.values[i], dtype, node.name) for i in node.inputs]
        return self.onnx.node("Concat", parts, hint=node.name, axis=1)

    def flatten(self, node: Node, dtype: str) -> str:
        return self.as_type(
            _Value(
                self.onnx.node("Flatten", [self.source(node).name], hint=node.name, axis=1), self.source(node).dtype
            ),
            dtype,
            node.name,
        )

    def pad(self, node: Node, dtype: str) -> str:
        a, value = node.attrs, self.as_type(self.source(node), dtype, node.name)
        amounts = self.onnx.constant([0, *a["before"], 0, *a["after"]], np.int64)
        return self.onnx.node("Pad", [value, amounts, self.onnx.constant(a["pad_value"], dtype)], hint=node.name)

    def lookup(self, node: Node, dtype: str) -> str:
        index = self.as_type(self.source(node), "int64", node.name)
        if node.attrs["first"]:
            index = self.arithmetic("Sub", index, node.attrs["first"], "int64", node.name)
        table = self.onnx.constant(self.graph.params[node.inputs[1]], dtype, f"{node.name}/table")
        return self.onnx.node("Gather", [table, index], hint=node.name)

    def sum_pool2d(self, node: Node, dtype: str) -> str:
        if len(node.inputs) == 2:
            return self.window_sum(node, dtype)
        work = "int64" if dtype == "int64" else "int32"
        total = self.window_sum(node, work)  # factors are positive, so that the sum fits where the product does
        total = self.arithmetic("Mul", total, self.graph.params[node.inputs[2]], work, node.name)
        return self.cast_from(total, work, dtype, node.name)

    def window_sum(self, node: Node, dtype: str) -> str:
        in_shape, a = self.graph.tensors[node.inputs[0]].shape, node.attrs
        if tuple(a["kernel"]) != tuple(in_shape[1:]) or any(a["padding"]):
            return self.dot_product(node, dtype)
        work = "int64" if dtype == "int64" else "int32"
        x = self.as_type(self.source(node), work, node.name)
        axes = self.onnx.constant([2, 3], np.int64)
        total = self.onnx.node("ReduceSum", [x, axes], hint=node.name, keepdims=1)
        bias = int(self.graph.params[node.inputs[1]])
        total = self.arithmetic("Add", total, bias, work, node.name) if bias else total
        return self.cast_from(total, work, dtype, node.name)

    def max_pool2d(self, node: Node, dtype: str) -> str:
        """MaxPool on 8-bit codes; on wider ones the maximum over shifted slices (MaxPool has no such types)."""
        a, x = node.attrs, self.source(node)
        pads, reach = pool_window(self.graph, node)
        if x.dtype in ("uint8", "int8") and all(p < k for p, k in zip(pads, (*a["kernel"], *a["kernel"]), strict=True)):
            pooled = self.onnx.node(
                "MaxPool",
                [x.name],
                hint=node.name,
                kernel_shape=list(a["kernel"]),
                strides=list(a["stride"]),
                dilations=list(a["dilation"]),
                pads=pads,
            )
            return self.cast_from(pooled, x.dtype, dtype, node.name)
        return self.cast_from(self._max_of_slices(node, x, pads, reach), x.dtype, dtype, node.name)

    def _max_of_slices(self, node: Node, x: _Value, pads: list[int], reach: list[int]) -> str:
        a, name = node.attrs, x.name
        qtype = self.graph.tensors[node.output].qtype
        if any(pads) and qtype is not None:
            lowest = max(qtype.qmin, np.iinfo(x.dtype).min)
            amounts = self.onnx.constant([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64)
            name = self.onnx.node("Pad", [name, amounts, self.onnx.constant(lowest, x.dtype)], hint=node.name)
        axes, steps = (self.onnx.constant(v, np.int64) for v in ([2, 3], list(a["stride"])))
        best = ""
        for i in range(a["kernel"][0]):
            for j in range(a["kernel"][1]):
                start = [i * a["dilation"][0], j * a["dilation"][1]]
                stop = [
                    s + r - d * (k - 1) for s, r, d, k in zip(start, reach, a["dilation"], a["kernel"], strict=True)
                ]
                limits = [self.onnx.constant(v, np.int64) for v in (start, stop)]
                tap = self.onnx.node("Slice", [name, *limits, axes, steps], hint=node.name)
                best = self.onnx.node("Max", [best, tap], hint=node.name) if best else tap
        return best


_EMIT: Mapping[str, Any] = {
    "quantize": _Emitter.quantize,
    "conv2d": _Emitter.dot_product,
    "linear": _Emitter.dot_product,
    "requantize": _Emitter.requantize,
    "add": _Emitter.add,
    "clip": _Emitter.clip,
    "concat": _Emitter.concat,
    "max_pool2d": _Emitter.max_pool2d,
    "sum_pool2d": _Emitter.sum_pool2d,
    "lookup": _Emitter.lookup,
    "pad": _Emitter.pad,
    "flatten": _Emitter.flatten,
}
