"""Small integer programs built by hand, for tests of targets at awkward shapes and widths.

A `ProgramBuilder` emits nodes in order; accumulator types come from the proof, as lowering does it. Weights and
biases are random from an explicit generator. ``PROGRAMS`` names one builder per feature.
"""

from dataclasses import dataclass, field

import numpy as np

from dyadiq.core.qtype import QType
from dyadiq.ir.dyadic import to_dyadic
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.integer import IntegerProgram
from dyadiq.ir.proof import accumulator_type, node_bound

INT8, UINT8, INT4N, BIPOLAR = (QType.parse(t) for t in ("int8", "uint8", "int4n", "bipolar"))


@dataclass
class ProgramBuilder:
    """Emits an IntegerProgram node by node; every method returns the name of the tensor it makes."""

    rng: np.random.Generator
    nodes: list = field(default_factory=list)
    tensors: dict = field(default_factory=dict)
    params: dict = field(default_factory=dict)
    types: dict = field(default_factory=dict)
    bounds: dict = field(default_factory=dict)
    inputs: list = field(default_factory=list)
    worst: bool = False  # every weight is the lowest code, the worst case for accumulators

    def _emit(self, op, inputs, shape, qtype=None, scale=None, code_of_zero=0, **attrs):
        name = f"{op}{len(self.nodes)}"
        node = Node(name, op, tuple(inputs), f"{name}:out", attrs)
        scale = None if scale is None else np.asarray(scale, dtype=np.float64)
        self.tensors[node.output] = TensorInfo(tuple(shape), qtype, scale, code_of_zero)
        graph = Graph("integer", tuple(self.inputs), (), (), self.tensors, self.params, self.types)
        self.bounds[node.output] = bound = node_bound(graph, node, self.bounds)
        if qtype is None:
            self.tensors[node.output] = TensorInfo(tuple(shape), accumulator_type(bound), scale, code_of_zero)
        self.nodes.append(node)
        return node.output

    def _param(self, values, dtype=np.int64):
        name = f"p{len(self.params)}"
        self.params[name] = np.asarray(values, dtype=dtype)
        return name

    def _codes(self, qtype, shape):
        if self.worst:
            return np.full(shape, qtype.qmin)
        codes = self.rng.integers(qtype.qmin, qtype.qmax, shape, endpoint=True)
        return np.where(codes >= 0, 1, -1) if qtype.bipolar else codes

    def shape(self, tensor):
        return self.tensors[tensor].shape

    def scale(self, tensor):
        return self.tensors[tensor].scale

    def input(self, shape, qtype=UINT8, scale=2.0**-4, zero_point=0, grid=None):
        """A quantized input; ``grid``: shifts, low and high ends of its channels."""
        name = f"x{len(self.inputs)}"
        self.inputs.append(name)
        self.tensors[name] = TensorInfo(tuple(shape))
        parts = [name, self._param(scale, np.float64), self._param(zero_point), *map(self._param, grid or ())]
        return self._emit("quantize", parts, shape, qtype, scale, zero_point)

    def _dot(self, op, x, weight_shape, qtype, out_shape, weight_scale, bias_bits, asymmetric, groups_of, **attrs):
        n_out = weight_shape[0]
        weight = self._param(self._codes(qtype, weight_shape))
        self.types[weight] = qtype
        parts = [x, weight, self._param(self.rng.integers(-(2**bias_bits), 2**bias_bits, n_out))]
        if asymmetric or groups_of:
            parts.append(self._param(self._codes(qtype, n_out) if asymmetric else np.zeros(1)))
        if groups_of:
            count = int(np.prod(weight_shape[1:])) // groups_of
            parts.append(self._param(self.rng.integers(1, 16, (n_out, count))))
        scale = None if self.scale(x) is None else self.scale(x) * np.asarray(weight_scale)
        return self._emit(op, parts, out_shape, scale=scale, **attrs)

    def linear(self, x, out, qtype=INT8, weight_scale=2.0**-6, bias_bits=8, asymmetric=False, groups_of=0):
        weight_shape = (out, self.shape(x)[0])
        return self._dot("linear", x, weight_shape, qtype, (out,), weight_scale, bias_bits, asymmetric, groups_of)

    def conv2d(
        self, x, out, kernel=3, stride=1, padding=0, dilation=1, groups=1, qtype=INT8, weight_scale=2.0**-6,
        bias_bits=8, asymmetric=False, groups_of=0,
    ):  # fmt: skip
        channels, height, width = self.shape(x)
        (kh, kw), (sh, sw), (ph, pw), (dh, dw) = (
            v if isinstance(v, tuple) else (v, v) for v in (kernel, stride, padding, dilation)
        )
        out_h = (height + 2 * ph - dh * (kh - 1) - 1) // sh + 1
        out_w = (width + 2 * pw - dw * (kw - 1) - 1) // sw + 1
        attrs = {"stride": (sh, sw), "padding": (ph, pw), "dilation": (dh, dw), "groups": groups}
        return self._dot(
            "conv2d", x, (out, channels // groups, kh, kw), qtype, (out, out_h, out_w), weight_scale, bias_bits,
            asymmetric, groups_of, **attrs, pad_value=self.tensors[x].zero_point,
        )  # fmt: skip

    def requantize(self, x, qtype=UINT8, multiplier=None, shift=None, zero_point=0, clip=None, scale=None):
        """Rescale so that the proven range of x roughly fills the output type; per channel where given arrays."""
        top = max(int(self.bounds[x].partial.max()), 1)
        if shift is None:
            # random sums stay far inside their proven range: two bits less, so that clipping happens too
            factor = 1 if multiplier is None else int(np.max(multiplier))
            shift = max(0, top.bit_length() + factor.bit_length() - qtype.bits - 3)
        if multiplier is None:
            multiplier = 1
        multiplier, shift = (np.atleast_1d(np.asarray(v, dtype=np.int64)) for v in (multiplier, shift))
        if scale is None and self.scale(x) is not None:
            ratio = 1.0 if qtype.bipolar else 2.0**shift / np.maximum(multiplier, 1)
            scale = (self.scale(x) * ratio).max()
        low, high = clip or (qtype.qmin, qtype.qmax)
        parts = [x, self._param(multiplier), self._param(shift)]
        return self._emit(
            "requantize", parts, self.shape(x), qtype, scale, zero_point,
            zero_point=zero_point, clip_min=low, clip_max=high,
        )  # fmt: skip

    def dyadic(self, x, scale, bits=8):
        """Multipliers and shifts that take the steps of x to steps of a scale, one pair per scale of x."""
        pairs = [to_dyadic(float(s) / float(scale), bits) for s in np.ravel(self.scale(x))]
        return tuple(np.array(v) for v in zip(*pairs, strict=True))

    def branch(self, x, scale=None, bits=8):
        """Rescale a branch of an add to a scale (default: its own), without clipping, as lowering does it."""
        scale = self.scale(x).max() if scale is None else scale
        multiplier, shift = self.dyadic(x, scale, bits)
        top = int((self.bounds[x].partial * multiplier / 2.0**shift).max()) + 1
        return self.requantize(x, QType(1 + top.bit_length(), signed=True), multiplier, shift, scale=scale)

    def add(self, *xs):
        return self._emit("add", xs, self.shape(xs[0]), scale=self.scale(xs[0]))

    def clip(self, x, qtype=INT8, zero_point=0, clip=None):
        low, high = clip or (qtype.qmin, qtype.qmax)
        attrs = {"zero_point": zero_point, "clip_min": low, "clip_max": high}
        node_zero = self.tensors[x].zero_point + zero_point
        return self._emit("clip", [x], self.shape(x), qtype, self.scale(x), node_zero, **attrs)

    def _same_type(self, op, xs, shape, **attrs):
        info = self.tensors[xs[0]]
        return self._emit(op, xs, shape, info.qtype, info.scale, info.zero_point, **attrs)

    def concat(self, *xs):
        first = self.shape(xs[0])
        return self._same_type("concat", xs, (sum(self.shape(x)[0] for x in xs), *first[1:]))

    def max_pool2d(self, x, kernel=2, stride=None, padding=0, dilation=1, ceil_mode=False):
        stride = kernel if stride is None else stride
        channels, *size = self.shape(x)
        out = []
        for n in size:
            span = n + 2 * padding - dilation * (kernel - 1) - 1
            steps = -(-span // stride) if ceil_mode else span // stride
            if steps * stride >= n + padding:  # the last window must start inside the input or its left padding
                steps -= 1
            out.append(steps + 1)
        attrs = {"kernel": (kernel,) * 2, "stride": (stride,) * 2, "padding": (padding,) * 2}
        attrs |= {"dilation": (dilation,) * 2, "ceil_mode": ceil_mode}
        return self._same_type("max_pool2d", [x], (channels, *out), **attrs)

    def sum_pool2d(self, x, kernel=None, stride=None, padding=0, average=True):
        channels, *size = self.shape(x)
        kernel = tuple(size) if kernel is None else (kernel, kernel)
        stride = kernel if stride is None else (stride, stride)
        out = [(n + 2 * padding - k) // s + 1 for n, k, s in zip(size, kernel, stride, strict=True)]
        zero_point, count = self.tensors[x].zero_point, kernel[0] * kernel[1]
        scale = None if self.scale(x) is None else self.scale(x) / (count if average else 1)
        attrs = {"kernel": kernel, "stride": stride, "padding": (padding, padding), "pad_value": zero_point}
        bias = self._param(-count * zero_point)
        return self._emit("sum_pool2d", [x, bias], (channels, *out), scale=scale, **attrs)

    def flatten(self, x):
        return self._same_type("flatten", [x], (int(np.prod(self.shape(x))),))

    def program(self, *outputs):
        graph = Graph(
            "integer", tuple(self.inputs), tuple(outputs), tuple(self.nodes), self.tensors, self.params, self.types
        )
        return IntegerProgram(graph)


def multipliers(rng, count, bits=8):
    return rng.integers(2 ** (bits - 1), 2**bits, count)


def mlp(rng, sizes=(16, 33, 17, 5), dyadic=True):
    b = ProgramBuilder(rng)
    x = b.input((sizes[0],), INT8)
    for size in sizes[1:]:
        x = b.linear(x, size, QType.parse("int6n"))
        x = b.requantize(x, INT8 if size == sizes[-1] else UINT8, multipliers(rng, size) if dyadic else None)
    return b.program(x)


def conv_pool(rng):
    b = ProgramBuilder(rng)
    x = b.input((3, 17, 15), UINT8)
    x = b.requantize(b.conv2d(x, 7, padding=1), UINT8, multipliers(rng, 7))
    x = b.max_pool2d(x, 3, 2, padding=1, ceil_mode=True)
    x = b.requantize(b.conv2d(x, 9, kernel=(3, 2), stride=(2, 1), padding=(1, 0)), UINT8, multipliers(rng, 1))
    x = b.flatten(b.requantize(b.sum_pool2d(x), UINT8, multipliers(rng, 1)))
    return b.program(b.requantize(b.linear(x, 10), QType.parse("int16"), multipliers(rng, 10)))


def residual(rng):
    b = ProgramBuilder(rng)
    x = b.requantize(b.conv2d(b.input((2, 7, 7), INT8), 8, padding=1), UINT8, multipliers(rng, 8))
    y = b.requantize(b.conv2d(x, 8, padding=1), QType.parse("uint5"), multipliers(rng, 8))
    scale = b.scale(x) * 0.71
    y = b.branch(b.conv2d(y, 8, padding=1, weight_scale=0.002 * float(b.scale(x) / b.scale(y))), scale)
    z = b.clip(b.add(y, b.branch(x, scale)), UINT8, clip=(0, 200))
    return b.program(z, b.requantize(b.sum_pool2d(z, 2, 2), INT8, 97))


def joins(rng):
    b = ProgramBuilder(rng)
    x = b.input((3, 9, 8), INT8)
    left = b.requantize(b.conv2d(x, 4, 1), INT8, multipliers(rng, 1))
    scale = b.scale(left)
    right = b.conv2d(x, 6, 3, padding=1)
    right = b.max_pool2d(b.requantize(right, INT8, *b.dyadic(right, scale), scale=scale), 3, 1, padding=1)
    both = b.concat(left, right, b.requantize(x, INT8, *b.dyadic(x, scale), scale=scale))
    return b.program(b.requantize(b.linear(b.flatten(both), 7), INT8, multipliers(rng, 7)))


def zero_points(rng):
    """Asymmetric input and activations, padding with the zero point, asymmetric per-channel weights."""
    b = ProgramBuilder(rng)
    x = b.input((2, 7, 15), UINT8, zero_point=131)
    x = b.conv2d(x, 5, 3, padding=2, dilation=2, asymmetric=True)
    x = b.requantize(x, UINT8, multipliers(rng, 5), zero_point=77, clip=(77, 255))
    x = b.requantize(b.conv2d(x, 5, 3, padding=1, groups=5), INT8, multipliers(rng, 5), zero_point=-9)
    x = b.requantize(b.sum_pool2d(x, 3, 2, padding=1), UINT8, 1, 4, zero_point=3)
    return b.program(b.clip(x, QType.parse("int9"), zero_point=-3))


def wide(rng):
    """16-bit activations and weights, 12-bit codes through a pool, a wide maximum."""
    b = ProgramBuilder(rng)
    int16, int12 = QType.parse("int16"), QType.parse("int12")
    x = b.input((3, 7, 7), int16, scale=2.0**-10)
    x = b.requantize(b.conv2d(x, 4, 3, padding=1, qtype=int16), int12, multipliers(rng, 4), zero_point=-100)
    x = b.max_pool2d(x, 3, 2, padding=1)
    x = b.sum_pool2d(b.requantize(b.conv2d(x, 4, 2, groups=2, padding=1), int12, 200), 2, 1, padding=1)
    x = b.requantize(x, QType.parse("uint11"), 3, 2)
    return b.program(b.requantize(b.linear(b.flatten(x), 3, QType.parse("int11")), QType.parse("int24"), 77, 9))


def bipolar(rng):
    b = ProgramBuilder(rng)
    x = b.requantize(b.linear(b.input((33,), INT8), 15, BIPOLAR), BIPOLAR)
    x = b.requantize(b.linear(x, 17, BIPOLAR), BIPOLAR, shift=0)
    return b.program(b.requantize(b.linear(x, 3, INT4N), INT8, 201), b.linear(x, 2, BIPOLAR))


def groups(rng):
    """Weights with one integer factor per group of inputs."""
    b = ProgramBuilder(rng)
    x = b.requantize(b.conv2d(b.input((4, 5, 5), UINT8), 6, 2, groups_of=8, qtype=INT4N), UINT8, multipliers(rng, 6))
    return b.program(b.linear(b.flatten(x), 7, INT4N, asymmetric=True, groups_of=16))


def strange(rng):
    """1-bit unsigned codes, 2-bit weights, shift 0, multiplier 0, two inputs, an output that is a wide sum."""
    b = ProgramBuilder(rng)
    x, y = b.input((1, 1, 1), QType.parse("uint1")), b.input((1, 1, 1), QType.parse("int3"))
    both = b.add(b.branch(b.conv2d(x, 2, 1, qtype=QType.parse("int2n"))), b.branch(b.conv2d(y, 2, 1, padding=0)))
    z = b.requantize(both, INT8, np.array([0, 5]), np.array([0, 3]))
    return b.program(z, both)


def pow2_cnn(rng):
    """Every scale a power of two: weights per channel, relu on signed codes, residual, concat, both poolings."""
    b = ProgramBuilder(rng)
    int4, uint4, int6 = (QType.parse(t) for t in ("int4n", "uint4", "int6"))
    x = b.input((2, 8, 9), INT8)
    exponent = np.array([-5, -3, -5, -4])
    acc = b.conv2d(x, 4, 3, padding=1, qtype=int4, weight_scale=2.0**exponent, bias_bits=6)
    left = b.requantize(acc, INT8, 1, 3 - exponent, clip=(0, 127))
    right = b.requantize(b.conv2d(left, 4, (3, 1), padding=(1, 0), groups=2, qtype=int4), uint4)
    scale = b.scale(left) * 4
    total = b.add(b.branch(right, scale), b.branch(left, scale), b.branch(b.conv2d(left, 4, 1, qtype=int4), scale))
    x = b.max_pool2d(b.clip(total, int6, clip=(-20, 31)), 3, 2, padding=1, ceil_mode=True)
    pooled = b.sum_pool2d(x, 4, 1)
    x = b.requantize(pooled, int6, *b.dyadic(pooled, b.scale(x)), scale=b.scale(x))
    x = b.flatten(b.concat(x, x))
    return b.program(b.requantize(b.linear(x, 5, int4), QType.parse("int16")), x)


def pow2_mlp(rng):
    return mlp(rng, dyadic=False)


def pow2_bipolar(rng):
    b = ProgramBuilder(rng)
    x = b.requantize(b.linear(b.input((15,), BIPOLAR), 17, BIPOLAR), BIPOLAR, shift=0)
    x = b.requantize(b.linear(x, 7, BIPOLAR), QType.parse("uint1"), 1, 4)
    return b.program(b.requantize(b.linear(x, 3, INT4N), BIPOLAR, shift=2))


def grids(rng):
    """Channels of an image with grids of their own: coarse, shifted, constant, of one step, the type's own; dyadic."""
    b = ProgramBuilder(rng)
    grid = ([0, 2, 0, 3, 5], [-128, -5, 7, -16, -1], [127, 9, 7, -15, 2])
    x = b.input((5, 4, 5), INT8, scale=0.37, grid=grid)
    x = b.max_pool2d(x, 2, 2, padding=1)
    x = b.requantize(b.conv2d(x, 3, 2, padding=1, qtype=INT4N), UINT8, multipliers(rng, 3))
    return b.program(b.linear(b.flatten(x), 4, INT4N))


def pow2_grids(rng):
    b = ProgramBuilder(rng)
    grid = ([0, 2, 0, 3, 5, 1, 7], [-128, -5, 7, -16, -1, 0, -1], [127, 9, 7, -15, 2, 63, 0])
    x = b.requantize(b.linear(b.input((7,), INT8, grid=grid), 9, INT4N), QType.parse("uint4"))
    return b.program(b.requantize(b.linear(x, 3, INT4N), QType.parse("int16")))


PROGRAMS = {
    f.__name__: f
    for f in (
        mlp,
        conv_pool,
        residual,
        joins,
        zero_points,
        wide,
        bipolar,
        groups,
        strange,
        pow2_cnn,
        pow2_mlp,
        pow2_bipolar,
        grids,
        pow2_grids,
    )
}


def raw_inputs(program, rng, count=33, ties=0.3):
    """Real inputs that reach beyond both ends of the input type, a share of them exactly between two steps."""
    feeds = {}
    for node in program.graph.nodes:
        if node.op != "quantize":
            continue
        name, info = node.inputs[0], program.graph.tensors[node.output]
        scale = float(program.graph.params[node.inputs[1]])
        span = info.qtype.qmax - info.qtype.qmin + 4
        steps = rng.uniform(-span, span, (count, *info.shape)) - info.zero_point
        feeds[name] = np.where(rng.random(steps.shape) < ties, np.round(steps) + 0.5, steps) * scale
    return feeds
