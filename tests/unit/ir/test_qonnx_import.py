"""QONNX import: equal to the qonnx executor on networks of others; what has no exact form is refused, all of it."""

import contextlib
import shutil
import warnings
from fractions import Fraction
from math import ceil, floor

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.infer_shapes import InferShapes
from qonnx.util.cleanup import cleanup_model

from dyadiq.core.data_folder import data_folder
from dyadiq.core.errors import ArtifactError, CaptureError, ConfigError, DyadiqError, UnknownNameError
from dyadiq.ir.integer import input_grid
from dyadiq.ir.qonnx_import import import_qonnx
from dyadiq.ir.qonnx_import_rounding import ROUNDING_MODES, find_rescale, rounded
from dyadiq.ir.reference import run_reference
from dyadiq.targets import get_target
from dyadiq.targets.verify import verify
from hostile_onnx import mutated_bytes, mutated_model
from programs import PROGRAMS

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


@pytest.mark.parametrize("domain", [DOMAIN, "finn.custom_op.general"])
def test_mlp_with_ties_is_equal_and_ties_are_noted(domain):
    rng = np.random.default_rng(0)
    m = Model(domain=domain)
    x = m.quant("x", 2.0**-4, 6)
    x = m.quant(m.op("Relu", layer(m, x, 4, 8, rng)), 2.0**-3, 5, signed=0)
    x = m.quant(layer(m, x, 8, 5, rng), 2.0**-2, 6, kind="IntQuant")
    program = check_equal(m.proto(layer(m, x, 5, 3, rng)))
    assert any("ties to even can occur and are computed exactly" in note for note in program.provenance["notes"])
    assert [n.op for n in program.graph.nodes].count("linear") == 3
    assert program.provenance["outputs"] == {m.nodes[-1].output[0]: program.graph.outputs[0]}


@pytest.mark.parametrize("zero", [0.0, 3.0])
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("mode", ROUNDING_MODES)
def test_every_rounding_mode_is_equal_or_refused(mode, signed, zero):
    """Codes cover every residue; after the relu (unsigned) all modes have a form, over both signs some have none."""
    m = Model()
    x = m.quant("x", 2.0**-5, 7)
    x = m.op("Relu", x) if not signed else x
    proto = m.proto(m.quant(x, 2.0**-3, 4, signed=signed, mode=mode, zero=zero))
    if mode in ("HALF_UP", "HALF_DOWN", "UP", "DOWN") and signed:
        with pytest.raises(CaptureError, match=f"rounding {mode} to int4 at step 0.125 has no exact form"):
            import_qonnx(proto)
    else:
        check_equal(proto)


def test_power_of_two_rescale_without_ties_is_one_node():
    m = Model()
    program = check_equal(m.proto(m.quant(m.quant("x", 2.0**-3, 7), 2.0**-1, 4, mode="FLOOR")))
    assert [n.op for n in program.graph.nodes] == ["quantize", "linear", "requantize"]
    program = check_equal(m.proto(m.quant(m.quant("x", 2.0**-3, 7), 2.0**-3, 4)))
    assert [n.op for n in program.graph.nodes] == ["quantize", "requantize"]


@pytest.mark.parametrize("averaged", [True, False])
def test_cnn_with_batch_norm_and_pooling_is_equal(averaged):
    rng = np.random.default_rng(0)
    m = Model((2, 8, 8))
    x = m.quant("x", 2.0**-3, 5)
    w = m.quant(rng.normal(size=(4, 2, 3, 3)), np.array([0.25, 0.5, 0.25, 0.125]).reshape(4, 1, 1, 1), 4, narrow=1)
    x = m.op("Conv", x, w, rng.integers(-9, 9, 4) / 32, kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1])
    x = m.op("BatchNormalization", x, [0.5, -1, 2, 0], [0.25, 0, 1, 2], [0.125, 0, 0, 1], [1, 1, 4, 1], epsilon=0.0)
    x = m.quant(m.op("Relu", x), 2.0**-2, 4, signed=0)
    x = m.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    w = m.quant(rng.normal(size=(4, 1, 2, 2)), 2.0**-2, 3)
    x = m.quant(m.op("Conv", x, w, kernel_shape=[2, 2], group=4, strides=[1, 1], pads=[0] * 4), 2.0**-1, 5)
    if averaged:
        x = m.quant(m.op("GlobalAveragePool", x), 2.0**-2, 6)
        x = m.op("Flatten", x, axis=1)
    else:
        x = m.op("AveragePool", x, kernel_shape=[2, 2], strides=[1, 1], pads=[0] * 4)
        x = m.reshape(m.quant(x, 2.0**-2, 6), 1, 16)
    n = 4 if averaged else 16
    check_equal(m.proto(m.op("Gemm", x, m.quant(rng.normal(size=(3, n)), 0.25, 4), np.ones(3), transB=1)), count=100)


