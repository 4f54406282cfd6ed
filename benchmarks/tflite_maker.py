"""An int8 .tflite file of a quantized network, for LiteRT to run beside our engine.

Used by engine_vs_peers.py and litert_agreement.py. Takes networks such as `cifar_resnet20`: conv2d, linear, add, the
mean over all positions, and the shortcut `x[:, :, ::2, ::2]` with channels of zeros around. `steps_of` decides
operators, codes, scales and zero points, all from the calibrated QuantModule, and needs no LiteRT; `tflite_bytes`
writes them by LiteRT's own schema.

Three things differ from our program. Unsigned codes are stored 128 lower. What a convolution gives to an add has codes
of 8 bits, of the range it has on a batch, where ours is an accumulator. Logits have 8 bits instead of 16. Besides,
LiteRT rounds its multipliers differently, so results are compared by their largest logit, not by integers.
Source: TensorFlow Lite's 8-bit quantization specification.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

VERSIONS = {"QUANTIZE": 1, "CONV_2D": 3, "ADD": 2, "PAD": 2, "STRIDED_SLICE": 2, "MEAN": 2, "FULLY_CONNECTED": 4}


@dataclass
class Value:
    """A tensor: channels last; ``scale`` empty for reals and shapes, of several entries along the first axis."""

    shape: tuple[int, ...]
    dtype: str = "int8"
    scale: list[float] = field(default_factory=list)
    zero_point: int = 0
    data: np.ndarray | None = None


@dataclass
class Step:
    """An operator of LiteRT, by the names of its tensors, with the words of its options."""

    op: str
    inputs: list[str]
    output: str
    options: dict = field(default_factory=dict)


@torch.no_grad()
def ranges_of(module, batch):
    """The least and the largest real value of every tensor without codes of 8 bits: operands of adds, and outputs."""
    tensors, quantizers, found = module.trained_tensors(), module.quantizers_by_name(), {}
    values = module.first_values([batch], tensors, quantizers)
    for node in module.canonical.nodes:
        value = values[node.output] = module.run_canonical_node(node, values, tensors, quantizers)
        if node.output in module.sites.wide or node.output in module.canonical.outputs:
            found[node.output] = (min(0.0, float(value.min())), max(0.0, float(value.max())))
    return found


class Maker:
    """Translates node by node; what it made is in ``values`` and ``steps``."""

    def __init__(self, module, batch, slices):
        self.module, self.slices = module, slices
        self.ranges, self.activations = ranges_of(module, batch), module.activation_quants()
        self.weights, self.params = module.weight_quants(), module.folded_graph().params
        self.values, self.steps = {}, []
        self.renamed = {}  # what a flatten gives is what it reads

    def grid(self, name):
        """Scale and zero point: those of the module, or of the range where it has accumulators or 16 bits."""
        if name in self.ranges:
            low, high = self.ranges[name]
            scale = max(high - low, 1e-6) / 255
            return scale, round(-128 - low / scale)
        if name in self.values:  # what a PAD or a STRIDED_SLICE of ours made keeps its codes
            return self.values[name].scale[0], self.values[name].zero_point
        quant = self.activations[self.module.sites.decision_of[name]]
        if quant.qtype.bits != 8:
            raise ValueError(f"{name}: LiteRT's codes have 8 bits, got {quant.qtype}. Quantize by a plan of W8A8.")
        return quant.scale, quant.zero_point - (0 if quant.qtype.signed else 128)

    def make(self, name, shape, like=None):
        scale, zero_point = self.grid(like or name)
        self.values[name] = Value(shape, "int8", [scale], zero_point)
        return name

    def constant(self, name, data, scale=()):
        self.values[name] = Value(data.shape, str(data.dtype), list(scale), 0, data)
        return name

    def pad(self, name, source, pads):
        """A step that puts codes of zero around every axis: the name of its output."""
        shape = tuple(n + before + after for n, (before, after) in zip(self.values[source].shape, pads, strict=True))
        table = self.constant(f"{name}:pads", np.array(pads, np.int32))
        self.steps.append(Step("PAD", [source, table], self.make(name, shape, like=source)))
        return name

    def layer(self, node, source):
        _, weight_name, bias_name = node.inputs
        weight, x = self.weights[weight_name], self.values[source]
        if np.any(weight.zero_point) or weight.group_factor is not None:
            raise ValueError(f"{weight_name}: LiteRT's weights are symmetric, by tensor or by channel.")
        codes = np.moveaxis(weight.codes, 1, -1).astype(np.int8)  # O, KH, KW, I
        scale = np.broadcast_to(weight.scale, len(codes))
        bias = np.floor(self.params[bias_name] / (scale * x.scale[0]) + 0.5)
        if np.abs(bias).max() >= 2**31:
            raise ValueError(f"{bias_name}: does not fit 32 bits, got {np.abs(bias).max():.3g} steps.")
        constants = [
            self.constant(weight_name, np.ascontiguousarray(codes), scale),
            self.constant(bias_name, bias.astype(np.int32), scale * x.scale[0]),
        ]
        words = {"fusedActivationFunction": "RELU" if node.attrs.get("activation") == "relu" else "NONE"}
        if node.op == "linear":
            out = self.make(node.output, (1, len(codes)))
            self.steps.append(Step("FULLY_CONNECTED", [source, *constants], out, words))
            return
        (kernel, _), (stride, _), (padding, _) = weight.codes.shape[2:], node.attrs["stride"], node.attrs["padding"]
        size = (x.shape[1] + 2 * padding - kernel) // stride + 1
        same = stride == 1 and 2 * padding == kernel - 1
        if not same and padding:  # What is called SAME pads elsewhere where the stride is 2.
            after = (size - 1) * stride + kernel - x.shape[1] - padding
            source = self.pad(f"{node.name}:padded", source, [(0, 0), (padding, after), (padding, after), (0, 0)])
        words |= {"padding": "SAME" if same else "VALID", "strideH": stride, "strideW": stride}
        out = self.make(node.output, (1, size, size, len(codes)))
        self.steps.append(Step("CONV_2D", [source, *constants], out, words))

    def pick(self, pad, source, stride):
        """Every second position and channels of zeros, as a 1x1 convolution whose weights are 0 and 1: exact."""
        x, name, before = self.values[source], pad.output, pad.attrs["before"][0]
        codes = np.pad(np.eye(x.shape[3], dtype=np.int8), ((before, pad.attrs["after"][0]), (0, 0)))[:, None, None]
        size, ones = -(-x.shape[1] // stride), np.ones(len(codes))
        weight = self.constant(f"{name}:weight", np.ascontiguousarray(codes), ones)
        bias = self.constant(f"{name}:bias", np.zeros(len(codes), np.int32), ones * x.scale[0])
        words = {"fusedActivationFunction": "NONE", "padding": "VALID", "strideH": stride, "strideW": stride}
        out = self.make(name, (1, size, size, len(codes)), like=source)
        self.steps.append(Step("CONV_2D", [source, weight, bias], out, words))

    def node(self, node):
        if node.output in self.values:  # a pad that became part of what it reads
            return
        source = self.renamed.get(node.inputs[0], node.inputs[0])
        shape = self.values[source].shape
        if node.op in ("conv2d", "linear"):
            self.layer(node, source)
        elif node.op == "add":
            relu = "RELU" if node.attrs.get("activation") == "relu" else "NONE"
            words = {"fusedActivationFunction": relu}
            self.steps.append(Step("ADD", list(node.inputs), self.make(node.output, shape), words))
        elif node.op == "max_pool2d" and node.attrs["kernel"] == (1, 1):
            (step, _), name = node.attrs["stride"], node.output
            readers = self.module.canonical.consumers(name)
            if not self.slices and [reader.op for reader in readers] == ["pad"]:
                self.pick(readers[0], source, step)
                return
            ends = {"begin": (0, 0, 0, 0), "end": shape, "strides": (1, step, step, 1)}
            tables = [self.constant(f"{name}:{word}", np.array(n, np.int32)) for word, n in ends.items()]
            small = (1, -(-shape[1] // step), -(-shape[2] // step), shape[3])
            self.steps.append(Step("STRIDED_SLICE", [source, *tables], self.make(name, small, source)))
        elif node.op == "pad":
            before, after = node.attrs["before"], node.attrs["after"]
            pads = [(0, 0), *((before[axis], after[axis]) for axis in (1, 2, 0))]
            self.pad(node.output, source, pads)
        elif node.op == "avg_pool2d" and node.attrs["kernel"] == shape[1:3]:
            axes = self.constant(f"{node.output}:axes", np.array([1, 2], np.int32))
            out = self.make(node.output, (1, shape[3]))
            self.steps.append(Step("MEAN", [source, axes], out, {"keepDims": False}))
        elif node.op == "flatten" and len(shape) == 2:
            self.renamed[node.output] = source
        else:
            raise ValueError(f"{node.name}: there is no {node.op} of {node.attrs} on {shape} for LiteRT here.")


def steps_of(module, batch, slices=False):
    """Operators in order of execution, tensors by name, and the names of the input (real values) and the output.

    Args:
        module: A calibrated QuantModule of W8A8 with one input ``[N, C, H, W]`` and one output.
        batch: Images, ``[N, C, H, W]``, that say how large operands of adds and the output get.
        slices: Whether shortcuts are STRIDED_SLICE and PAD, as converters write them, which XNNPACK does not take and
            which cut the network in three; else convolutions by 0 and 1, which are exact and faster.

    Raises:
        ValueError: An operator, a format or a bias that the file cannot hold.
    """
    maker = Maker(module, batch, slices)
    (name,) = module.canonical.inputs
    _, channels, *size = batch.shape
    maker.values[f"{name}:real"] = Value((1, *size, channels), "float32")
    maker.make(name, (1, *size, channels))
    maker.steps.append(Step("QUANTIZE", [f"{name}:real"], name))
    for node in module.canonical.nodes:
        maker.node(node)
    return maker.steps, maker.values, f"{name}:real", module.canonical.outputs[0]


OPTIONS = {"CONV_2D": "Conv2D", "ADD": "Add", "PAD": "Pad", "STRIDED_SLICE": "StridedSlice", "MEAN": "Reducer"}
OPTIONS |= {"FULLY_CONNECTED": "FullyConnected", "QUANTIZE": "Quantize"}


def tflite_bytes(steps, values, first, last):
    """The file of what `steps_of` gives; needs LiteRT, whose schema it is written by."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    ops, names = sorted({step.op for step in steps}), list(values)
    buffers, tensors, operators = [schema.BufferT()], [], []
    for name, value in values.items():
        if value.data is not None:
            buffers.append(schema.BufferT())
            buffers[-1].data = np.frombuffer(value.data.tobytes(), np.uint8)
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = (
            name,
            list(value.shape),
            getattr(schema.TensorType, value.dtype.upper()),
        )
        tensor.buffer = 0 if value.data is None else len(buffers) - 1
        if len(value.scale):
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = [float(scale) for scale in value.scale]
            tensor.quantization.zeroPoint = [value.zero_point] * len(value.scale)
        tensors.append(tensor)
    for step in steps:
        operator, kind = schema.OperatorT(), f"{OPTIONS[step.op]}Options"
        operator.opcodeIndex = ops.index(step.op)
        operator.inputs, operator.outputs = [names.index(name) for name in step.inputs], [names.index(step.output)]
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        operator.builtinOptions = getattr(schema, f"{kind}T")()
        if step.op == "CONV_2D":
            operator.builtinOptions.dilationHFactor = operator.builtinOptions.dilationWFactor = 1
        for word, setting in step.options.items():
            table = {"padding": schema.Padding, "fusedActivationFunction": schema.ActivationFunctionType}.get(word)
            setattr(operator.builtinOptions, word, setting if table is None else getattr(table, setting))
        operators.append(operator)
    model, graph, codes = schema.ModelT(), schema.SubGraphT(), []
    for op in ops:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, op)
        code.version = VERSIONS[op]
        codes.append(code)
    graph.tensors, graph.operators = tensors, operators
    graph.inputs, graph.outputs = [names.index(first)], [names.index(last)]
    model.version, model.buffers, model.subgraphs, model.operatorCodes = 3, buffers, [graph], codes
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
