"""Mutations of ONNX models, of their bytes and of their structure, for fuzzing the importer. Seeded."""

import numpy as np
import onnx
from onnx import TensorProto, helper

INTEGERS = (0, 1, -1, 2, 3, 7, 255, 1 << 13, 1 << 16, 1 << 31, 1 << 40, -(1 << 40), (1 << 63) - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 3.0, 1e-45, 1e-30, 1e30, 3.4e38, np.nan, np.inf, -np.inf, 0.3, 1 << 24)
OPERATORS = (
    *("Quant", "BipolarQuant", "Trunc", "MatMul", "Gemm", "Conv", "Add", "Sub", "Mul", "Div", "Relu", "Clip", "Concat"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "Reshape", "Flatten", "Squeeze", "Transpose", "Neg", "Identity"),
    *("BatchNormalization", "Softmax", "Loop", "If", "Constant"),
)


def mutated_bytes(content, rng):
    """Flip, cut, repeat or insert a few bytes."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        at = int(rng.integers(0, max(1, len(data))))
        kind = rng.integers(0, 5)
        if kind == 0 and data:
            data[at % len(data)] = int(rng.integers(0, 256))
        elif kind == 1:
            del data[at : at + int(rng.integers(1, 64))]
        elif kind == 2:
            data[at:at] = data[at : at + int(rng.integers(1, 64))]
        elif kind == 3:
            data[at:at] = rng.bytes(int(rng.integers(1, 8)))
        elif rng.integers(0, 20) == 0:
            del data[at:]
    return bytes(data)


def mutated_model(content, rng):
    """Change a few names, sizes, values, attributes or nodes of a model; returns its bytes."""
    model = onnx.load_model_from_string(content)
    for _ in range(int(rng.integers(1, 4))):
        _MUTATIONS[int(rng.integers(0, len(_MUTATIONS)))](model.graph, rng)
    return model.SerializeToString()


def _pick(items, rng):
    return items[int(rng.integers(0, len(items)))] if len(items) else None


def _names(graph):
    return [n for node in graph.node for n in (*node.input, *node.output)] + [i.name for i in graph.initializer] + [""]


def _rewire(graph, rng):
    node = _pick(graph.node, rng)
    if node is not None and node.input:
        node.input[int(rng.integers(0, len(node.input)))] = _pick(_names(graph), rng)


def _rename_output(graph, rng):
    node = _pick(graph.node, rng)
    if node is not None and node.output:
        node.output[int(rng.integers(0, len(node.output)))] = _pick(_names(graph), rng)


def _inputs(graph, rng):
    node = _pick(graph.node, rng)
    if node is None:
        return
    if rng.integers(0, 2) and node.input:
        del node.input[int(rng.integers(0, len(node.input))) :]
    else:
        node.input.append(_pick(_names(graph), rng))


def _operator(graph, rng):
    node = _pick(graph.node, rng)
    if node is not None:
        node.op_type = _pick(OPERATORS, rng)


def _attribute(graph, rng):
    node = _pick(graph.node, rng)
    if node is None:
        return
    attribute = _pick(node.attribute, rng)
    name = attribute.name if attribute is not None else _pick(("pads", "group", "axis", "strides", "signed"), rng)
    if attribute is not None:
        node.attribute.remove(attribute)
    value = _pick(
        (
            _pick(INTEGERS, rng),
            [_pick(INTEGERS, rng) for _ in range(int(rng.integers(1, 6)))],
            float(_pick(FLOATS, rng)),
            b"\xff\xfe",
            "FLOOR",
            helper.make_graph([helper.make_node("Relu", ["a"], ["a"])], "nested", [], []),
        ),
        rng,
    )
    node.attribute.append(helper.make_attribute(name, value))


def _values(graph, rng):
    tensor = _pick(graph.initializer, rng)
    if tensor is None or not tensor.raw_data:
        return
    data = np.frombuffer(tensor.raw_data, dtype=np.uint8).copy()
    floats = data[: len(data) // 4 * 4].view(np.float32)
    if len(floats):
        floats[int(rng.integers(0, len(floats)))] = _pick(FLOATS, rng)
    tensor.raw_data = data.tobytes()


def _sizes(graph, rng):
    tensor = _pick(graph.initializer, rng)
    if tensor is None:
        return
    kind = rng.integers(0, 4)
    if kind == 0 and tensor.dims:
        tensor.dims[int(rng.integers(0, len(tensor.dims)))] = _pick(INTEGERS, rng)
    elif kind == 1:
        tensor.dims.append(_pick(INTEGERS, rng))
    elif kind == 2:
        tensor.data_type = int(rng.integers(0, 30))
    else:
        tensor.external_data.add(key="location", value="../../../../etc/passwd")
        tensor.data_location = TensorProto.EXTERNAL


def _input_shape(graph, rng):
    given = _pick(graph.input, rng)
    if given is None:
        return
    dims = given.type.tensor_type.shape.dim
    if len(dims):
        dims[int(rng.integers(0, len(dims)))].dim_value = _pick(INTEGERS, rng)
    if rng.integers(0, 3) == 0:
        dims.add().dim_value = _pick(INTEGERS, rng)


def _nodes(graph, rng):
    node = _pick(graph.node, rng)
    if node is None:
        return
    kind = rng.integers(0, 3)
    if kind == 0:
        graph.node.remove(node)
    elif kind == 1:
        graph.node.add().CopyFrom(node)
    else:
        graph.node.insert(int(rng.integers(0, len(graph.node))), graph.node.pop(len(graph.node) - 1))


def _missing(graph, rng):
    tensor = _pick(graph.initializer, rng)
    if tensor is not None:
        graph.initializer.remove(tensor)


def _twice(graph, rng):
    tensor = _pick(graph.initializer, rng)
    if tensor is not None:
        tensor.name = _pick(_names(graph), rng)


_MUTATIONS = (
    *(_rewire, _rename_output, _inputs, _operator, _attribute, _values, _sizes, _input_shape, _nodes, _missing, _twice),
)