def test_residual_concat_and_mixed_scales_are_equal():
    rng = np.random.default_rng(0)
    m = Model()
    x = m.quant("x", 2.0**-4, 6)
    a, b = m.quant(layer(m, x, 4, 4, rng), 2.0**-2, 4), m.quant(layer(m, x, 4, 4, rng), 0.5, 3, signed=0)
    total = m.quant(m.op("Sub", m.op("Add", a, b), x), 2.0**-3, 6)
    both = m.op("Concat", a, total, m.op("Neg", a), axis=1)
    mixed = m.op("Mul", both, np.array([1, 2, 0.5, 1] * 3))
    check_equal(m.proto(layer(m, mixed, 12, 3, rng)))


def test_zero_points_bipolar_and_trunc_are_equal():
    rng = np.random.default_rng(0)
    m = Model((2, 5, 5))
    x = m.quant("x", 0.5, 4, signed=0, zero=7.0)
    x = m.op("Conv", x, m.quant(rng.normal(size=(3, 2, 3, 3)), 0.25, 3), kernel_shape=[3, 3], pads=[1] * 4)
    x = m.quant(x, 1.0, 5, signed=0, zero=11.0)
    x = m.op("AveragePool", x, kernel_shape=[2, 2], strides=[1, 1], pads=[1] * 4, count_include_pad=1)
    x = m.op("Trunc", m.quant(x, 0.25, 8), 0.25, 0.0, 8.0, 1.0, 6.0, domain=DOMAIN, rounding_mode="FLOOR", signed=1)
    x = m.op("BipolarQuant", m.op("Add", m.op("Flatten", x, axis=1), 0.5), 1.0, domain=DOMAIN)
    w = m.op("BipolarQuant", rng.normal(size=(108, 3)), 0.5, domain=DOMAIN)
    check_equal(m.proto(m.op("MatMul", x, w)), count=100)


def test_input_preprocessing_is_folded_into_the_input_quantizer():
    m = Model()
    x = m.op("Add", m.op("Div", "x", 0.25), 0.5)
    program = check_equal(m.proto(m.quant(x, 1.0, 6, mode="FLOOR")))
    assert not program.provenance["notes"]
    off_grid = np.random.default_rng(0).normal(size=(500, 4)) * 4
    np.testing.assert_array_equal(real(program, off_grid), np.clip(np.floor(off_grid / 0.25 + 0.5), -32, 31))


def test_scales_that_are_no_powers_of_two_are_exact_in_real_arithmetic():
    """Compared with rational numbers, since the executor rounds to float32 on the way."""
    rng = np.random.default_rng(0)
    m = Model()
    scale, step, out = np.float32(0.0731), np.float32(0.0419), np.float32(0.1013)
    weight = rng.normal(size=(4, 3)).astype(np.float32)
    x = m.op("MatMul", m.quant("x", scale, 6), m.quant(weight, step, 4))
    program = import_qonnx(m.proto(m.quant(x, out, 5)))
    data = on_grid(program, rng, 200)
    codes = np.clip(np.rint(data / scale), -32, 31).astype(int)
    w = np.clip(np.rint(weight / step), -8, 7).astype(int)
    ratio = Fraction(float(scale)) * Fraction(float(step)) / Fraction(float(out))
    want = [[min(max(round(int(v) * ratio), -16), 15) for v in row] for row in codes @ w]
    np.testing.assert_array_equal(next(iter(run_reference(program, data).values())), want)


