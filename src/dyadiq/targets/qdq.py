"""QDQ: a float model with QuantizeLinear/DequantizeLinear pairs, the form that vendor runtimes fuse themselves.

Used through `TARGETS["qdq"]`. Not exact by nature: QuantizeLinear rounds ties to even, rescaling is float32, and a
runtime may fuse as it likes. `verify` counts the differences and reports them; nothing here hides them.

Real values flow between nodes: ``(code - zero_point) * scale``. A layer's dyadic multiplier is folded into its weight
and bias scales, ``s_w' = m * s_y / (2^e * s_x)``, so that a fused kernel rescales by the same ratio as the program.
Weights are stored in int4, int8, int16 or int32, activations of more than 16 bits stay float. Opset 21.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.qtype import QType
from dyadiq.ir.graph import Node, TensorInfo
from dyadiq.ir.integer import IntegerProgram, effective_weight, input_grid
from dyadiq.ir.proof import prove
from dyadiq.targets.base import Codes, Problems, Target, require, save_bytes
from dyadiq.targets.onnx_graph import OnnxBuilder, OnnxModel, find_unpaddable_pools, output_facts, pool_window

__all__ = ["QdqTarget"]

_OPSET = 21
_MAX_BITS = 16
# Ratios this near to 1 are the rounding of a dyadic multiplier: a Mul for them would only keep runtimes from fusing.
_RATIO_TOLERANCE = 2.0**-8
_NOTE = "not exact by nature: ties round to even and rescaling is float32; differences are counted"

Floats = NDArray[np.float64]


class QdqTarget(Target):
    """The target ``qdq``."""

    name: ClassVar[str] = "qdq"
    filename: ClassVar[str] = "model.qdq.onnx"
    exact: ClassVar[bool] = False

    def check(self, program: IntegerProgram) -> list[str]:
        """Return what is not exact.

        Raises:
            ExportError: Tensors without a scale, weights beyond int32, or a pooling window that ONNX cannot pad.
            ProofError: A tensor may leave its declared type.
        """
        prove(program)
        graph, problems, floats = program.graph, Problems(self.name), []
        find_unpaddable_pools(graph, problems)
        for node in graph.nodes:
            info = graph.tensors[node.output]
            if info.scale is None:
                problems.add(node, f"its output {node.output!r} has no scale, so it has no real values")
            if node.op in ("conv2d", "linear"):
                top = int(np.abs(effective_weight(graph, node)).max())
                if top >= 1 << 31:
                    problems.add(node, f"weights reach {top}, beyond int32")
            elif node.op in ("requantize", "clip") and info.qtype and info.qtype.bits > _MAX_BITS:
                floats.append(node.name)
        problems.raise_if_any()
        return [_NOTE] + ([f"wider than {_MAX_BITS} bits, left in float: {', '.join(floats)}"] if floats else [])

    def write(self, program: IntegerProgram, path: Path) -> list[Path]:
        """Write ``model.qdq.onnx``.

        Raises:
            ExportError: As `check`.
            StorageError: The disk is full or not writable.
        """
        self.check(program)
        model = _Emitter(program).model()
        return [save_bytes(self.file(path), model.SerializeToString(deterministic=True))]

    def emulate(self, path: Path, inputs: Mapping[str, NDArray[Any]]) -> Codes:
        """Run the file in onnxruntime and return the codes nearest to its real outputs.

        Raises:
            ArtifactError: No such file, or onnxruntime refuses it.
            DataError: Inputs missing, or of the wrong shape.
        """
        model = OnnxModel(self.existing_file(path))
        codes = {}
        for name, values in model.run(inputs).items():
            facts = model.metadata["outputs"][name]
            scale = _shaped(np.asarray(facts["scale"], dtype=np.float64), values.ndim)
            codes[name] = np.floor(values / scale + 0.5).astype(np.int64) + int(facts["zero_point"])
        return codes


def _shaped(values: Floats, rank: int) -> Floats:
    """Give constants ``[C]`` the rank of the tensor ``[N, C, ...]`` they act on."""
    return values.reshape(1, -1, *([1] * (rank - 2))) if values.size > 1 else values.reshape(())


class _Emitter:
    """Turns the nodes of a program into float nodes with QDQ pairs, in order."""

    def __init__(self, program: IntegerProgram) -> None:
        self.program, self.graph = program, program.graph
        self.types = require("onnx").TensorProto
        self.onnx = OnnxBuilder(_OPSET)
        self.values: dict[str, str] = {}

    def model(self) -> Any:
        for name in self.graph.inputs:
            self.values[name] = self.onnx.input(name, np.float32, self.graph.tensors[name].shape)
        for node in self.graph.nodes:
            self.values[node.output] = _EMIT[node.op](self, node)
        for name in self.graph.outputs:
            made = self.onnx.node("Identity", [self.values[name]], hint=name, output=name)
            self.onnx.output(made, np.float32, self.graph.tensors[name].shape)
        facts = {"outputs": output_facts(self.program), "spec_version": self.program.spec_version, "target": "qdq"}
        return self.onnx.model("dyadiq", facts)

    # -- small pieces ------------------------------------------------------------------------------

    def real(self, values: Any) -> str:
        return self.onnx.constant(values, np.float32)

    def scale(self, tensor: str) -> Floats:
        return np.asarray(self.graph.tensors[tensor].scale, dtype=np.float64)

    def ratio(self, node: Node) -> Floats:
        multiplier, shift = (np.asarray(self.graph.params[i], dtype=np.float64) for i in node.inputs[1:3])
        return np.asarray(multiplier * 2.0**-shift, dtype=np.float64)

    def accumulator_scale(self, tensor: str) -> Floats:
        """Return ``s_y * m / 2^e`` if one requantize reads the tensor (its multiplier folds in), else its scale."""
        readers = self.graph.consumers(tensor)
        if len(readers) != 1 or readers[0].op != "requantize" or tensor in self.graph.outputs:
            return self.scale(tensor)
        qtype = self.graph.tensors[readers[0].output].qtype
        if qtype is not None and qtype.bipolar:
            return self.scale(tensor)
        return np.asarray(self.scale(readers[0].output) * self.ratio(readers[0]), dtype=np.float64)

    def times(self, x: str, factor: Floats, rank: int, hint: str) -> str:
        """Multiply, unless the factor is 1 up to the rounding of a multiplier."""
        if np.all(np.abs(factor - 1.0) <= _RATIO_TOLERANCE):
            return x
        return self.onnx.node("Mul", [x, self.real(_shaped(factor, rank))], hint=hint)

    def pair(self, x: str, info: TensorInfo, clip: tuple[int, int], hint: str) -> str:
        """Emit Clip where the storage type is wider than the range, then QuantizeLinear and DequantizeLinear."""
        scale, zero_point = float(np.asarray(info.scale)), info.zero_point
        if info.qtype is None or info.qtype.bits > _MAX_BITS:
            limits = [self.real((v - zero_point) * scale) for v in clip]
            return self.onnx.node("Clip", [x, *limits], hint=hint)
        storage = _storage(info.qtype)
        if clip != _storage_range(info.qtype):
            limits = [self.real((v - zero_point) * scale) for v in clip]
            x = self.onnx.node("Clip", [x, *limits], hint=hint)
        params = [self.real(scale), self.onnx.constant(zero_point, storage)]
        quantized = self.onnx.node("QuantizeLinear", [x, *params], hint=hint)
        return self.onnx.node("DequantizeLinear", [quantized, *params], hint=hint)

    def sign(self, x: str, edge: Any, scale: float, hint: str) -> str:
        positive = self.onnx.node("GreaterOrEqual", [x, self.real(edge)], hint=hint)
        return self.onnx.node("Where", [positive, self.real(scale), self.real(-scale)], hint=hint)

    def stored(self, codes: NDArray[np.int64], scale: Floats, axis: int, hint: str) -> str:
        """Emit a constant behind a DequantizeLinear, in the narrowest of int4, int8, int16 and int32."""
        low, high = int(codes.min()), int(codes.max())
        params = [self.real(scale.reshape(-1) if scale.size > 1 else scale.reshape(()))]
        if low >= -8 and high <= 7:
            name = self.onnx.raw_constant(codes, self.types.INT4, hint)
        else:
            storage = next(t for t in ("int8", "int16", "int32") if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
            name = self.onnx.constant(codes, storage, hint)
        return self.onnx.node("DequantizeLinear", [name, *params], hint=hint, axis=axis)

    # -- operators ---------------------------------------------------------------------------------

    def quantize(self, node: Node) -> str:
        info, x = self.graph.tensors[node.output], self.values[node.inputs[0]]
        qtype = _qtype(info)
        if qtype.bipolar:
            return self.sign(x, 0.0, float(self.scale(node.output)), node.name)
        grid = input_grid(self.graph, node)
        if grid is not None:  # rounded by channel first; the pair then changes nothing
            rank = len(info.shape) + 1
            step = np.ldexp(float(self.scale(node.output)), grid.along(grid.shift, rank))
            low, high = (grid.along(ends, rank) for ends in (grid.low, grid.high))
            # Clipped before the floor: the ends are whole steps.
            for op, values in (("Div", step), ("Add", np.array(0.5)), ("Max", low), ("Min", high)):
                x = self.onnx.node(op, [x, self.real(values)], hint=node.name)
            x = self.onnx.node("Floor", [x], hint=node.name)
            x = self.onnx.node("Mul", [x, self.real(step)], hint=node.name)
        return self.pair(x, info, (qtype.qmin, qtype.qmax), node.name)

    def dot_product(self, node: Node) -> str:
        x, rank, conv = self.values[node.inputs[0]], len(self.graph.tensors[node.output].shape) + 1, node.op == "conv2d"
        source = self.graph.tensors[node.inputs[0]]
        weight, acc_scale = effective_weight(self.graph, node), self.accumulator_scale(node.output)
        w_scale = np.asarray(acc_scale / self.scale(node.inputs[0]), dtype=np.float64)
        bias = np.asarray(self.graph.params[node.inputs[2]], dtype=np.int64)
        bias = bias + source.zero_point * weight.reshape(len(weight), -1).sum(axis=1)
        w = self.stored(weight if conv else weight.T, w_scale, 0 if conv else 1, f"{node.name}/weight")
        if int(np.abs(bias).max()) < 1 << 31:
            scale = np.asarray(acc_scale, dtype=np.float64)
            stored = self.onnx.constant(bias, np.int32, f"{node.name}/bias")
            params = [self.real(scale.reshape(-1) if scale.size > 1 else scale.reshape(()))]
            b = self.onnx.node("DequantizeLinear", [stored, *params], hint=f"{node.name}/bias", axis=0)
        else:
            b = self.real(bias * acc_scale)
        if not conv:
            total = self.onnx.node("MatMul", [x, w], hint=node.name)
            return self.onnx.node("Add", [total, b], hint=node.name)
        a = node.attrs
        (ph, pw) = a["padding"]
        assert rank == 4
        return self.onnx.node(
            "Conv",
            [x, w, b],
            hint=node.name,
            kernel_shape=list(weight.shape[2:]),
            strides=list(a["stride"]),
            pads=[ph, pw, ph, pw],
            dilations=list(a["dilation"]),
            group=a["groups"],
        )

    def requantize(self, node: Node) -> str:
        x, info, a = self.values[node.inputs[0]], self.graph.tensors[node.output], node.attrs
        rank, ratio, producer = len(info.shape) + 1, self.ratio(node), self.graph.producer(node.inputs[0])
        if _qtype(info).bipolar:
            # The sign of x * ratio + 1/2 + zero_point, in real steps of x.
            edge = -(0.5 + a["zero_point"]) / ratio * self.scale(node.inputs[0])
            edge = np.where(np.asarray(self.graph.params[node.inputs[2]]) > 0, edge, 0.0 - a["zero_point"] / ratio)
            return self.sign(x, _shaped(np.asarray(edge), rank), float(self.scale(node.output)), node.name)
        own = self.scale(node.inputs[0])
        if producer is not None and producer.op in ("conv2d", "linear", "sum_pool2d"):
            own = self.accumulator_scale(node.inputs[0])
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.nan_to_num(np.asarray(self.scale(node.output) * ratio / own), nan=1.0)
        x = self.times(x, factor, rank, node.name)
        return self.pair(x, info, (a["clip_min"], a["clip_max"]), node.name)

    def clip(self, node: Node) -> str:
        info, x, a = self.graph.tensors[node.output], self.values[node.inputs[0]], node.attrs
        if _qtype(info).bipolar:
            return self.sign(
                x,
                -(a["zero_point"] + 0.5) * float(self.scale(node.inputs[0])),
                float(self.scale(node.output)),
                node.name,
            )
        return self.pair(x, info, (a["clip_min"], a["clip_max"]), node.name)

    def add(self, node: Node) -> str:
        total = self.values[node.inputs[0]]
        for name in node.inputs[1:]:
            total = self.onnx.node("Add", [total, self.values[name]], hint=node.name)
        return total

    def again(self, x: str, node: Node) -> str:
        """Quantize once more after an operator that keeps codes; changes nothing.

        onnxruntime (1.31, opset 21) adds this pair itself, with a wrong type where codes are signed.
        """
        info = self.graph.tensors[node.output]
        qtype = _qtype(info)
        if qtype.bipolar or qtype.bits > _MAX_BITS:
            return x
        return self.pair(x, info, _storage_range(qtype), node.name)

    def concat(self, node: Node) -> str:
        joined = self.onnx.node("Concat", [self.values[i] for i in node.inputs], hint=node.name, axis=1)
        return self.again(joined, node)

    def lookup(self, node: Node) -> str:
        """The table in real values, found by the codes of x."""
        x, info, source = (
            self.values[node.inputs[0]],
            self.graph.tensors[node.output],
            self.graph.tensors[node.inputs[0]],
        )
        codes = self.onnx.node("Div", [x, self.real(self.scale(node.inputs[0]))], hint=node.name)
        shifted = self.onnx.node("Add", [codes, self.real(source.zero_point - node.attrs["first"])], hint=node.name)
        index = self.onnx.cast(self.onnx.node("Round", [shifted], hint=node.name), np.int64, hint=node.name)
        table = (np.asarray(self.graph.params[node.inputs[1]]) - info.zero_point) * self.scale(node.output)
        found = self.onnx.node("Gather", [self.real(table), index], hint=node.name)
        return self.again(found, node)

    def pad(self, node: Node) -> str:
        amounts = self.onnx.constant([0, *node.attrs["before"], 0, *node.attrs["after"]], np.int64)
        zero = self.real(
            (node.attrs["pad_value"] - self.graph.tensors[node.output].zero_point) * self.scale(node.output)
        )
        padded = self.onnx.node("Pad", [self.values[node.inputs[0]], amounts, zero], hint=node.name)
        return self.again(padded, node)

    def flatten(self, node: Node) -> str:
        return self.again(self.onnx.node("Flatten", [self.values[node.inputs[0]]], hint=node.name, axis=1), node)

    def max_pool2d(self, node: Node) -> str:
        pads, _ = pool_window(self.graph, node)
        a = node.attrs
        pooled = self.onnx.node(
            "MaxPool",
            [self.values[node.inputs[0]]],
            hint=node.name,
            kernel_shape=list(a["kernel"]),
            strides=list(a["stride"]),
            dilations=list(a["dilation"]),
            pads=pads,
        )
        return self.again(pooled, node)

    def sum_pool2d(self, node: Node) -> str:
        """AveragePool, times what is left of the ratio between a mean and the accumulator's scale."""
        a, x = node.attrs, self.values[node.inputs[0]]
        (ph, pw), kernel = a["padding"], list(a["kernel"])
        pooled = self.onnx.node(
            "AveragePool",
            [x],
            hint=node.name,
            kernel_shape=kernel,
            strides=list(a["stride"]),
            pads=[ph, pw, ph, pw],
            count_include_pad=1,
        )
        count, scale = kernel[0] * kernel[1], self.accumulator_scale(node.output)
        pooled = self.times(pooled, np.asarray(count * scale / self.scale(node.inputs[0])), 4, node.name)
        rest = int(self.graph.params[node.inputs[1]]) + count * self.graph.tensors[node.inputs[0]].zero_point
        if rest:
            pooled = self.onnx.node("Add", [pooled, self.real(_shaped(rest * scale, 4))], hint=node.name)
        if len(node.inputs) > 2:
            pooled = self.onnx.node("Mul", [pooled, self.real(self.graph.params[node.inputs[2]])], hint=node.name)
        return pooled


def _storage(qtype: QType) -> np.dtype[Any]:
    """Return the type that QuantizeLinear stores a code type in."""
    return np.dtype(("" if qtype.signed else "u") + ("int8" if qtype.bits <= 8 else "int16"))


def _storage_range(qtype: QType) -> tuple[int, int]:
    limits = np.iinfo(_storage(qtype))
    return int(limits.min), int(limits.max)


def _qtype(info: TensorInfo) -> QType:
    assert info.qtype is not None  # proven by `check`
    return info.qtype


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
