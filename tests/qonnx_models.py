"""Small QONNX models made node by node, and how they are compared with the qonnx executor. Used by its tests."""

import warnings

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.infer_shapes import InferShapes
from qonnx.util.cleanup import cleanup_model

from dyadiq.core.data_folder import data_folder
from dyadiq.ir.qonnx_import import import_qonnx
from dyadiq.ir.reference import run_reference

__all__ = ["DOMAIN", "ZOO", "Model", "check_equal", "execute", "layer", "on_grid", "real"]

DOMAIN = "qonnx.custom_op.general"
ZOO = data_folder() / "models" / "qkeras_jettagging.onnx"


class Model:
    """Builds a small QONNX model node by node; every method returns the name of the tensor it makes."""

    def __init__(self, shape=(4,), domain=DOMAIN):
        self.shape, self.domain, self.nodes, self.constants = shape, domain, [], []

    def const(self, values):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype=np.float32), name))
        return name

    def op(self, kind, *inputs, domain="", **attrs):
        inputs = [i if isinstance(i, str) else self.const(i) for i in inputs]
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"{kind}_{name}", domain=domain, **attrs))
        return name

    def quant(self, x, scale, bits, signed=1, narrow=0, mode="ROUND", zero=0.0, kind="Quant"):
        attrs = {"signed": signed, "narrow": narrow, "rounding_mode": mode}
        return self.op(kind, x, scale, zero, float(bits), domain=self.domain, **attrs)

    def reshape(self, x, *shape):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(shape, dtype=np.int64), name))
        return self.op("Reshape", x, name)

    def proto(self, *outputs, opset=13):
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, *self.shape])]
        made = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
        graph = helper.make_graph(self.nodes, "test", inputs, made, self.constants)
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid(self.domain, 2)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def execute(proto, x, tensor=None):
    """What the qonnx executor makes of a batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it renames the old domain, loudly
        model = cleanup_model(ModelWrapper(proto))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = len(x)
    del model.graph.value_info[:]
    for node in model.graph.node:
        if node.op_type == "Reshape":
            model.set_initializer(node.input[1], np.array([len(x), *model.get_initializer(node.input[1])[1:]]))
    context = execute_onnx(model.transform(InferShapes()), {model.graph.input[0].name: x.astype(np.float32)}, True)
    return context[model.graph.output[0].name if tensor is None else tensor]


def on_grid(program, rng, count):
    """Real inputs on the grid of the input quantizer, some beyond its ends."""
    (node,) = (n for n in program.graph.nodes if n.op == "quantize")
    info, scale = program.graph.tensors[node.output], float(program.graph.params[node.inputs[1]])
    codes = rng.integers(info.qtype.qmin - 3, info.qtype.qmax + 4, (count, *info.shape))
    if info.qtype.bipolar:
        return np.where(codes >= 0, 1.0, -1.0)
    return (codes - int(program.graph.params[node.inputs[2]])) * scale


def real(program, x):
    """The program's one output in real values."""
    (values,) = program.dequantize(run_reference(program, x)).values()
    return values


def check_equal(proto, *, count=400, **options):
    """Import, run on-grid data on both sides, compare every number; return the program."""
    program = import_qonnx(proto, **options)
    x = on_grid(program, np.random.default_rng(1), count)
    np.testing.assert_array_equal(real(program, x), execute(proto, x))
    return program


def layer(m, x, n_in, n_out, rng, bits=4, scale=2.0**-3, bias=True):
    x = m.op("MatMul", x, m.quant(rng.normal(size=(n_in, n_out)), scale, bits, narrow=1))
    return m.op("Add", x, m.quant(rng.normal(size=n_out), 2.0**-5, 8)) if bias else x