@pytest.mark.parametrize("name", sorted(set(PROGRAMS) - {"zero_points", "wide", "pow2_cnn"}))
def test_own_exports_come_back_as_the_same_integers(name, tmp_path):
    rng = np.random.default_rng(0)
    program = PROGRAMS[name](rng)
    (file,) = get_target("qonnx").write(program, tmp_path)
    back = import_qonnx(file)
    feeds = {}
    for node in program.graph.nodes:
        if node.op == "quantize":
            info, scale = program.graph.tensors[node.output], float(program.graph.params[node.inputs[1]])
            codes = rng.integers(info.qtype.qmin, info.qtype.qmax, (50, *info.shape), endpoint=True)
            grid = input_grid(program.graph, node)
            codes = codes if grid is None else grid.quantize(1.0 * codes, 1.0)
            feeds[node.inputs[0]] = np.where(codes >= 0, 1.0, -1.0) if info.qtype.bipolar else codes * scale
    got = run_reference(back, dict(zip(back.graph.inputs, (feeds[i] for i in program.graph.inputs), strict=True)))
    want = run_reference(program, feeds)
    for (one, other), tensor in zip(zip(got.values(), want.values(), strict=True), program.graph.outputs, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=tensor)


def test_grids_of_channels_come_back_with_their_codes_and_limits(tmp_path):
    program = PROGRAMS["pow2_grids"](np.random.default_rng(0))
    (file,) = get_target("qonnx").write(program, tmp_path)
    back = import_qonnx(file)
    ours, theirs = (input_grid(p.graph, p.graph.nodes[0]) for p in (program, back))
    assert ours.same_as(theirs)
    raw = np.random.default_rng(1).normal(0, 6, (500, 7))
    raw[::2] = np.round(raw[::2] * 32) / 32  # and values exactly between two codes
    got, want = (next(iter(run_reference(p, raw).values())) for p in (back, program))
    np.testing.assert_array_equal(got, want)


def test_channels_with_steps_and_limits_of_their_own_are_equal():
    """As another exporter might: steps by channel only, limits by channel only, signs, offsets and zero points."""
    rng = np.random.default_rng(0)
    m = Model()
    x = m.op("Max", m.op("Min", "x", [[2.5, 100, 1, -1]]), -1.25)
    x = m.quant(m.op("Add", x, [[0.25, 1.125, 0.5, 3.0]]), [[0.5, 0.25, 1, 2]], 4, mode="FLOOR", zero=1.0)
    check_equal(m.proto(layer(m, x, 4, 3, rng)))
    m = Model((3, 4, 4))
    x = m.op("Add", m.op("Mul", "x", np.array([1, 2, 4.0]).reshape(1, 3, 1, 1)), 0.25)
    x = m.quant(m.op("Max", x, -1.0), 0.5, 3, mode="FLOOR")
    w = m.quant(rng.normal(size=(2, 3, 2, 2)), 0.25, 4)
    check_equal(m.proto(m.op("Conv", x, w, kernel_shape=[2, 2])))


def test_max_and_min_with_constants_are_clips():
    rng = np.random.default_rng(0)
    m = Model()
    total = layer(m, m.quant("x", 0.5, 5), 4, 3, rng)
    x = m.quant(m.op("Min", 6.0, m.op("Max", total, -1.5)), 0.5, 6)
    check_equal(m.proto(layer(m, x, 3, 3, rng)))


def test_max_pool_padded_unevenly_is_read_where_the_windows_are_ours():
    m = Model((1, 4, 4))
    x, pads = m.quant("x", 0.5, 5), [1, 1, 0, 0]
    check_equal(m.proto(m.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=pads)))
    m = Model((1, 4, 4))
    x = m.op("MaxPool", m.quant("x", 0.5, 5), kernel_shape=[2, 2], strides=[1, 1], pads=[0, 0, 1, 1])
    with pytest.raises(CaptureError, match="differ between begin and end"):
        import_qonnx(m.proto(x))


