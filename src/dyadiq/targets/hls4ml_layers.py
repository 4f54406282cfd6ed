"""Translates an integer program into hls4ml layers, every type of every layer given.

Used by `hls4ml` only; imports no hls4ml: it makes the list of layer dictionaries that all of hls4ml's front ends make
(`ModelGraph.from_layer_list`) and the per-layer configuration. Layers keep the program's names.

A value in hls4ml is ``code * 2^e`` with one exponent ``e`` per tensor, so that its fixed-point type holds it exactly:

    pow2    e is log2 of the tensor's scale; a requantize moves the binary point and is one cast
    dyadic  e is 0 (averages over 2^k values: -k); a requantize is ApplyAlpha by the constant m / 2^s, then one cast

Casts round with AP_RND, which is half towards plus infinity, and saturate with AP_SAT or AP_SAT_SYM, as the program does.
Accumulators get the bits of the proof (`ir.proof`, `Bound.partial`), products never overflow them. hls4ml is channels
last: convolution weights are transposed, the weights of the linear after a flatten are reordered, and outputs that end
in another order say so in `Layers.orders`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.qtype import MAX_BITS, QType, bits_for_range
from dyadiq.ir.graph import Node
from dyadiq.ir.integer import IntegerProgram, effective_weight
from dyadiq.ir.proof import Bound, prove
from dyadiq.targets.base import Problems
from dyadiq.targets.qonnx import pow2_obstacles
from dyadiq.targets.qonnx_graph import as_pow2

__all__ = ["Fixed", "Layers", "build_layers", "find_inexact"]

_PORT_BITS = 53  # ports are read and written as float64 by the C simulation
_SIGNED_BIT = QType(2, signed=True)


@dataclass(frozen=True, slots=True)
class Fixed:
    """A fixed-point type: codes of ``qtype`` times ``2^exponent``.

    Example:
        >>> str(Fixed(QType(8, signed=False), -4)), str(Fixed(QType(8, signed=True, narrow=True), 0, saturates=True))
        ('ufixed<8,4>', 'fixed<8,8,RND,SAT_SYM>')
    """

    qtype: QType
    exponent: int
    saturates: bool = False

    def __str__(self) -> str:
        """Spell it as hls4ml does; the second number counts integer bits, sign included."""
        width, signed = self.qtype.bits, self.qtype.signed
        if signed and width == 1:
            width = 2  # bipolar values, and fixed<1,...> has no +1
        end = ",RND,SAT" + ("_SYM" if self.qtype.narrow else "") if self.saturates else ""
        return f"{'' if signed else 'u'}fixed<{width},{width + self.exponent}{end}>"


@dataclass
class Layers:
    """What hls4ml is given, and what is needed to read its answers.

    Attributes:
        layers: Layer dictionaries in topological order.
        config: ``Precision``, ``Strategy`` and ``ReuseFactor`` by layer name.
        inputs: hls4ml layer name of every program input, in the program's order.
        outputs: hls4ml layer name of every program output, in the program's order.
        exponents: Exponent of every program input's and output's values.
        orders: For flat outputs that hls4ml holds in another order: position in hls4ml to index in the program.
        accumulators: Bits of the accumulator of every layer that has one.
    """

    layers: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, dict[str, Any]] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    exponents: dict[str, int] = field(default_factory=dict)
    orders: dict[str, list[int]] = field(default_factory=dict)
    accumulators: dict[str, int] = field(default_factory=dict)


def find_inexact(program: IntegerProgram) -> Problems:
    """Return every node that hls4ml cannot compute exactly, each with the reason and a way out."""
    graph, problems, bounds = program.graph, Problems("hls4ml"), prove(program)
    for node in graph.nodes:
        info, attrs = graph.tensors[node.output], node.attrs
        assert info.qtype is not None
        if info.zero_point or attrs.get("zero_point") or attrs.get("pad_value"):
            problems.add(node, "zero point is not 0; hls4ml pads and saturates around 0. Use symmetric activations")
        if info.qtype.bipolar:
            problems.add(node, "bipolar activations; hls4ml's sign layer is not compared yet. Use 2 bits")
        if node.op == "conv2d":
            _check_conv(problems, node, graph.tensors[node.inputs[0]].shape[0])
        if node.op == "max_pool2d":
            _check_pool(problems, node, graph.tensors[node.inputs[0]].shape[1:], info.shape[1:])
        if node.op == "sum_pool2d" and int(graph.params[node.inputs[1]]):
            problems.add(node, "bias of the pool is not 0 (asymmetric input). Use symmetric activations")
        if node.op in ("requantize", "clip") and not info.qtype.bipolar and _cast_type(program, node, bounds) is None:
            low, high = attrs["clip_min"], attrs["clip_max"]
            problems.add(
                node, f"clips to [{low}, {high}], where no fixed-point type saturates. Use full or narrow types"
            )
        if node.op in ("quantize", "requantize") or node.output in graph.outputs:
            bits = info.qtype.bits
            if bits > _PORT_BITS:
                problems.add(node, f"a port of {bits} bits; the C simulation's float64 carries {_PORT_BITS}")
    return problems


def _check_conv(problems: Problems, node: Node, channels: int) -> None:
    attrs = node.attrs
    if attrs["groups"] not in (1, channels):
        problems.add(
            node, f"groups={attrs['groups']}; hls4ml has dense (1) and depthwise ({channels}) convolutions only"
        )
    if attrs["dilation"][0] != 1 or attrs["dilation"][1] != 1:
        problems.add(node, "dilation is not 1, which hls4ml ignores in io_parallel. Use dilation 1")


def _check_pool(problems: Problems, node: Node, size: tuple[int, ...], out: tuple[int, ...]) -> None:
    attrs = node.attrs
    if any(attrs["padding"]):
        problems.add(
            node, "padded max pooling: hls4ml pads unsigned values with the largest one. Pad in the convolution"
        )
    if any(d != 1 for d in attrs["dilation"]):
        problems.add(node, "dilated max pooling, which hls4ml does not have")
    reach = [(o - 1) * s + k for o, s, k in zip(out, attrs["stride"], attrs["kernel"], strict=True)]
    if any(r > n for r, n in zip(reach, size, strict=True)):
        problems.add(node, "ceil_mode reaches beyond the input. Use ceil_mode=False")


def _cast_type(program: IntegerProgram, node: Node, bounds: Mapping[str, Bound]) -> QType | None:
    """Return the type whose saturation is the node's clipping, or None; an end that never bites is free."""
    graph, source = program.graph, bounds[node.inputs[0]]
    low, high = source.low, source.high
    if node.op == "requantize":
        multiplier, shift = (np.asarray(graph.params[i], dtype=np.int64) for i in node.inputs[1:3])
        rounding = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
        low, high = (((v * multiplier + rounding) >> shift) for v in (low, high))
    least, most = int(low.min()), int(high.max())
    bottom, top = node.attrs["clip_min"], node.attrs["clip_max"]
    for width in range(1, MAX_BITS + 1):
        kinds = [(width, False, False)] + ([(width, True, False), (width, True, True)] if width > 1 else [])
        for bits, signed, narrow in kinds:
            qtype = QType(bits, signed=signed, narrow=narrow)
            if (qtype.qmin == bottom or qtype.qmin <= least >= bottom) and (
                qtype.qmax == top or qtype.qmax >= most <= top
            ):
                return qtype
    return None


