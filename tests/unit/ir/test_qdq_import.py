"""ONNX's own quantizers as integer programs: the codes of onnxruntime, and what is refused."""

import contextlib

import numpy as np
import pytest
import torch
from onnx import TensorProto

from dyadiq.core.errors import CaptureError, DyadiqError
from dyadiq.ir.qonnx_import import import_qonnx
from dyadiq.ir.reference import run_reference
from float_onnx import exported, run_onnxruntime
from hostile_onnx import mutated_bytes, mutated_model
from qdq_models import ARBITRARY, POWERS, Quantized, body

pytest.importorskip("onnxruntime", reason="ONNX files are run by onnxruntime")


def compared(proto, x, **how):
    """Codes of the program, those of onnxruntime, and the program."""
    program = import_qonnx(proto, **how)
    (output,) = program.graph.outputs
    info = program.graph.tensors[output]
    ours = run_reference(program, {"x": x})[output]
    theirs = np.rint(run_onnxruntime(proto, x).astype(np.float64) / np.asarray(info.scale)) + info.zero_point
    return ours, theirs.astype(np.int64), program


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_network_of_powers_of_two_has_exactly_the_codes_of_onnxruntime(dtype):
    m = Quantized(3, 6, 12, scales=POWERS, dtype=dtype)
    body(m)
    ours, theirs, _ = compared(m.proto(), np.random.default_rng(1).normal(size=(40, 3, 6, 12)).astype(np.float32))
    assert np.array_equal(ours, theirs)
    assert len(np.unique(ours)) > 10


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_network_of_arbitrary_scales_has_the_codes_of_onnxruntime_but_near_ties(dtype):
    m = Quantized(3, 6, 12, dtype=dtype)
    body(m)
    proto = m.proto()
    with pytest.raises(CaptureError, match=r"has no exact form here\. .* powers of two, or allow near ones \(nearest"):
        import_qonnx(proto)
    x = np.random.default_rng(1).normal(size=(40, 3, 6, 12)).astype(np.float32)
    ours, theirs, program = compared(proto, x, nearest=True)
    assert np.abs(ours - theirs).max() <= 1
    assert (ours != theirs).mean() <= 0.01
    assert any("near integer forms, not exact ones: codes may differ by one" in n for n in program.provenance["notes"])


def test_one_rounding_of_arbitrary_scales_is_proven_exact():
    m = Quantized(16)
    m.q(m.op("Gemm", m.q("x"), m.w(16, 32, axis=1)))
    ours, theirs, program = compared(m.proto(), np.random.default_rng(1).normal(size=(500, 16)).astype(np.float32))
    assert (ours != theirs).mean() < 1e-3  # where float32 rounds to the other side
    weights = [t for t in program.graph.param_types.values() if t.bits > 2]
    assert max(t.bits for t in weights if t.bits < 32) == 8


@pytest.mark.parametrize("zero", [127, 128])
def test_ties_of_constants_go_to_even_before_an_odd_zero_point_is_added(zero):
    m = Quantized(4, scales=(1.0,))
    s, z = m.constant("ws", np.float32(1)), m.constant("wz", np.uint8(zero))
    halves = m.constant("raw", (np.arange(12, dtype=np.float32) - 5.5).reshape(4, 3))
    m.q(m.op("MatMul", m.q("x"), m.op("DequantizeLinear", m.op("QuantizeLinear", halves, s, z), s, z)))
    ours, theirs, _ = compared(m.proto(), np.arange(-20, 20, dtype=np.float32).reshape(-1, 4))
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("zero", [127, 128])
def test_ties_go_to_even_before_an_odd_zero_point_is_added(zero):
    m = Quantized(4, scales=(1.0, 2.0))
    m.q(m.q("x", zero=128), zero=zero)
    x = np.arange(-100, 100, dtype=np.float32).reshape(-1, 4)
    ours, theirs, _ = compared(m.proto(), x)
    assert np.array_equal(ours, theirs)


def test_weights_may_be_quantized_by_the_file_and_have_zero_points():
    m = Quantized(8)
    x = m.q("x")
    s, z = m.constant("ws", np.float32(0.02)), m.constant("wz", np.uint8(77))
    weight = m.op("DequantizeLinear", m.op("QuantizeLinear", m.weight("raw", 8, 5), s, z), s, z)
    bias = m.constant("bias", m.rng.integers(-900, 900, 5).astype(np.int32))
    bias = m.op("DequantizeLinear", bias, m.constant("bs", np.float32(np.float32(0.02) * np.float32(ARBITRARY[0]))))
    m.q(m.op("Add", m.op("MatMul", x, weight), bias))
    ours, theirs, program = compared(m.proto(), np.random.default_rng(1).normal(size=(300, 8)).astype(np.float32))
    assert np.abs(ours - theirs).max() <= 1
    assert (ours != theirs).mean() < 1e-2
    assert any("taken as equal" in note for note in program.provenance["notes"])