@pytest.mark.skipif(not ZOO.is_file(), reason="needs DYADIQ_DATA with models/qkeras_jettagging.onnx")
def test_jet_tagger_of_the_zoo_is_equal_on_ten_thousand_inputs():
    """Its input has no quantizer and it ends in a softmax; both are said at once, and both have a way out."""
    with pytest.raises(
        CaptureError, match=r"reads input 'global_in', which(.|\n)*Softmax(.|\n)*outputs=\['Add_3_out0'\]"
    ):
        import_qonnx(ZOO)
    program = import_qonnx(ZOO, outputs=["Add_3_out0"], input_types={"global_in": ("int16", 2.0**-10)})
    x = np.random.default_rng(0).normal(0, 2, (10_000, 16))
    x = np.clip(np.round(x * 1024), -(2**15), 2**15 - 1) / 1024
    np.testing.assert_array_equal(real(program, x), execute(onnx.load(ZOO), x, "Add_3_out0"))
    results = verify(program, x[:500], ["exact", "onnx"], raise_on_mismatch=False)
    assert [r.mismatches for r in results.values()] == [0, 0]


def brevitas_export(net, shape, path):
    torch = pytest.importorskip("torch")
    export = pytest.importorskip("brevitas.export").export_qonnx
    net.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters of torch and brevitas warn about each other
        export(net, torch.zeros(1, *shape), str(path), dynamo=False)
    return onnx.load(path)


@pytest.fixture(scope="module")
def brevitas():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("brevitas.nn"), pytest.importorskip("brevitas.quant")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_brevitas_mlp_with_float_scales_agrees_with_the_executor(brevitas, tmp_path):
    """Hidden codes are equal; the output is an accumulator whose real value the executor rounds to float32."""
    import torch

    qnn, quant = brevitas
    torch.manual_seed(0)
    bias = {"bias": True, "bias_quant": quant.Int32Bias}
    net = torch.nn.Sequential(
        qnn.QuantIdentity(bit_width=8, return_quant_tensor=True),
        qnn.QuantLinear(6, 12, weight_bit_width=4, return_quant_tensor=True, **bias),
        qnn.QuantReLU(bit_width=4, return_quant_tensor=True),
        qnn.QuantLinear(12, 3, weight_bit_width=3, **bias),
    )
    net(torch.randn(256, 6))
    proto = brevitas_export(net, (6,), tmp_path / "net.onnx")
    program = import_qonnx(proto)
    assert any("up to float32 rounding" in note for note in program.provenance["notes"])
    x = on_grid(program, np.random.default_rng(0), 1000)
    step = float(np.max(program.graph.tensors[program.graph.outputs[0]].scale))
    assert np.abs(real(program, x) - execute(proto, x)).max() < step / 100


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_brevitas_cnn_with_fixed_point_scales_is_equal(brevitas, tmp_path):
    import torch

    qnn, quant = brevitas
    torch.manual_seed(0)
    weight = {"weight_quant": quant.Int8WeightPerTensorFixedPoint, "bias": False}
    net = torch.nn.Sequential(
        qnn.QuantIdentity(act_quant=quant.Int8ActPerTensorFixedPoint, bit_width=6, return_quant_tensor=True),
        qnn.QuantConv2d(2, 4, 3, padding=1, weight_bit_width=4, **weight),
        torch.nn.BatchNorm2d(4),
        qnn.QuantReLU(act_quant=quant.Uint8ActPerTensorFixedPoint, bit_width=4, return_quant_tensor=True),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        qnn.QuantLinear(16, 3, weight_bit_width=5, **weight),
    )
    net(torch.randn(256, 2, 4, 4))
    check_equal(brevitas_export(net, (2, 4, 4), tmp_path / "net.onnx"), count=1000)


# -- rounding --------------------------------------------------------------------------------------


