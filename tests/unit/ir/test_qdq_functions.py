"""Functions of single values between ONNX's quantizers: tables by the definition in float64, onnxruntime's codes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from dyadiq.core.errors import CaptureError
from dyadiq.core.native import native_module
from dyadiq.ir.qonnx_import import import_qonnx
from dyadiq.ir.reference import run_reference
from dyadiq.targets.verify import verify
from float_onnx import run_onnxruntime
from qdq_models import ARBITRARY, POWERS, Quantized

pytest.importorskip("onnxruntime", reason="ONNX files are run by onnxruntime")

# Operator, attributes, and what torch calls it.
FUNCTIONS = [
    ("Elu", {"alpha": 0.7}, lambda x: F.elu(x, 0.7)),
    ("Erf", {}, torch.erf),
    ("Gelu", {}, F.gelu),
    ("Gelu", {"approximate": "tanh"}, lambda x: F.gelu(x, approximate="tanh")),
    ("HardSigmoid", {}, lambda x: (0.2 * x + 0.5).clamp(0, 1)),
    ("HardSigmoid", {"alpha": 1 / 6}, F.hardsigmoid),
    ("HardSwish", {}, F.hardswish),
    ("LeakyRelu", {"alpha": 0.125}, lambda x: F.leaky_relu(x, 0.125)),
    ("Sigmoid", {}, torch.sigmoid),
    ("Softplus", {}, F.softplus),
    ("Tanh", {}, torch.tanh),
]
SAMPLES = np.arange(-400, 400, dtype=np.float32)[:, None] * np.float32(ARBITRARY[0])  # more than all codes of the input


def by_definition(codes, function, given, made, dtype):
    """Codes of ``function`` between two quantizers, each a scale and a zero point."""
    x = torch.from_numpy((codes - given[1]) * np.float64(np.float32(given[0])))
    ends = np.iinfo(dtype)
    steps = np.round(function(x).numpy() / np.float64(np.float32(made[0]))) + made[1]
    return np.clip(steps, ends.min, ends.max).astype(np.int64)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize(("operator", "attrs", "torch_function"), FUNCTIONS)
def test_function_is_a_table_by_the_definition_and_onnxruntime_has_its_codes(operator, attrs, torch_function, dtype):
    m = Quantized(1, dtype=dtype, opset=20)
    m.q(m.op(operator, m.q("x"), **attrs))
    program = import_qonnx(m.proto())
    assert [node.op for node in program.graph.nodes] == ["quantize", "lookup"]
    (quantize, lookup), middle = program.graph.nodes, 128 if dtype == np.uint8 else 0
    found = run_reference(program, {"x": SAMPLES}, taps=[quantize.output])
    ours = found[lookup.output]
    made = (ARBITRARY[1], middle - 7)
    assert np.array_equal(
        ours, by_definition(found[quantize.output], torch_function, (ARBITRARY[0], middle + 1), made, dtype)
    )
    theirs = np.rint(run_onnxruntime(m.proto(), SAMPLES).astype(np.float64) / np.float32(made[0])) + made[1]
    assert np.array_equal(ours, theirs.astype(np.int64))
    assert len(np.unique(ours)) > 40


def silu(m, x, between):
    return m.op("Mul", x, between(m.op("Sigmoid", x)))


def hard_swish_of_sigmoid(m, x, between):
    return m.op("Mul", between(m.op("HardSigmoid", x, alpha=1 / 6)), x)


def hard_swish_of_clip(m, x, between):
    """As TensorFlow's exporters write it."""
    x3 = between(m.op("Add", x, m.constant("three", np.float32(3))))
    x3 = between(m.op("Clip", x3, m.constant("low", np.float32(0)), m.constant("high", np.float32(6))))
    return m.op("Div", m.op("Mul", x, x3), m.constant("six", np.float32(6)))


def arithmetic(m, x, between):
    """``relu(0.7 - tanh(x)) + 0.25`` and its square."""
    y = m.op("Relu", m.op("Sub", m.constant("c", np.float32(0.7)), between(m.op("Tanh", x))))
    y = between(m.op("Add", y, m.constant("d", np.float32(0.25))))
    return m.op("Mul", y, y)


