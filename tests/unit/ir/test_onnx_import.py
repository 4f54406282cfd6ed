"""Float ONNX files as graphs: what onnxruntime computes, operator by operator and for exported networks."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from dyadiq.ir.execute import run_graph
from dyadiq.ir.onnx_import import import_onnx
from dyadiq.ir.passes import canonicalize
from float_onnx import FloatModel, Sampler, exported, run_onnxruntime

pytest.importorskip("onnxruntime", reason="ONNX files are run by onnxruntime")

# Other kernels sum float32 in another order: relative to the largest output, a few hundred terms.
TOLERANCE = 1e-5


def assert_same(model, x):
    graph = import_onnx(model)
    wanted = run_onnxruntime(model, x)
    for made in (graph, canonicalize(graph)):
        (found,) = run_graph(made, torch.from_numpy(x))
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())
    return graph


def scaled(m):
    """Arithmetic with constants, as data are normalised, around a convolution."""
    x = m.op("Sub", "x", m.weight("mean", 1, 3, 1, 1))
    x = m.op("Div", x, m.constant("deviation", np.array([0.5, 2.0, 0.25], np.float32).reshape(3, 1, 1)))
    x = m.op("Conv", x, m.weight("c.weight", 4, 3, 3, 3))
    x = m.op("Add", x, m.weight("c.bias", 4, 1, 1))
    x = m.op("Sub", m.constant("two", np.float32(2.0)), x)
    m.op("Mul", m.weight("factor", 4, 1, 1), x)


def shaped(m):
    """A flatten as TorchScript writes ``x.view(x.size(0), -1)``."""
    n = m.op("Gather", m.op("Shape", "x"), m.constant("zero", np.int64(0)), axis=0)
    n = m.op("Unsqueeze", n, m.constant("axes", np.array([0])))
    shape = m.op("Concat", n, m.constant("rest", np.array([-1])), axis=0)
    x = m.op("Reshape", "x", shape)
    m.op("MatMul", x, m.weight("w", 3 * 9 * 7, 5))


def squeezed(m):
    x = m.op("ReduceMean", "x", axes=[-2, -1], keepdims=1)
    x = m.op("Squeeze", x, m.constant("axes", np.array([2, 3])))
    x = m.op("Gemm", x, m.weight("w", 3, 4), m.weight("b", 4), alpha=0.5, beta=2.0)
    x = m.op("Unsqueeze", x, m.constant("more", np.array([2, 3])))
    m.op("Flatten", x)


def activations(m):
    x = m.op("Conv", "x", m.weight("c.weight", 4, 3, 1, 1))
    parts = [m.op(op, x, **attrs) for op, attrs in (
        ("HardSwish", {}), ("Sigmoid", {}), ("Tanh", {}), ("LeakyRelu", {"alpha": 0.01}), ("Relu", {}),
        ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    )]  # fmt: skip
    parts += [m.op("Mul", x, parts[1]), m.op("Mul", parts[5], x)]
    parts.append(m.op("Clip", x, "", m.constant("top", np.float32(0.5))))
    parts.append(m.op("Clip", x, m.constant("bottom", np.float32(-0.5)), m.constant("six", np.float32(6))))
    m.op("Sum", m.op("Concat", *parts[:5], axis=1), m.op("Concat", *parts[5:], axis=-3))


def gelus(m):
    """Written out, the factors in every order; a product that is none stays."""
    one, half, two = (m.constant(f"c{v}", np.float32(v)) for v in (1, 0.5, 2))
    root, inverse = m.constant("root", np.float32(2**0.5)), m.constant("inverse", np.array([2**-0.5], np.float32))
    x = m.op("Conv", "x", m.weight("c.weight", 4, 3, 1, 1))
    parts = []
    for at in range(4):
        y = m.op("Erf", m.op("Div", x, root) if at % 2 else m.op("Mul", inverse, x))
        y = m.op("Add", y, one) if at % 2 else m.op("Add", one, y)
        parts.append(
            (
                lambda y: m.op("Mul", m.op("Mul", x, y), half),
                lambda y: m.op("Mul", x, m.op("Mul", half, y)),
                lambda y: m.op("Mul", m.op("Mul", x, half), y),
                lambda y: m.op("Div", m.op("Mul", y, x), two),
            )[at](y)
        )
    m.op("Concat", *parts, axis=1)


def transposed(m):
    """Channels last and back, over functions of single values; axes of size 1 that move; weights in another order."""
    x = m.op("Relu", m.op("Transpose", m.op("Conv", "x", m.weight("c.weight", 4, 3, 3, 3)), perm=[0, 2, 3, 1]))
    back = m.op("Transpose", m.op("Clip", x, m.constant("low", np.float32(-1)), ""), perm=[0, 3, 1, 2])
    pooled = m.op("GlobalAveragePool", m.op("Conv", back, m.weight("d.weight", 5, 4, 3, 3)))
    flat = m.op("Reshape", m.op("Transpose", pooled, perm=[0, 3, 1, 2]), m.constant("flat", np.array([0, -1])))
    y = m.op("Tanh", m.op("Flatten", m.op("Transpose", x, perm=[0, 2, 1, 3])))
    y = m.op("Gemm", m.op("Transpose", y, perm=[0, 1]), m.weight("fc", 4 * 7 * 5, 5), m.weight("b", 5))
    z = m.op("MatMul", m.op("Reshape", x, m.constant("all", np.array([-1, 4 * 7 * 5]))), m.weight("fc2", 4 * 7 * 5, 5))
    m.op("Add", m.op("Add", y, z), flat)


CASES = {
    "gelu, written out": gelus,
    "transposes": transposed,
    "arithmetic with constants": scaled,
    "a view": shaped,
    "means, squeezes, gemm": squeezed,
    "activations": activations,
    "pads that differ": lambda m: m.op("Conv", "x", m.weight("w", 4, 3, 3, 2), pads=[0, 1, 2, 0], strides=[2, 1]),
    "same upper": lambda m: m.op("Conv", "x", m.weight("w", 4, 3, 4, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    "same lower": lambda m: m.op("Conv", "x", m.weight("w", 4, 3, 4, 3), auto_pad="SAME_LOWER", strides=[2, 2]),
    "groups, dilation": lambda m: m.op(
        "Conv", "x", m.weight("w", 6, 1, 3, 3), m.weight("b", 6), group=3, dilations=[2, 1]
    ),
    "max pool, ceil": lambda m: m.op("MaxPool", "x", kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1),
    "max pool, end pads": lambda m: m.op("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1]),
    "average, padded": lambda m: m.op("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "average, counted": lambda m: m.op(
        "AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 0, 1], count_include_pad=1, strides=[2, 1]
    ),
    "global": lambda m: m.op("Add", m.op("GlobalAveragePool", "x"), m.op("GlobalMaxPool", "x")),
    "pad": lambda m: m.op("Pad", "x", m.constant("pads", np.array([0, 1, 0, 2, 0, 0, 3, 0]))),
    "strided slice": lambda m: m.op(
        "Slice", "x", *(m.constant(n, np.array(v)) for n, v in
                        (("s", [0, 0]), ("e", [2**31 - 1, 2**63 - 1]), ("a", [2, 3]), ("t", [2, 2])))
    ),
    "no-ops": lambda m: m.op("Relu", m.op("Identity", m.op("Dropout", m.op("Cast", "x", to=1)))),
    "clip by nothing": lambda m: m.op("Relu", m.op("Clip", "x")),
}  # fmt: skip


@pytest.mark.parametrize("batch", ["N", 3])
@pytest.mark.parametrize("case", CASES)
def test_operator_computes_what_onnxruntime_does(case, batch):
    model = FloatModel(3, 9, 7, batch=batch)
    CASES[case](model)
    x = np.random.default_rng(1).normal(size=(3, 3, 9, 7)).astype(np.float32)
    assert_same(model.proto(), x)


# float16 has 11 binary digits; onnxruntime rounds every value to them, the graph does not.
HALF_TOLERANCE = 2.0**-8


@pytest.mark.parametrize("inputs", [TensorProto.FLOAT16, TensorProto.FLOAT])
def test_half_precision_is_widened(inputs):
    """All of a model in float16, and weights alone, which it widens itself."""
    m = FloatModel(3, 9, 7)
    m.input = helper.make_tensor_value_info("x", inputs, ["N", 3, 9, 7])
    weights = [m.constant(n, m.rng.normal(size=s).astype(np.float16)) for n, s in (("w", (4, 3, 3, 3)), ("b", (4,)))]
    if inputs == TensorProto.FLOAT:
        weights = [m.op("Cast", name, to=TensorProto.FLOAT) for name in weights]
    x = m.op("Relu", m.op("Conv", "x", *weights))
    if inputs == TensorProto.FLOAT16:
        x = m.op("Cast", m.op("Add", x, m.constant("half", np.float16(0.3))), to=TensorProto.FLOAT)
    m.op("MaxPool", x, kernel_shape=[2, 2])
    dtype = helper.tensor_dtype_to_np_dtype(inputs)
    given = np.random.default_rng(1).normal(size=(3, 3, 9, 7)).astype(np.float16)
    wanted = run_onnxruntime(m.proto(), given.astype(dtype))
    graph = import_onnx(m.proto())
    (found,) = run_graph(graph, torch.from_numpy(given.astype(np.float32)))
    tolerance = HALF_TOLERANCE if inputs == TensorProto.FLOAT16 else TOLERANCE
    np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
    assert all(array.dtype == np.float32 for array in graph.params.values())


@pytest.mark.parametrize("opset", [9, 11, 13])
def test_older_versions_of_operators_are_read(opset):
    m = FloatModel(3, 9, 7, opset=opset)
    pads, ends = [0, 0, 1, 1, 0, 0, 1, 1], {"min": -0.5, "max": 2.0}
    if opset < 11:
        x = m.op("Clip", m.op("Pad", "x", pads=pads), **ends)
    else:
        x = m.op("Pad", "x", m.constant("pads", np.array(pads)))
        x = m.op("Clip", x, *(m.constant(name, np.float32(end)) for name, end in ends.items()))
    x = m.op("GlobalAveragePool", x)
    m.op("Squeeze", x, axes=[2, 3]) if opset < 13 else m.op("Squeeze", x, m.constant("axes", np.array([2, 3])))
    assert_same(m.proto(), np.random.default_rng(1).normal(size=(2, 3, 9, 7)).astype(np.float32))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_exported_network_computes_what_onnxruntime_does(dynamo, tmp_path):
    if dynamo:
        pytest.importorskip("onnxscript", reason="torch's newer exporter needs onnxscript")
    torch.manual_seed(0)
    path = exported(Sampler(), 3, 17, 15, dynamo=dynamo, path=str(tmp_path / "net.onnx"))
    graph = assert_same(path, np.random.default_rng(1).normal(size=(5, 3, 17, 15)).astype(np.float32))
    assert {"depthwise", "fc", "end"} <= {node.name for node in graph.nodes}
    assert {"wide.weight", "fc.weight", "fc.bias"} <= set(graph.params)
    assert (tmp_path / "net.onnx.data").is_file() == dynamo  # the newer exporter keeps weights beside the model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "shape"), [("cifar_resnet20", (3, 32, 32)), ("squeezenet1_1", (3, 40, 40)), ("mobilenet_v2", (3, 32, 32))]
)
def test_network_of_the_zoo_comes_back(name, shape):
    from dyadiq.ir.capture import capture
    from dyadiq.zoo import build_model

    model = build_model(name).eval()
    x = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
    graph = canonicalize(assert_same(exported(model, *shape), x))
    captured = canonicalize(capture(model, torch.from_numpy(x)))
    assert [node.op for node in graph.nodes] == [node.op for node in captured.nodes]


def test_network_ends_where_it_is_told():
    m = FloatModel(4)
    logits = m.op("Gemm", "x", m.weight("w", 4, 3), output="logits")
    m.op("Softmax", logits)
    graph = import_onnx(m.proto(), outputs=["logits"])
    assert [node.op for node in graph.nodes] == ["linear"]