def naive_round(v, mode):
    """The seven rules of QONNX, written apart from the package."""
    size, sign = abs(v), 1 if v >= 0 else -1
    half = Fraction(1, 2)
    if mode == "HALF_EVEN":
        low = floor(v)
        return low + (v - low > half or (v - low == half and low % 2 == 1))
    return {
        "FLOOR": floor(v),
        "CEIL": ceil(v),
        "UP": sign * ceil(size),
        "DOWN": sign * floor(size),
        "HALF_UP": sign * floor(size + half),
        "HALF_DOWN": sign * ceil(size - half),
    }[mode]


def apply(r, code):
    x, shift = r.gain[0] * code + r.bias[0], r.shift[0]
    if r.composed:
        h = 2 ** (shift - 1)
        return ((x + h - 1 + 2 * h) >> (shift + 1)) + ((x - h + 2 * h) >> (shift + 1))
    return (x * r.multiplier[0] + (2 ** (shift - 1) if shift else 0)) >> shift


@settings(max_examples=300, deadline=None)
@given(
    alpha=st.fractions(Fraction(1, 64), 8, max_denominator=64),
    beta=st.fractions(-20, 20, max_denominator=32),
    low=st.integers(-60, 20),
    span=st.integers(0, 90),
    limits=st.sampled_from([(-8, 7), (0, 15), (-128, 127)]),
    mode=st.sampled_from(ROUNDING_MODES),
)
def test_what_is_proven_holds_for_every_code(alpha, beta, low, span, limits, mode):
    r = find_rescale([alpha], [beta], [low], [low + span], limits, mode)
    for code in range(low, low + span + 1):
        v = alpha * code + beta
        assert rounded(v, mode) == naive_round(v, mode)
        if r is not None:
            assert np.clip(apply(r, code), *limits) == np.clip(naive_round(v, mode), *limits)


@pytest.mark.parametrize("mode", ["HALF_EVEN", "FLOOR", "CEIL"])
@pytest.mark.parametrize("e", range(7))
def test_dyadic_ratios_always_have_a_form_in_the_common_modes(mode, e):
    assert find_rescale([Fraction(3, 2**e)], [Fraction(5, 16)], [-500], [500], (-(2**15), 2**15), mode) is not None


def test_many_steps_are_proven_by_algebra_or_refused():
    wide = (-(2**20), 2**20)
    assert find_rescale([Fraction(1, 4)], [Fraction(0)], [-(2**24)], [2**24], wide, "HALF_EVEN").composed
    assert find_rescale([Fraction(1, 4)], [Fraction(0)], [-(2**24)], [2**24], wide, "FLOOR").bias == (-2,)
    assert find_rescale([Fraction(1, 3)], [Fraction(0)], [-(2**24)], [2**24], wide, "HALF_EVEN") is None


# -- refusals --------------------------------------------------------------------------------------


