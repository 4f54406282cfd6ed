"""Float ONNX models for tests: built node by node, or exported from torch; and what onnxruntime says of them."""

import io
import warnings

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

__all__ = ["FloatModel", "Sampler", "exported", "run_onnxruntime"]


class FloatModel:
    """Adds nodes one by one; the last output is the model's."""

    def __init__(self, *shape, seed=0, opset=17, batch="N"):
        self.rng, self.opset = np.random.default_rng(seed), opset
        self.nodes, self.constants = [], []
        self.input = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape])

    def constant(self, name, values):
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def weight(self, name, *shape):
        return self.constant(name, self.rng.normal(size=shape).astype(np.float32))

    def op(self, op, *inputs, output=None, **attrs):
        output = output or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attrs))
        return output

    def proto(self, *outputs):
        names = outputs or (self.nodes[-1].output[0],)
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
        graph = helper.make_graph(self.nodes, "net", [self.input], ends, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


class Sampler(nn.Module):
    """One of everything that networks of the zoo have, small."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.wide, self.act = nn.Conv2d(8, 8, 1), nn.Hardswish()
        self.pool, self.average = nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, ceil_mode=False)
        self.fc, self.end = nn.Linear(16, 12), nn.Linear(12, 5)
        for norm in (self.bn,):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0.0, 0.2)
            norm.running_mean.normal_(0.0, 0.2)
            norm.running_var.uniform_(0.5, 1.5)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x)))
        x = nn.functional.relu6(self.depthwise(nn.functional.pad(x, (0, 0, 1, 1))))
        y = self.act(self.wide(x))
        x = torch.cat([torch.nn.functional.silu(x + y), self.wide(y)], 1)
        x = self.average(self.pool(x)).mean((2, 3))
        return self.end(torch.sigmoid(self.fc(x)))


def exported(model, *shape, dynamo=False, path=None):
    """Export for any batch size: the bytes, or with a path a file (and one of weights beside it)."""
    x = torch.randn(2, *shape)
    target = path or io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            free = ({0: torch.export.Dim.DYNAMIC},)
            torch.onnx.export(model.eval(), (x,), target, dynamo=True, dynamic_shapes=free, verbose=False)
        else:
            names = {"input_names": ["x"], "dynamic_axes": {"x": {0: "N"}}}
            torch.onnx.export(model.eval(), (x,), target, dynamo=False, opset_version=17, **names)
    return path if path is not None else target.getvalue()


def run_onnxruntime(model, x):
    """The first output of a model: bytes, a proto, or a path as text."""
    import onnxruntime

    given = (
        model
        if isinstance(model, (bytes, str))
        else model.SerializeToString()
        if hasattr(model, "graph")
        else str(model)
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]