def test_network_that_ends_in_codes():
    m = Quantized(4)
    m.q(m.op("Relu", m.q("x")))
    proto = m.proto("quantizelinear_3")
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8
    ours, theirs, _ = compared(proto, np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32))
    assert np.array_equal(ours, theirs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("per_channel", [True, False])
def test_network_quantized_by_onnxruntime_runs_everywhere(per_channel, tmp_path):
    quantization = pytest.importorskip("onnxruntime.quantization")
    from dyadiq.core.native import native_module
    from dyadiq.targets.verify import verify
    from dyadiq.zoo import build_model

    torch.manual_seed(0)
    exported(build_model("digits_resnet", width=4), 1, 8, 8, path=str(tmp_path / "net.onnx"))
    rng = np.random.default_rng(0)

    class Reader(quantization.CalibrationDataReader):
        left = [{"x": rng.normal(size=(8, 1, 8, 8)).astype(np.float32)} for _ in range(4)]  # noqa: RUF012

        def get_next(self):
            return self.left.pop() if self.left else None

    quantization.quantize_static(
        tmp_path / "net.onnx", tmp_path / "qdq.onnx", Reader(), per_channel=per_channel,
        quant_format=quantization.QuantFormat.QDQ, weight_type=quantization.QuantType.QInt8,
    )  # fmt: skip
    x = rng.normal(size=(64, 1, 8, 8)).astype(np.float32)
    program = import_qonnx(tmp_path / "qdq.onnx", nearest=True)
    (output,) = program.graph.outputs
    info = program.graph.tensors[output]
    ours = run_reference(program, {"x": x})[output]
    theirs = np.rint(run_onnxruntime(str(tmp_path / "qdq.onnx"), x) / np.asarray(info.scale)) + info.zero_point
    assert np.abs(ours - theirs).max() <= 1
    assert (ours != theirs).mean() <= 0.01
    verify(program, x, against=["exact", *(["engine"] if native_module() else [])])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda m: m.q("x", scale=0.0), "a scale that is not positive and finite"),
        (lambda m: m.q("x", scale=np.inf), "constant s0: it holds values that are not finite"),
        (lambda m: m.op("QuantizeLinear", "x", "x"), "its scale must be a constant"),
        (
            lambda m: m.op("QuantizeLinear", "x", m.constant("s", np.array([0.5, 1, 2], np.float32))),
            "its scale differs between channels",
        ),
        (
            lambda m: m.op("QuantizeLinear", "x", m.constant("s", np.float32(1)), m.constant("z", np.int32(0))),
            "codes of type 'int32'; at most 16 bits",
        ),
        (
            lambda m: m.op("DequantizeLinear", m.q("x"), "s0", m.constant("z", np.float32(1.5))),
            "its zero point is no integer",
        ),
        (
            lambda m: m.op("Add", m.q("x"), m.op("DequantizeLinear", m.weight("w", 3, 1, 1), "s0")),
            "takes numbers for codes that are no integers",
        ),
        (
            lambda m: m.op("QuantizeLinear", "x", m.constant("s", np.float32(1)), m.constant("z", np.float32(0))),
            "codes of type 'float32'",
        ),
        (
            lambda m: m.op(
                "Conv", m.q("x"), m.op("DequantizeLinear", m.constant("w", np.ones((4, 3, 1, 1), np.int8)),
                                       m.constant("s", np.ones(3, np.float32)), axis=0),
            ),
            r"\(3,\) scales or zero points along axis 0 of a constant of shape \(4, 3, 1, 1\)",
        ),
        (lambda m: m.op("Pad", m.q("x"), m.constant("p", np.zeros(8, np.int64)), mode="edge"), "else than zeros"),
        (lambda m: m.op("Pad", m.q("x"), m.constant("p", np.ones(8, np.int64))), r"zeros around \[C, H, W\]"),
        (lambda m: m.op("Slice", m.q("x"), *(m.constant(f"c{v}", np.array([v])) for v in (1, 9, 2))), "takes a part"),
    ],
)  # fmt: skip
def test_what_has_no_integer_form_is_refused(build, message):
    m = Quantized(3, 4, 4)
    m.q(build(m))
    with pytest.raises(CaptureError, match=message):
        import_qonnx(m.proto(), nearest=True)


@pytest.mark.parametrize("mutate", [mutated_bytes, mutated_model])
def test_hostile_models_are_refused_or_read_but_never_crash(mutate):
    m = Quantized(3, 6, 6)
    body(m)
    content, read = m.proto().SerializeToString(), 0
    for seed in range(60):
        with contextlib.suppress(DyadiqError):
            import_qonnx(mutate(content, np.random.default_rng(seed)), nearest=True)
            read += 1
    assert 0 < read < 60