def test_every_offending_node_is_listed():
    m = Model()
    x = m.quant("x", 0.25, 6)
    a = m.op("Sin", x)
    b = m.op("Mul", x, x)
    c = m.quant(m.op("MatMul", x, np.full((4, 2), 0.1)), 0.25, 4)
    d = m.quant(x, 0.5, 4.5)
    m.op("Add", a, b)
    proto = m.proto(m.nodes[-1].output[0], c, d)
    with pytest.raises(CaptureError, match="4 parts cannot be expressed exactly in integers") as caught:
        import_qonnx(proto)
    for line in ("Sin_.*no such operator", "Mul_.*multiplies two tensors", "weights are not quantized", "width of 4.5"):
        assert caught.match(line)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda m: m.quant("x", 0.25, 6, mode="FLOOR"), "rounds the input 'x' with FLOOR.*input_types"),
        (lambda m: m.quant("x", 0.25, 6, mode="ODD"), "unknown rounding mode 'ODD'"),
        (lambda m: m.quant("x", -0.25, 6), "a scale that is not positive and finite"),
        (lambda m: m.quant("x", 0.25, 1), "means bipolar to the executor"),
        (lambda m: m.quant(m.quant("x", 1, 6), [0.25, 0.5, 1, 1], 6), "its scale differs between channels"),
        (lambda m: m.quant("x", [0.25, 0.5, 0.75, 1], 6), "input 'x' with steps whose ratios are no powers of two"),
        (lambda m: m.quant(m.op("Neg", m.op("Max", "x", [1, 2, 3, 4])), 1.0, 6), "by a factor that is not positive"),
        (lambda m: m.quant(m.op("Neg", "x"), [1, 2, 1, 1], 6), "by a factor that is not positive before quantizing"),
        (
            lambda m: m.quant(m.op("Add", m.op("Max", "x", [1, 2, 3, 4]), 0.25), 1.0, 6, mode="FLOOR"),
            "rounds the input",
        ),
        (lambda m: m.quant(m.op("Max", "x", [1, 2, 3, 4]), 1.0, 6, zero=0.5), "a zero point of 0.5"),
        (lambda m: m.op("Max", m.quant("x", 1, 6), [1, 2, 3, 4]), "clips each channel in its own way"),
        (lambda m: m.op("Max", m.quant("x", 1, 6), 1.0, 2.0), "the maximum of 3 tensors"),
        (lambda m: m.op("Min", m.quant("x", 1, 6), m.quant("x", 1, 6)), "the minimum of two tensors"),
        (lambda m: m.quant("x", 0.25, 6, zero=0.5), "a zero point of 0.5"),
        (lambda m: m.quant(m.op("Mul", "x", [1, 2, 3, 4.0]), 1.0, 6), "whose ratios are no powers of two"),
        (lambda m: m.quant(m.op("Neg", "x"), 1.0, 6), "more than one positive factor"),
        (lambda m: m.op("Div", m.quant("x", 0.25, 6), 0.0), "divides by zero"),
        (lambda m: m.op("MatMul", m.quant("x", 0.25, 6), np.ones((3, 2))), "by weights"),
        (lambda m: m.op("MatMul", m.quant("x", 1, 6), m.quant("x", 1, 6)), "its second factor must be a constant"),
        (lambda m: m.op("Add", m.quant("x", 0.3, 6), 0.1), "an offset between its steps. Quantize the output"),
        (lambda m: m.op("Concat", m.quant("x", 1, 6), m.quant("x", 1, 6), axis=0), "along axis 0"),
        (lambda m: m.quant(m.quant("x", 0.125, 6), 0.75, 4), "rounding HALF_EVEN to int4 at step 0.75 has no exact"),
        (lambda m: m.op("Relu", np.ones(3)), "depends on the input"),
        (lambda m: m.op("Transpose", m.quant("x", 0.25, 6)), "must be a constant"),
        (lambda m: m.op("Relu", "nothing"), "reads nothing, which nothing before it makes"),
        (lambda m: m.op("Quant", "x", domain=DOMAIN), "its scale must be a constant"),
        (lambda m: m.op("Foo", "x", domain="other"), "no such operator of domain other"),
    ],
)
def test_refusals_say_why(build, message):
    m = Model()
    with pytest.raises(CaptureError, match=message):
        import_qonnx(m.proto(build(m)))


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"auto_pad": "SAME_UPPER"}, "auto_pad=SAME_UPPER"),
        ({"pads": [0, 0, 1, 1]}, "differ between begin and end"),
        ({"pads": [0, 0]}, "not two-dimensional"),
        ({"strides": [0, 1]}, "a window"),
        ({"dilations": [9, 9]}, "a window of 3 over a tensor of 6"),
        ({"group": 2}, "convolves a tensor"),
    ],
)
def test_windows_that_are_not_ours_are_refused(attrs, message):
    m = Model((2, 6, 6))
    x = m.op("Conv", m.quant("x", 0.25, 6), m.quant(np.ones((2, 2, 3, 3)), 1.0, 3), kernel_shape=[3, 3], **attrs)
    with pytest.raises(CaptureError, match=message):
        import_qonnx(m.proto(x))