def gelu(m, x, between):
    y = m.op("Erf", m.op("Div", x, m.constant("root", np.float32(2**0.5))))
    y = m.op("Add", between(y), m.constant("one", np.float32(1)))
    return m.op("Mul", m.op("Mul", x, y), m.constant("half", np.float32(0.5)))


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("build", [silu, hard_swish_of_sigmoid, hard_swish_of_clip, arithmetic, gelu])
def test_what_depends_on_the_same_codes_is_one_table(build, quantized):
    m = Quantized(2, 3, 3)
    x = m.q(m.op("Conv", m.q("x"), m.w(4, 2, 3, 3)), scale=0.05)
    m.q(build(m, x, m.q if quantized else lambda y: y))
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(200, 2, 3, 3)).astype(np.float32) * 3
    program = import_qonnx(m.proto(), nearest=True)
    assert program.graph.nodes[-1].op == "lookup"
    ours = run_reference(program, {"x": inputs})[program.graph.outputs[0]]
    info = program.graph.tensors[program.graph.outputs[0]]
    theirs = np.rint(run_onnxruntime(m.proto(), inputs) / np.asarray(info.scale)) + info.zero_point
    assert np.abs(ours - theirs).max() <= 5  # a code of the convolution near a tie: several of a finer scale
    assert (ours != theirs).mean() <= 0.01
    assert len(np.unique(ours)) > 5
    verify(program, inputs, against=["exact", *(["engine"] if native_module() else [])])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_codes_to_another_arbitrary_scale_are_exact_without_near_forms(dtype):
    m = Quantized(1, dtype=dtype)
    m.q(m.op("Add", m.q("x"), m.constant("c", np.float32(0.3))))
    program = import_qonnx(m.proto())
    quantize, middle = program.graph.nodes[0], 128 if dtype == np.uint8 else 0
    found = run_reference(program, {"x": SAMPLES}, taps=[quantize.output])
    given, made = (ARBITRARY[0], middle + 1), (ARBITRARY[1], middle - 7)
    wanted = by_definition(found[quantize.output], lambda x: x + float(np.float32(0.3)), given, made, dtype)
    assert np.array_equal(found[program.graph.outputs[0]], wanted)


def test_scales_of_powers_of_two_stay_shifts():
    """Also where ties occur, which two shifts and a sum round to even."""
    m = Quantized(1, scales=POWERS)
    m.q(m.q(m.q("x"), zero=128), zero=127)
    assert "lookup" not in [node.op for node in import_qonnx(m.proto()).graph.nodes]


def other(m, x):
    return m.op("Conv", x, m.w(3, 3, 1, 1))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda m, x: m.q(m.op("Mul", x, other(m, x))), r"mul_\w+ \(Mul\): a function of values that"),
        (lambda m, x: m.q(m.op("Mul", x, m.q(other(m, x)))), "multiplies two tensors that depend on"),
        (lambda m, x: m.q(m.op("Add", m.op("Tanh", x), other(m, x))), "a function of values that are no"),
        (lambda m, x: m.q(m.op("Sigmoid", other(m, x))), "Quantize its input so"),
        (lambda m, x: m.q(m.op("Sigmoid", "x")), "reads input 'x', which has no quantizer"),
        (lambda m, x: m.q(other(m, m.op("Tanh", x))), r"a function \(Sigmoid, say\) that are not quant"),
        (lambda m, x: m.op("Sigmoid", x), r"End the program before it: outputs=\['dequantizelinear_1'\]"),
        (lambda m, x: m.q(m.op("Elu", x, alpha=float("inf"))), "values are not finite"),
        (lambda m, x: m.q(m.op("Mul", m.op("Tanh", x), m.weight("w", 3, 1, 1))), "differs between channels"),
    ],
)
def test_what_is_no_table_is_refused_by_name(build, message):
    m = Quantized(3, 4, 4)
    build(m, m.q("x"))
    with pytest.raises(CaptureError, match=message):
        import_qonnx(m.proto(), nearest=True)
