"""Emits the QONNX graph of an integer program, in real values (mode ``pow2``) or in integers (mode ``dyadic``).

Used by `qonnx` only. One emitter for both: a tensor's value is ``code * scale`` where scale is the tensor's own
power of two in mode pow2, and 1 in mode dyadic. Only rescaling differs:

    pow2    real values do not change when rescaled; half a step of the output is folded into the bias of the
            producing layer (or added), and Quant(scale of the output, FLOOR) rounds down
    dyadic  Mul by the constant m / 2^e, Add 1/2, Quant(scale 1, FLOOR), zero points as integers

Why FLOOR after half a step equals rounding half up, although Quant clamps before it rounds: its bounds are integers,
and for integers a <= b, floor(clamp(v, a, b)) = clamp(floor(v), a, b).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.channel_grid import ChannelGrid
from dyadiq.core.qtype import QType, bits_for_range
from dyadiq.ir.graph import Node, TensorInfo
from dyadiq.ir.integer import IntegerProgram, effective_weight, input_grid
from dyadiq.ir.proof import prove
from dyadiq.targets.onnx_graph import OnnxBuilder, pool_window

__all__ = ["as_pow2", "build_qonnx", "rounding_steps"]

_DOMAIN = "qonnx.custom_op.general"
_OPSET = 13
_DOT_PRODUCTS = ("conv2d", "linear")

Floats = NDArray[np.float64]


def as_pow2(values: Any) -> NDArray[np.int64] | None:
    """Return the exponents if all values are positive powers of two, else None.

    Example:
        >>> as_pow2([0.25, 8.0]), as_pow2(3)
        (array([-2,  3]), None)
    """
    fraction, exponent = np.frexp(np.asarray(values, dtype=np.float64))
    return np.asarray(exponent - 1, dtype=np.int64) if np.all(fraction == 0.5) else None


def build_qonnx(program: IntegerProgram, *, dyadic: bool) -> Any:
    """Return the ModelProto of a program, batch 1; inputs and outputs keep the program's order.

    Raises:
        ProofError: A tensor may leave its declared type.
        MissingDependencyError: The package onnx is absent.
    """
    return _Emitter(program, dyadic=dyadic).model()


class _Emitter:
    """Turns the nodes of a program into QONNX nodes, in order."""

    def __init__(self, program: IntegerProgram, *, dyadic: bool) -> None:
        self.program, self.graph, self.dyadic = program, program.graph, dyadic
        self.bounds = prove(program)
        self.onnx = OnnxBuilder(_OPSET)
        self.values: dict[str, str] = {}

    def model(self) -> Any:
        for name in self.graph.inputs:
            self.values[name] = self.onnx.input(name, np.float32, self.graph.tensors[name].shape, batch=1)
        for node in self.graph.nodes:
            self.values[node.output] = _EMIT[node.op](self, node)
        for name in self.graph.outputs:
            self.onnx.output(self.values[name], np.float32, self.graph.tensors[name].shape, batch=1)
        return self.onnx.model("dyadiq", {}, full_check=False)

    # -- small pieces ------------------------------------------------------------------------------

    def scale(self, tensor: str) -> Floats:
        """Return the value of one step of a tensor in this mode, ``[]`` or ``[C]``."""
        info = self.graph.tensors[tensor]
        return np.asarray(1.0 if self.dyadic or info.scale is None else info.scale, dtype=np.float64)

    def rank(self, tensor: str) -> int:
        return len(self.graph.tensors[tensor].shape) + 1

    def constant(self, values: Any) -> str:
        return self.onnx.constant(values, np.float32)

    def shaped(self, values: Any, rank: int, axis: int = 1) -> Floats:
        """Return constants ``[C]`` with the rank of the tensor they act on; a single one becomes a scalar."""
        array = np.asarray(values, dtype=np.float64)
        if array.size == 1 or (array == array.flat[0]).all():
            return array.flat[0] * np.ones(())
        return array.reshape([-1 if i == axis else 1 for i in range(rank)])

    def quant(self, x: str, scale: Any, qtype: QType, hint: str, rounding: str = "FLOOR") -> str:
        """Emit Quant or BipolarQuant; ``scale`` has the rank of x or is a scalar."""
        if qtype.bipolar:
            return self.onnx.node("BipolarQuant", [x, self.constant(scale)], hint=hint, domain=_DOMAIN)
        bits = quant_range(qtype).bits
        params = [self.constant(v) for v in (scale, 0.0, float(bits))]
        return self.onnx.node(
            "Quant",
            [x, *params],
            hint=hint,
            domain=_DOMAIN,
            signed=int(qtype.signed),
            narrow=int(qtype.narrow),
            rounding_mode=rounding,
        )

    def quant_constant(self, codes: Any, scale: Any, hint: str, qtype: QType | None = None) -> str:
        """Emit a constant ``codes * scale`` behind a Quant that says its type, by default the narrowest."""
        codes = np.asarray(codes, dtype=np.int64)
        qtype = qtype or bits_for_range(int(codes.min()), int(codes.max()))
        return self.quant(self.constant(codes * scale), scale, qtype, hint, "ROUND")

    # -- operators ---------------------------------------------------------------------------------

    def quantize(self, node: Node) -> str:
        x, info, hint = self.values[node.inputs[0]], self.graph.tensors[node.output], node.name
        assert info.qtype is not None
        if info.qtype.bipolar:
            return self.quant(x, self.scale(node.output), info.qtype, hint)
        step = float(self.graph.params[node.inputs[1]])
        if self.dyadic:
            x = self.onnx.node("Div", [x, self.constant(step)], hint=hint)
        half = 0.5 + info.zero_point if self.dyadic else step / 2
        grid = input_grid(self.graph, node)
        if grid is not None:
            return self.quantize_channels(x, grid, info, 1.0 if self.dyadic else step, hint)
        x = self.onnx.node("Add", [x, self.constant(half)], hint=hint)
        return self.quant(x, self.scale(node.output), info.qtype, hint)

    def quantize_channels(self, x: str, grid: ChannelGrid, info: TensorInfo, step: float, hint: str) -> str:
        """Clip each channel to the ends of its grid, then floor to its steps: the ends are multiples of them."""
        assert info.qtype is not None
        rank = len(info.shape) + 1
        steps, low, high = (np.ldexp(v * step, grid.shift) for v in (np.ones(len(grid.low)), grid.low, grid.high))
        for op, values in (("Add", steps / 2), ("Max", low), ("Min", high)):
            x = self.onnx.node(op, [x, self.constant(self.shaped(values, rank))], hint=hint)
        return self.quant(x, self.shaped(steps, rank), info.qtype, hint)

    def dot_product(self, node: Node) -> str:
        x, rank, conv = self.values[node.inputs[0]], self.rank(node.output), node.op == "conv2d"
        weight, acc_scale = effective_weight(self.graph, node), self.scale(node.output)
        w_scale = acc_scale / self.scale(node.inputs[0])
        qtype = None if len(node.inputs) > 3 else self.graph.param_types.get(node.inputs[1])
        if not conv:
            weight = weight.T
        w = self.quant_constant(weight, self.shaped(w_scale, rank, 0 if conv else 1), f"{node.name}/weight", qtype)
        bias = np.asarray(self.graph.params[node.inputs[2]], dtype=np.int64) + self.folded_half(node.output)
        scale = np.broadcast_to(acc_scale, bias.shape)
        steps = self.quant_constant(bias, self.shaped(scale, 1, 0), f"{node.name}/bias") if bias.any() else None
        if conv:
            return self.conv(node, [x, w] + ([steps] if steps else []), weight.shape[2:], node.attrs["groups"])
        total = self.onnx.node("MatMul", [x, w], hint=node.name)
        return self.onnx.node("Add", [total, steps], hint=node.name) if steps else total

    def conv(self, node: Node, inputs: list[str], kernel: tuple[int, ...], groups: int) -> str:
        a = node.attrs
        (ph, pw), x = a["padding"], inputs[0]
        if a["pad_value"] and (ph or pw):
            amounts = self.onnx.constant([0, 0, ph, pw, 0, 0, ph, pw], np.int64)
            x = self.onnx.node("Pad", [x, amounts, self.constant(float(a["pad_value"]))], hint=node.name)
            ph = pw = 0
        return self.onnx.node(
            "Conv",
            [x, *inputs[1:]],
            hint=node.name,
            kernel_shape=list(kernel),
            strides=list(a["stride"]),
            pads=[ph, pw, ph, pw],
            dilations=list(a.get("dilation", (1, 1))),
            group=groups,
        )

    def folded_half(self, tensor: str) -> NDArray[np.int64]:
        """Return half an output step in accumulator steps if the one reader is a requantize (mode pow2), else 0."""
        readers = self.graph.consumers(tensor)
        if self.dyadic or len(readers) != 1 or readers[0].op != "requantize" or tensor in self.graph.outputs:
            return np.zeros((), dtype=np.int64)
        return rounding_steps(self.graph.params, readers[0])

    def is_folded(self, node: Node) -> bool:
        """Whether the half step of a requantize already sits in the bias of the layer before it."""
        producer = self.graph.producer(node.inputs[0])
        return (
            not self.dyadic
            and producer is not None
            and producer.op in _DOT_PRODUCTS
            and len(self.graph.consumers(node.inputs[0])) == 1
            and node.inputs[0] not in self.graph.outputs
        )

    def requantize(self, node: Node) -> str:
        x, rank, hint = self.values[node.inputs[0]], self.rank(node.output), node.name
        multiplier, shift = (np.asarray(self.graph.params[i], dtype=np.int64) for i in node.inputs[1:3])
        bound = self.bounds[node.inputs[0]]
        rounding = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
        low = int(((bound.low * multiplier + rounding) >> shift).min())
        high = int(((bound.high * multiplier + rounding) >> shift).max())
        if self.dyadic:
            step = self.shaped(2.0**-shift, rank)
            codes = np.broadcast_to(multiplier, np.broadcast_shapes(multiplier.shape, shift.shape))
            shaped = codes.reshape(1, -1, *([1] * (rank - 2))) if codes.size > 1 else codes.reshape(())
            x = self.onnx.node("Mul", [x, self.quant_constant(shaped, step, f"{hint}/multiplier")], hint=hint)
            half = np.where(shift > 0, 0.5, 0.0)
            if half.any():
                x = self.onnx.node("Add", [x, self.constant(self.shaped(half, rank))], hint=hint)
            zero_point = node.attrs["zero_point"]
            if zero_point:  # floor first: the zero point is added to an integer, which stays exact
                x = self.quant(x, 1.0, bits_for_range(min(low, 0), max(high, 0)), hint)
        elif not self.is_folded(node):
            half_steps = rounding_steps(self.graph.params, node)
            if half_steps.any():
                halves = self.shaped(half_steps * self.scale(node.inputs[0]), rank)
                x = self.onnx.node("Add", [x, self.constant(halves)], hint=hint)
        return self.saturate(x, node, low, high)

    def clip(self, node: Node) -> str:
        bound = self.bounds[node.inputs[0]]
        return self.saturate(self.values[node.inputs[0]], node, int(bound.low.min()), int(bound.high.max()))

    def saturate(self, x: str, node: Node, low: int, high: int) -> str:
        """Add the zero point, clip as the node says where Quant would not, and Quant to the output type."""
        qtype, a = self.graph.tensors[node.output].qtype, node.attrs
        assert qtype is not None
        if a["zero_point"]:
            x = self.onnx.node("Add", [x, self.constant(float(a["zero_point"]))], hint=node.name)
        scale = self.scale(node.output)
        own, clip = quant_range(qtype), (a["clip_min"], a["clip_max"])
        bottom, top = low + a["zero_point"] < clip[0], high + a["zero_point"] > clip[1]  # does it bite at all?
        bottom, top = bottom and own.qmin != clip[0], top and own.qmax != clip[1]
        if not qtype.bipolar and (bottom or top):
            if clip[0] == 0 and not top:
                x = self.onnx.node("Relu", [x], hint=node.name)
            else:
                limits = [self.constant(v * scale) for v in clip]
                x = self.onnx.node("Clip", [x, *limits], hint=node.name)
        return self.quant(x, scale, qtype, node.name)

    def distinct(self, node: Node) -> list[str]:
        """Return the inputs of a join; one read twice gets an Identity, which qonnx needs to rename tensors."""
        names: list[str] = []
        for i in node.inputs:
            value = self.values[i]
            names.append(self.onnx.node("Identity", [value], hint=node.name) if value in names else value)
        return names

    def add(self, node: Node) -> str:
        total, *others = self.distinct(node)
        for other in others:
            total = self.onnx.node("Add", [total, other], hint=node.name)
        return total

    def concat(self, node: Node) -> str:
        return self.onnx.node("Concat", self.distinct(node), hint=node.name, axis=1)

    def pad(self, node: Node) -> str:
        amounts = self.onnx.constant([0, *node.attrs["before"], 0, *node.attrs["after"]], np.int64)
        value = self.constant(node.attrs["pad_value"] * self.scale(node.output))
        return self.onnx.node("Pad", [self.values[node.inputs[0]], amounts, value], hint=node.name)

    def flatten(self, node: Node) -> str:
        return self.onnx.node("Flatten", [self.values[node.inputs[0]]], hint=node.name, axis=1)

    def max_pool2d(self, node: Node) -> str:
        pads, _ = pool_window(self.graph, node)
        a = node.attrs
        return self.onnx.node(
            "MaxPool",
            [self.values[node.inputs[0]]],
            hint=node.name,
            kernel_shape=list(a["kernel"]),
            strides=list(a["stride"]),
            dilations=list(a["dilation"]),
            pads=pads,
        )

    def sum_pool2d(self, node: Node) -> str:
        """AveragePool where the output step is 1/count of the input step (pow2), else a depthwise Conv of ones."""
        a, x = node.attrs, self.values[node.inputs[0]]
        ratio = float(self.scale(node.output) / self.scale(node.inputs[0]))
        if ratio * a["kernel"][0] * a["kernel"][1] == 1.0 and not self.dyadic and len(node.inputs) == 2:
            (ph, pw), kernel = a["padding"], list(a["kernel"])
            return self.onnx.node(
                "AveragePool",
                [x],
                hint=node.name,
                kernel_shape=kernel,
                strides=list(a["stride"]),
                pads=[ph, pw, ph, pw],
                count_include_pad=1,
            )
        channels = self.graph.tensors[node.inputs[0]].shape[0]
        ones = np.ones((channels, 1, *a["kernel"]), dtype=np.int64)
        w = self.quant_constant(ones, ratio, f"{node.name}/ones")
        total = self.conv(node, [x, w], tuple(a["kernel"]), channels)
        bias = int(self.graph.params[node.inputs[1]])
        total = self.onnx.node("Add", [total, self.constant(float(bias))], hint=node.name) if bias else total
        if len(node.inputs) == 2:
            return total
        return self.onnx.node("Mul", [total, self.constant(self.graph.params[node.inputs[2]])], hint=node.name)


def quant_range(qtype: QType) -> QType:
    """Return the type that a Quant node can have: at 1 signed bit the executor means bipolar, so it gets 2."""
    return QType(2, signed=True) if qtype.signed and qtype.bits == 1 and not qtype.bipolar else qtype


def rounding_steps(params: Mapping[str, Any], node: Node) -> NDArray[np.int64]:
    """Return half an output step of a power-of-two requantize in steps of its input: ``2^(e-k-1)`` for ``m = 2^k``."""
    multiplier, shift = (np.asarray(params[i], dtype=np.int64) for i in node.inputs[1:3])
    exponent = as_pow2(multiplier)
    assert exponent is not None
    net = shift - exponent
    return np.where(net > 0, np.int64(1) << np.maximum(net - 1, 0), 0)


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
    "pad": _Emitter.pad,
    "flatten": _Emitter.flatten,
}