def test_wrong_arguments_are_refused():
    proto = Model().proto("t0")
    m = Model()
    proto = m.proto(m.quant("x", 0.25, 6))
    with pytest.raises(UnknownNameError, match=r"unknown tensor 't9'\. Known: t0"):
        import_qonnx(proto, outputs=["t9"])
    with pytest.raises(UnknownNameError, match="unknown input 'y'"):
        import_qonnx(proto, input_types={"y": ("int8", 1.0)})
    with pytest.raises(ConfigError, match="not a code type: 'byte'"):
        import_qonnx(proto, input_types={"x": ("byte", 1.0)})
    with pytest.raises(ConfigError, match="the scale of 'x' must be positive and finite, got -1"):
        import_qonnx(proto, input_types={"x": ("int8", -1.0)})


def test_files_that_are_no_models_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"nothing\.onnx: cannot be read: No such file"):
        import_qonnx(tmp_path / "nothing.onnx")
    (tmp_path / "a.onnx").write_bytes(b"\xff\xff\xff")
    with pytest.raises(ArtifactError, match=r"a\.onnx: not an ONNX file"):
        import_qonnx(tmp_path / "a.onnx")
    with pytest.raises(ArtifactError, match="has no nodes"):
        import_qonnx(b"")
    m = Model((2, 2))
    with pytest.raises(CaptureError, match=r"input x: shape \[1, 2, 2\]"):
        import_qonnx(m.proto(m.quant("x", 0.25, 6)))


def test_constants_outside_the_file_or_not_finite_are_refused():
    m = Model()
    proto = m.proto(m.quant("x", 0.25, 6))
    external = proto.graph.initializer.add()
    external.name, external.data_type = "far", TensorProto.FLOAT
    external.external_data.add(key="location", value="../../secret")
    proto.graph.initializer.append(numpy_helper.from_array(np.array([np.nan], dtype=np.float32), "nan"))
    with pytest.raises(
        CaptureError, match=r"far: its data lie in another file(.|\n)*nan: it holds values that are not"
    ):
        import_qonnx(proto)


def valid_model():
    rng = np.random.default_rng(0)
    m = Model((2, 4, 4))
    x = m.op("Conv", m.quant("x", 0.25, 4), m.quant(rng.normal(size=(2, 2, 3, 3)), 0.5, 3), np.ones(2), pads=[1] * 4)
    x = m.op("MaxPool", m.quant(m.op("Relu", x), 0.5, 4, signed=0), kernel_shape=[2, 2], strides=[2, 2])
    return m.proto(layer(m, m.reshape(x, 1, 8), 8, 3, rng)).SerializeToString()


VALID = valid_model()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_files_never_crash(data):
    content = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "grow"]))
        if kind == "flip":
            content[at] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del content[at : at + data.draw(st.integers(1, 8))]
        else:
            content[at:at] = data.draw(st.binary(min_size=1, max_size=4))
        if not content:
            break
    with contextlib.suppress(DyadiqError):
        import_qonnx(bytes(content))


@pytest.mark.parametrize("mutate", [mutated_bytes, mutated_model])
@pytest.mark.parametrize("name", ["small", "zoo"])
def test_hostile_models_are_refused_or_read_but_never_crash(name, mutate):
    """A few hundred seeded mutations; the same on 20,000 found what the tests below pin down."""
    if name == "zoo" and not ZOO.is_file():
        pytest.skip("needs DYADIQ_DATA with models/qkeras_jettagging.onnx")
    content = VALID if name == "small" else ZOO.read_bytes()
    for seed in range(120 if name == "small" else 40):
        with contextlib.suppress(DyadiqError):
            import_qonnx(mutate(content, np.random.default_rng(seed)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda m: m.quant("x", np.nan, 4), "it holds values that are not finite"),
        (lambda m: m.quant("x", 0.0, 4), "a scale that is not positive and finite"),
        (lambda m: m.quant("x", 1.0, 0), "a bit width of 0"),
        (lambda m: m.quant("x", 1.0, -3), "a bit width of -3"),
        (lambda m: m.quant("x", 1.0, 1e30), r"a bit width of 1\.0"),
        (lambda m: m.op("MatMul", m.quant("x", 1, 4), m.quant(np.ones((4, 1)), 1, 4, zero=3e9)), "beyond 32 bits"),
        (lambda m: m.op("MatMul", m.quant("x", 1, 4), m.quant(m.op("Div", np.ones((4, 1)), 0), 1, 4)), "not finite"),
        (lambda m: m.op("Add", m.quant("x", 2.0**-60, 4), 2.0**60), "an integer of more than 64 bits"),
        (lambda m: m.op("Softmax"), "no such operator$"),
        (lambda m: m.op("Add", m.quant("x", 1, 4), m.op("Constant")), "a constant without a number"),
        (lambda m: m.op("Add", m.quant("x", 1, 4), np.ones((2, 1, 4))), r"constant of shape \(2, 1, 4\) against"),
    ],
)
def test_hostile_numbers_are_refused_with_the_reason(build, message):
    m = Model()
    with pytest.raises(CaptureError, match=message):
        import_qonnx(m.proto(build(m)))


