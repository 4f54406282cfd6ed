"""Target qdq: close to the program, never claimed exact; its differences are counted."""

import numpy as np
import onnx
import pytest

from dyadiq.core.errors import ArtifactError, ExportError
from dyadiq.core.qtype import QType
from dyadiq.targets import TARGETS
from dyadiq.targets.verify import verify
from programs import PROGRAMS, UINT8, ProgramBuilder, raw_inputs

QDQ = TARGETS["qdq"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_runs_and_differences_never_raise(name):
    rng = np.random.default_rng(0)
    program = PROGRAMS[name](rng)
    result = verify(program, raw_inputs(program, rng, 9), ["qdq"])["qdq"]
    assert not result.exact
    assert result.compared > 0
    assert "not exact by nature" in result.note


@pytest.mark.parametrize("name", ["mlp", "conv_pool", "joins", "residual", "zero_points"])
def test_codes_are_within_two_steps_when_no_input_is_a_tie(name):
    rng = np.random.default_rng(1)
    program = PROGRAMS[name](rng)
    result = verify(program, raw_inputs(program, rng, 50, ties=0.0), ["qdq"])["qdq"]
    assert result.max_abs_diff <= 2
    assert result.mismatches < 0.1 * result.compared


def test_mismatches_are_counted_when_inputs_are_ties():
    program = PROGRAMS["mlp"](np.random.default_rng(0))
    result = verify(program, raw_inputs(program, np.random.default_rng(0), ties=1.0), ["qdq"])["qdq"]
    assert result.mismatches > 0
    assert result.first is not None


def test_activations_are_pairs_and_weights_are_stored_narrow(tmp_path):
    (file,) = QDQ.write(PROGRAMS["pow2_cnn"](np.random.default_rng(0)), tmp_path)
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    quantized = {n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    dequantized = {n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    assert quantized <= dequantized
    types = {i.name: i.data_type for i in model.graph.initializer}
    weights = [types[t] for t in dequantized - quantized if "/weight" in t]
    assert set(weights) == {onnx.TensorProto.INT4}


def test_tensors_without_scale_are_all_listed():
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.linear(b.input((3,), UINT8, scale=1.0), 2)
    y = b.requantize(x, UINT8, 1, 4)
    program = b.program(y)
    for name in (x, y):
        info = program.graph.tensors[name]
        program.graph.tensors[name] = type(info)(info.shape, info.qtype)
    with pytest.raises(ExportError, match=r"cannot express 2 nodes.*\n  linear1 .* has no scale.*\n  requantize2"):
        QDQ.check(program)


def test_weights_beyond_int32_are_refused():
    b = ProgramBuilder(np.random.default_rng(0), worst=True)
    program = b.program(b.linear(b.input((3,), UINT8), 2, QType(33, signed=True)))
    with pytest.raises(ExportError, match=r"linear1 \(linear\): weights reach 4294967296, beyond int32"):
        QDQ.check(program)


def test_damaged_file_is_an_artifact_error(tmp_path):
    (tmp_path / QDQ.filename).write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match="onnxruntime cannot load it"):
        QDQ.emulate(tmp_path, {"x0": np.zeros((1, 16))})
