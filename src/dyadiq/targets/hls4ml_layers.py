"""Translates an integer program into hls4ml layers, every type of every layer given.

Used by `hls4ml` only; imports no hls4ml: it makes the list of layer dictionaries that all of hls4ml's front ends make
(`ModelGraph.from_layer_list`) and the per-layer configuration. Layers keep the program's names.

A value in hls4ml is ``code * 2^e`` with one exponent ``e`` per tensor, so that its fixed-point type holds it exactly:

    pow2    e is log2 of the tensor's scale; a requantize moves the binary point and is one cast
    dyadic  e is 0 (averages over 2^k values: -k); a requantize is ApplyAlpha by the constant m / 2^s, then one cast

Casts round with AP_RND, half towards plus infinity, and saturate with AP_SAT or AP_SAT_SYM, as the program does.
Accumulators get the bits of the proof (`ir.proof`, `Bound.partial`); products never overflow them. hls4ml is channels
last: convolution weights are transposed, the weights of the linear after a flatten are reordered, and outputs that end
in another order say so in `Layers.orders`. Convolutions in groups become dense ones with zeros where there is no layer
for them: a constant zero costs nothing in hardware.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.qtype import QType, bits_for_range
from dyadiq.ir.graph import Node
from dyadiq.ir.integer import IntegerProgram, effective_weight
from dyadiq.ir.proof import prove
from dyadiq.targets.hls4ml_model import Layers
from dyadiq.targets.hls4ml_types import PAD_SIDES, Fixed, cast_type, clean_name, dense_kernel, window
from dyadiq.targets.qonnx import pow2_obstacles
from dyadiq.targets.qonnx_graph import as_pow2

__all__ = ["build_layers"]

_SIGNED_BIT = QType(2, signed=True)


def build_layers(
    program: IntegerProgram, strategy: str, reuse_factor: int, *, depthwise: bool, average: bool
) -> Layers:
    """Return the layers of a program that `find_inexact` has nothing against.

    Args:
        program: The program.
        strategy: hls4ml's strategy for layers with weights.
        reuse_factor: Likewise.
        depthwise: Whether the backend and strategy have a depthwise convolution.
        average: Whether the backend and io_type have an exact average pooling.

    Raises:
        ProofError: A tensor may leave its declared type.
    """
    return _Emitter(program, strategy, reuse_factor, depthwise=depthwise, average=average).run()


class _Emitter:
    """Emits layers node by node."""

    def __init__(
        self, program: IntegerProgram, strategy: str, reuse_factor: int, *, depthwise: bool, average: bool
    ) -> None:
        self.program, self.graph = program, program.graph
        self.depthwise, self.average = depthwise, average
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
        name = base = clean_name(hint)
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
        low, high = self.bounds[node.output].low << shifts, self.bounds[node.output].high << shifts
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
        attrs, groups = node.attrs, node.attrs["groups"]
        in_shape, out_shape = (self.graph.tensors[t].shape for t in (node.inputs[0], node.output))
        depthwise = self.depthwise and groups == in_shape[0] and groups > 1
        if groups > 1 and not depthwise:
            values = dense_kernel(values, groups)
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
            **window(in_shape, out_shape, values.shape[2:], (sh, sw), (ph, pw)),
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
        types = {
            "scale": Fixed(bits_for_range(0, int(codes.max())), exponent),
            "bias": Fixed(QType(1, signed=False), 0),
            "result": Fixed(bits_for_range(int(product.min()), int(product.max())), -top),
        }
        channels = np.broadcast_to(np.ldexp(codes.astype(np.float64), exponent), len(bound.low))
        if source in self.order:
            channels = channels[self.order[source]]
        return self.alpha(node, "scale", x, types, np.ascontiguousarray(channels), np.zeros(len(channels)))

    def alpha(self, node: Node, hint: str, x: str, types: dict[str, Fixed], scale: Any, bias: Any) -> str:
        """Add ``x * scale + bias`` with one constant of each per channel."""
        shape = self.graph.tensors[node.inputs[0]].shape
        n_filt = shape[0] if shape[1:] else -1  # -1: one constant for every element
        data = {"n_in": int(np.prod(shape)), "n_filt": n_filt, "scale_data": scale, "bias_data": bias}
        return self.layer("ApplyAlpha", f"{node.name}_{hint}", [x], types, **data)

    def clip(self, node: Node) -> None:
        exponent = self.exponent[node.inputs[0]]
        self.cast(node, self.moved(node, node.attrs["zero_point"], exponent), exponent)

    def moved(self, node: Node, offset: int, exponent: int) -> str:
        """Add the exact sum with a constant, the same for every element, unless it is 0."""
        x, bound = self.at[node.inputs[0]], self.bounds[node.inputs[0]]
        if not offset:
            return x
        low, high, n = int(bound.low.min()) + offset, int(bound.high.max()) + offset, len(bound.low)
        types = {
            "scale": Fixed(QType(1, signed=False), 0),
            "bias": Fixed(bits_for_range(min(offset, 0), max(offset, 0)), exponent),
            "result": Fixed(bits_for_range(low, high), exponent),
        }
        return self.alpha(node, "offset", x, types, np.ones(n), np.full(n, np.ldexp(float(offset), exponent)))

    def cast(self, node: Node, x: str, exponent: int) -> None:
        qtype = cast_type(self.program, node, self.bounds)
        assert qtype is not None  # find_inexact refuses it
        types = {"result": Fixed(qtype, exponent, saturates=True)}
        n_in = int(np.prod(self.graph.tensors[node.output].shape))
        name = self.layer("Activation", node.name, [x], types, activation="linear", n_in=n_in)
        self.put(node, name, exponent, self.order.get(node.inputs[0]))

    def add(self, node: Node) -> None:
        total, exponent = self.at[node.inputs[0]], self.exponent[node.inputs[0]]
        low, high = self.bounds[node.inputs[0]].low, self.bounds[node.inputs[0]].high
        for i, other in enumerate(node.inputs[1:]):
            low, high = low + self.bounds[other].low, high + self.bounds[other].high
            types = {"result": Fixed(bits_for_range(int(low.min()), int(high.max())), exponent)}
            hint = node.name if i == len(node.inputs) - 2 else f"{node.name}_part"
            total = self.layer("Merge", hint, [total, self.at[other]], types, op="add")
        self.put(node, total, exponent, self.order.get(node.inputs[0]))

    def concat(self, node: Node) -> None:
        total, exponent = self.at[node.inputs[0]], self.exponent[node.inputs[0]]
        rank, types = len(self.graph.tensors[node.output].shape), {"result": self.exact_type(node.output, exponent)}
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
        source, attrs = node.inputs[0], node.attrs
        same = self.exact_type(source, self.exponent[source])
        x, (channels, height, width) = self.at[source], self.graph.tensors[source].shape
        out_shape = self.graph.tensors[node.output].shape
        sizes = window((channels, height, width), out_shape, attrs["kernel"], attrs["stride"], attrs["padding"])
        pads = {f"pad_{side}": sizes[f"pad_{side}"] for side in PAD_SIDES}
        if any(pads.values()):  # zeros never win over values that are not negative
            height, width = height + pads["pad_top"] + pads["pad_bottom"], width + pads["pad_left"] + pads["pad_right"]
            padded: dict[str, Any] = {
                "in_height": sizes["in_height"],
                "in_width": sizes["in_width"],
                "n_chan": channels,
            }
            padded |= {"out_height": height, "out_width": width, "data_format": "channels_last", **pads}
            x = self.layer("ZeroPadding2D", f"{node.name}_pad", [x], {"result": same}, **padded)
        name = self.pool(node, x, "MaxPooling2D", (channels, height, width), {"accum": same, "result": same})
        self.put(node, name, self.exponent[source])

    def sum_pool2d(self, node: Node) -> None:
        """An average where it is one by a power of two, else a depthwise convolution with ones."""
        source, kernel = node.inputs[0], node.attrs["kernel"]
        count, e_in = kernel[0] * kernel[1], self.exponent[source]
        halvings = count.bit_length() - 1
        e_out = int(self.scale_exponent(node.output)) if self.pow2 else e_in - halvings
        bound = self.bounds[node.output]
        # A sum that is added to others must keep their step; a rescaled one may have its own.
        rescaled = all(n.op == "requantize" for n in self.graph.consumers(node.output))
        plain = self.average and not any(node.attrs["padding"]) and (self.pow2 or rescaled)
        if count == 1 << halvings and e_out == e_in - halvings and plain:
            # hls4ml sums, then divides; the sum needs its own integer bits and the quotient its fraction bits
            types = {
                "accum": Fixed(bits_for_range(int(bound.low.min()) * count, int(bound.high.max()) * count), e_out),
                "result": self.exact_type(node.output, e_out),
            }
            shape = self.graph.tensors[source].shape
            self.put(node, self.pool(node, self.at[source], "AveragePooling2D", shape, types), e_out)
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

    def pool(self, node: Node, x: str, kind: str, in_shape: tuple[int, ...], types: Mapping[str, Fixed]) -> str:
        """Add a pooling layer over x, which is padded already."""
        kernel, out_shape = node.attrs["kernel"], self.graph.tensors[node.output].shape
        return self.layer(
            kind, node.name, [x], types, **window(in_shape, out_shape, kernel, node.attrs["stride"], (0, 0)),
            n_filt=out_shape[0], pool_height=kernel[0], pool_width=kernel[1], filt_height=kernel[0],
            filt_width=kernel[1], data_format="channels_last", padding="valid", count_pad=True,
        )  # fmt: skip


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