def test_huge_sizes_are_refused_without_allocating():
    m = Model((1 << 40,))
    with pytest.raises(CaptureError, match=r"input x: shape .* at most 65536 channels"):
        import_qonnx(m.proto(m.quant("x", 1.0, 4)))
    m = Model((1, 1 << 13, 1 << 13))
    with pytest.raises(CaptureError, match=r"makes a tensor of shape \(67108864,\); at most 65536 channels"):
        import_qonnx(m.proto(m.op("Flatten", m.quant("x", 1.0, 4), axis=1)))
    m = Model()
    proto = m.proto(m.op("Add", m.quant("x", 1.0, 4), 1.0))
    proto.graph.initializer[0].dims.extend([1 << 40, 1 << 40])
    with pytest.raises(CaptureError, match="its shape"):
        import_qonnx(proto)


def test_constants_that_are_no_real_numbers_are_refused():
    m = Model()
    proto = m.proto(m.quant("x", 1.0, 4))
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(2, dtype=np.complex64), "odd"))
    with pytest.raises(CaptureError, match="constant odd: it holds values of type complex64"):
        import_qonnx(proto)


def test_cycles_duplicates_and_nested_graphs_are_refused():
    m = Model()
    x = m.quant("x", 1.0, 4)
    m.op("Relu", "t2")
    m.op("Relu", "t1")
    with pytest.raises(CaptureError, match="reads t2, which nothing before it makes"):
        import_qonnx(m.proto(m.op("Add", x, "t2")))
    m = Model()
    nested = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "nested", [], [])
    with pytest.raises(CaptureError, match=r"If_t1 \(If\): integer programs have no such operator"):
        import_qonnx(m.proto(m.op("If", m.quant("x", 1.0, 4), then_branch=nested, else_branch=nested)))
    m = Model()
    m.op("Relu", m.quant("x", 1.0, 4))
    m.nodes[1].output[0] = "t0"
    with pytest.raises(CaptureError, match="tensor t0: made 2 times"):
        import_qonnx(m.proto("t0"))


def test_channels_that_are_alike_are_proven_once():
    """Eight thousand channels in a moment, where one proof each took a minute."""
    m = Model((8192, 1, 1))
    program = import_qonnx(m.proto(m.quant(m.quant("x", 1.0, 12), 2.0, 12, mode="FLOOR")))
    assert program.graph.nodes[-1].op == "requantize"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_ties_to_even_are_exact_in_hls4ml():
    """Two floors of the sum with a constant; hls4ml adds the constants exactly."""
    pytest.importorskip("hls4ml")
    rng = np.random.default_rng(0)
    m = Model()
    x = m.quant("x", 2.0**-4, 6)
    x = m.quant(m.op("Relu", layer(m, x, 4, 6, rng)), 2.0**-3, 5, signed=0)
    program = import_qonnx(m.proto(layer(m, x, 6, 3, rng)))
    assert any(node.op == "clip" and node.attrs["zero_point"] for node in program.graph.nodes)
    inputs = on_grid(program, rng, 500)
    results = verify(program, inputs, ["qonnx", "hls4ml"])
    assert [(results[name].mismatches, results[name].compared) for name in ("qonnx", "hls4ml")] == [(0, 1500)] * 2
