"""QONNX import: equal to the qonnx executor on networks of others and on our own exports."""

import warnings
from fractions import Fraction

import numpy as np
import onnx
import pytest

from dyadiq.core.errors import CaptureError
from dyadiq.ir.integer import input_grid
from dyadiq.ir.qonnx_import import import_qonnx
from dyadiq.ir.qonnx_import_rounding import ROUNDING_MODES
from dyadiq.ir.reference import run_reference
from dyadiq.targets import get_target
from dyadiq.targets.verify import verify
from programs import PROGRAMS
from qonnx_models import DOMAIN, ZOO, Model, check_equal, execute, layer, on_grid, real


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
    assert [n.op for n in program.graph.nodes] == ["quantize", "clip", "requantize"]
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