def build_layers(program: IntegerProgram, strategy: str = "latency", reuse_factor: int = 1) -> Layers:
    """Return the layers of a program that `find_inexact` has nothing against.

    Raises:
        ProofError: A tensor may leave its declared type.
    """
    return _Emitter(program, strategy, reuse_factor).run()


def _clean(name: str) -> str:
    text = re.sub(r"\W", "_", name)
    return f"l_{text}" if text[:1].isdigit() or not text else text


class _Emitter:
    """Emits layers node by node."""

    def __init__(self, program: IntegerProgram, strategy: str, reuse_factor: int) -> None:
        self.program, self.graph = program, program.graph
        self.strategy, self.reuse = strategy, reuse_factor
        self.bounds = prove(program)
        self.pow2 = not pow2_obstacles(program)
        self.out = Layers()
        self.at: dict[str, str] = {}  # program tensor to hls4ml layer
        self.exponent: dict[str, int] = {}
        self.order: dict[str, NDArray[np.int64]] = {}
        self.taken: set[str] = set()

    def run(self) -> Layers:
        for node in self.graph.nodes:
            _EMIT[node.op](self, node)
        for name in self.graph.outputs:
            self.out.outputs.append(self.at[name])
            self.out.exponents[name] = self.exponent[name]
            if name in self.order:
                self.out.orders[name] = self.order[name].tolist()
        return self.out

    # -- small pieces ------------------------------------------------------------------------------

    def layer(self, kind: str, hint: str, inputs: list[str], precision: Mapping[str, Fixed], **attrs: Any) -> str:
        """Add a layer with all its types and return its name."""
        name = base = _clean(hint)
        while name in self.taken:
            name = f"{base}_{len(self.taken)}"
        self.taken.add(name)
        made = {"name": name, "class_name": kind, "inputs": list(inputs), "outputs": [name], **attrs}
        if kind == "InputLayer":
            del made["inputs"], made["outputs"]
        self.out.layers.append(made)
        # Distributed arithmetic exists for dense and plain convolution layers; the rest is wires and adders anyway.
        strategy = self.strategy
        if strategy == "distributed_arithmetic" and kind not in ("Dense", "Conv2D"):
            strategy = "latency"
        self.out.config[name] = {
            "Precision": {key: str(value) for key, value in precision.items()},
            "ReuseFactor": self.reuse,
            "Strategy": strategy.capitalize() if strategy != "distributed_arithmetic" else strategy,
        }
        return name

    def scale_exponent(self, tensor: str) -> NDArray[np.int64]:
        """Return log2 of the scale of a tensor, ``[]`` or ``[C]`` (mode pow2)."""
        exponents = as_pow2(self.graph.tensors[tensor].scale)
        assert exponents is not None
        return exponents

    def exact_type(self, tensor: str, exponent: int) -> Fixed:
        """Return the narrowest type for everything a tensor may hold, by proof."""
        bound = self.bounds[tensor]
        return Fixed(bits_for_range(int(bound.low.min()), int(bound.high.max())), exponent)

    def put(self, node: Node, layer: str, exponent: int, order: NDArray[np.int64] | None = None) -> None:
        self.at[node.output], self.exponent[node.output] = layer, exponent
        if order is not None:
            self.order[node.output] = order

    def channels_last(self, tensor: str) -> list[int]:
        shape = self.graph.tensors[tensor].shape
        return [*shape[1:], shape[0]]

    # -- operators ---------------------------------------------------------------------------------

    def quantize(self, node: Node) -> None:
        """The port itself: it takes codes, the float64 quantizer of the program runs before it."""
        source, info = node.inputs[0], self.graph.tensors[node.output]
        assert info.qtype is not None
        exponent = int(self.scale_exponent(node.output)) if self.pow2 else 0
        shape = self.channels_last(node.output)
        port = {"result": Fixed(info.qtype, exponent)}
        name = self.layer("InputLayer", f"{source}_codes", [], port, input_shape=shape)
        self.out.inputs.append(name)
        self.out.exponents[source] = exponent
        self.put(node, name, exponent)

    def dot_product(self, node: Node) -> None:
        source = node.inputs[0]
        weight, bias = effective_weight(self.graph, node), np.asarray(self.graph.params[node.inputs[2]], dtype=np.int64)
        e_in = self.exponent[source]
        shifts = np.zeros(len(weight), dtype=np.int64)
        e_weight = 0
        if self.pow2:  # per-channel scales become shifted weights with one common step
            e_channel = np.broadcast_to(self.scale_exponent(node.output), len(weight)) - e_in
            e_weight = int(e_channel.min())
            shifts = e_channel - e_weight
        weight = weight << shifts.reshape(-1, *([1] * (weight.ndim - 1)))
        bias = bias << shifts
        e_acc = e_in + e_weight
        partial = int((self.bounds[node.output].partial << shifts).max())
        low, high = ((b << shifts) for b in (self.bounds[node.output].low, self.bounds[node.output].high))
        accum = Fixed(bits_for_range(-partial - 1, partial), e_acc)
        types = {
            "weight": Fixed(self.weight_type(node, weight, bool(shifts.any())), e_weight),
            "bias": Fixed(bits_for_range(int(bias.min()), int(bias.max())), e_acc),
            "accum": accum,
            "result": Fixed(bits_for_range(int(low.min()), int(high.max())), e_acc),
        }
        real = {"bias_data": np.ldexp(bias.astype(np.float64), e_acc), "use_bias": True}
        values = np.ldexp(weight.astype(np.float64), e_weight)
        if node.op == "linear":
            if source in self.order:
                values = values[:, self.order[source]]
            n_out, n_in = values.shape
            name = self.layer(
                "Dense", node.name, [self.at[source]], types, n_in=n_in, n_out=n_out,
                weight_data=np.ascontiguousarray(values.T), **real,
            )  # fmt: skip
        else:
            name = self.conv(node, values, types, real)
        self.out.accumulators[name] = accum.qtype.bits
        self.put(node, name, e_acc)

    def weight_type(self, node: Node, weight: NDArray[np.int64], shifted: bool) -> QType:
        declared = None if shifted or len(node.inputs) > 3 else self.graph.param_types.get(node.inputs[1])
        if declared is not None:
            return _SIGNED_BIT if declared.bipolar else QType(declared.bits, signed=declared.signed)
        return bits_for_range(int(weight.min()), int(weight.max()))

    def conv(self, node: Node, values: NDArray[np.float64], types: dict[str, Fixed], real: dict[str, Any]) -> str:
        attrs = node.attrs
        depthwise = attrs["groups"] > 1
        in_shape, out_shape = (self.graph.tensors[t].shape for t in (node.inputs[0], node.output))
        kernel = np.transpose(values, (2, 3, 1, 0))  # [KH, KW, I, O]
        if depthwise:
            types = {("depthwise" if k == "weight" else k): v for k, v in types.items()}
            multiplier = out_shape[0] // in_shape[0]
            # [KH, KW, 1, C * M] to [KH, KW, C, M]
            kernel = values[:, 0].transpose(1, 2, 0).reshape(*values.shape[2:], in_shape[0], multiplier)
            real = {**real, "depthwise_data": np.ascontiguousarray(kernel), "depth_multiplier": multiplier}
        else:
            real = {**real, "weight_data": np.ascontiguousarray(kernel)}
        (ph, pw), (sh, sw) = attrs["padding"], attrs["stride"]
        return self.layer(
            "DepthwiseConv2D" if depthwise else "Conv2D", node.name, [self.at[node.inputs[0]]], types,
            **_window(in_shape, out_shape, values.shape[2:], (sh, sw), (ph, pw)),
            n_chan=in_shape[0], n_filt=out_shape[0], filt_height=values.shape[2], filt_width=values.shape[3],
            dilation_height=1, dilation_width=1, data_format="channels_last", padding="same" if ph or pw else "valid",
            **real,
        )  # fmt: skip

    def requantize(self, node: Node) -> None:
        source = node.inputs[0]
        x, e_in = self.at[source], self.exponent[source]
        multiplier, shift = (np.asarray(self.graph.params[i], dtype=np.int64) for i in node.inputs[1:3])
        if self.pow2:
            e_out = int(self.scale_exponent(node.output))
        else:
            e_out = 0
            x = self.scaled(node, x, multiplier, shift, e_in)
        self.cast(node, x, e_out)

    def scaled(self, node: Node, x: str, m: NDArray[np.int64], shift: NDArray[np.int64], e_in: int) -> str:
        """Add the exact product with ``m / 2^shift`` per channel."""
        source = node.inputs[0]
        top = int(shift.max())
        codes = np.broadcast_to(m, np.broadcast_shapes(m.shape, shift.shape)) << (top - shift)
        bound = self.bounds[source]
        product = np.stack([bound.low * codes, bound.high * codes])
        exponent = -top - e_in  # of the constant, so that the value is code * m / 2^shift
        step = e_in + exponent
        types = {
            "scale": Fixed(bits_for_range(0, int(codes.max())), exponent),
            "bias": Fixed(QType(1, signed=False), 0),
            "result": Fixed(bits_for_range(int(product.min()), int(product.max())), step),
        }
        shape = self.graph.tensors[source].shape
        flat = len(shape) == 1
        channels = np.broadcast_to(np.ldexp(codes.astype(np.float64), exponent), shape[0])
        if source in self.order:
            channels = channels[self.order[source]]
        return self.layer(
            "ApplyAlpha", f"{node.name}_scale", [x], types, n_in=int(np.prod(shape)), n_filt=-1 if flat else shape[0],
            scale_data=np.ascontiguousarray(channels), bias_data=np.zeros(shape[0]),
        )  # fmt: skip

    def clip(self, node: Node) -> None:
        self.cast(node, self.at[node.inputs[0]], self.exponent[node.inputs[0]])

    def cast(self, node: Node, x: str, exponent: int) -> None:
        qtype = _cast_type(self.program, node, self.bounds)
        assert qtype is not None
        types = {"result": Fixed(qtype, exponent, saturates=True)}
        n_in = int(np.prod(self.graph.tensors[node.output].shape))
        name = self.layer("Activation", node.name, [x], types, activation="linear", n_in=n_in)
        self.put(node, name, exponent, self.order.get(node.inputs[0]))

    def add(self, node: Node) -> None:
        total = self.at[node.inputs[0]]
        exponent = self.exponent[node.inputs[0]]
        low, high = self.bounds[node.inputs[0]].low, self.bounds[node.inputs[0]].high
        for i, other in enumerate(node.inputs[1:]):
            low, high = low + self.bounds[other].low, high + self.bounds[other].high
            types = {"result": Fixed(bits_for_range(int(low.min()), int(high.max())), exponent)}
            hint = node.name if i == len(node.inputs) - 2 else f"{node.name}_part"
            total = self.layer("Merge", hint, [total, self.at[other]], types, op="add")
        self.put(node, total, exponent, self.order.get(node.inputs[0]))

    def concat(self, node: Node) -> None:
        total, exponent = self.at[node.inputs[0]], self.exponent[node.inputs[0]]
        rank = len(self.graph.tensors[node.output].shape)
        types = {"result": self.exact_type(node.output, exponent)}
        for i, other in enumerate(node.inputs[1:]):
            hint = node.name if i == len(node.inputs) - 2 else f"{node.name}_part"
            attrs = {"axis": rank, "op": f"concatenate{rank}d"}
            total = self.layer("Concatenate", hint, [total, self.at[other]], types, **attrs)
        order = None
        if any(i in self.order for i in node.inputs):
            sizes = [self.graph.tensors[i].shape[0] for i in node.inputs]
            starts = np.cumsum([0, *sizes[:-1]])
            parts = [self.order.get(i, np.arange(n)) + s for i, n, s in zip(node.inputs, sizes, starts, strict=True)]
            order = np.concatenate(parts)
        self.put(node, total, exponent, order)

    def flatten(self, node: Node) -> None:
        source = node.inputs[0]
        shape = self.graph.tensors[source].shape
        types = {"result": self.exact_type(node.output, self.exponent[source])}
        name = self.layer("Reshape", node.name, [self.at[source]], types, target_shape=[int(np.prod(shape))])
        order = self.order.get(source)
        if len(shape) > 1:
            order = np.arange(np.prod(shape)).reshape(shape).transpose(*range(1, len(shape)), 0).ravel()
        self.put(node, name, self.exponent[source], order)

    def max_pool2d(self, node: Node) -> None:
        same = self.exact_type(node.output, self.exponent[node.inputs[0]])
        self.pool(node, "MaxPooling2D", {"accum": same, "result": same}, self.exponent[node.inputs[0]])

    def sum_pool2d(self, node: Node) -> None:
        """An average where it is one by a power of two, else a depthwise convolution with ones."""
        source, kernel = node.inputs[0], node.attrs["kernel"]
        count, e_in = kernel[0] * kernel[1], self.exponent[source]
        halvings = count.bit_length() - 1
        e_out = int(self.scale_exponent(node.output)) if self.pow2 else e_in - halvings
        bound = self.bounds[node.output]
        rescaled = all(
            n.op == "requantize" for n in self.graph.consumers(node.output)
        )  # not added to sums of another step
        plain = not any(node.attrs["padding"]) and (self.pow2 or rescaled)
        if count == 1 << halvings and e_out == e_in - halvings and plain:
            # hls4ml sums, then divides; the sum needs its own integer bits and the quotient its fraction bits
            widest = bits_for_range(int(bound.low.min()) * count, int(bound.high.max()) * count)
            types = {"accum": Fixed(widest, e_out), "result": self.exact_type(node.output, e_out)}
            self.pool(node, "AveragePooling2D", types, e_out)
            return
        e_out = e_out if self.pow2 else e_in
        channels = self.graph.tensors[source].shape[0]
        ones = np.ldexp(np.ones((channels, 1, *kernel)), e_out - e_in)
        partial = int(bound.partial.max())
        accum = Fixed(bits_for_range(-partial - 1, partial), e_out)
        types = {
            "weight": Fixed(QType(1, signed=False), e_out - e_in),
            "bias": Fixed(QType(1, signed=False), e_out),
            "accum": accum,
            "result": self.exact_type(node.output, e_out),
        }
        as_conv = Node(node.name, "conv2d", node.inputs, node.output, {**node.attrs, "groups": channels})
        name = self.conv(as_conv, ones, types, {"bias_data": np.zeros(channels), "use_bias": False})
        self.out.accumulators[name] = accum.qtype.bits
        self.put(node, name, e_out)

    def pool(self, node: Node, kind: str, types: Mapping[str, Fixed], exponent: int) -> None:
        attrs = node.attrs
        in_shape, out_shape = (self.graph.tensors[t].shape for t in (node.inputs[0], node.output))
        name = self.layer(
            kind, node.name, [self.at[node.inputs[0]]], types,
            **_window(in_shape, out_shape, attrs["kernel"], attrs["stride"], attrs["padding"]),
            n_filt=out_shape[0], pool_height=attrs["kernel"][0], pool_width=attrs["kernel"][1],
            filt_height=attrs["kernel"][0], filt_width=attrs["kernel"][1], data_format="channels_last",
            padding="valid", count_pad=True,
        )  # fmt: skip
        self.put(node, name, exponent)


def _window(
    in_shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
) -> dict[str, int]:
    """Return the sizes that hls4ml wants of a sliding window; end pads reach as far as the last window does."""
    sizes: dict[str, int] = {}
    sides = (("height", "top", "bottom"), ("width", "left", "right"))
    for i, (side, begin, end) in enumerate(sides):
        reach = (out_shape[i + 1] - 1) * stride[i] + kernel[i]
        sizes |= {f"in_{side}": in_shape[i + 1], f"out_{side}": out_shape[i + 1], f"stride_{side}": stride[i]}
        sizes |= {f"pad_{begin}": padding[i], f"pad_{end}": max(0, reach - in_shape[i + 1] - padding[i])}
    return sizes


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
    "flatten": _Emitter.flatten,
}
