"""Target onnx: equal to the reference in onnxruntime at awkward shapes and widths, from integer operators only."""

import numpy as np
import onnx
import pytest

from dyadiq.core.errors import ArtifactError, DataError, ExportError, MissingDependencyError
from dyadiq.core.qtype import QType
from dyadiq.ir.reference import run_reference
from dyadiq.targets import TARGETS
from programs import INT8, PROGRAMS, UINT8, ProgramBuilder, multipliers, raw_inputs

ONNX = TARGETS["onnx"]
DATA_OPS = {"Cast", "Clip", "Add", "Sub", "Mul", "Div", "Mod", "Where", "GreaterOrEqual", "Concat", "Flatten", "Pad"}
INTEGER_OPS = DATA_OPS | {"ConvInteger", "MatMulInteger", "ReduceSum", "MaxPool", "Slice", "Max"}


def assert_equal_everywhere(program, folder, rng, count=33):
    inputs = raw_inputs(program, rng, count)
    expected = run_reference(program, inputs)
    ONNX.write(program, folder)
    got = ONNX.emulate(folder, inputs)
    assert got.keys() == expected.keys()
    for name, codes in expected.items():
        assert got[name].dtype == np.int64
        np.testing.assert_array_equal(got[name], codes)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", PROGRAMS)
def test_codes_equal_the_reference(name, seed, tmp_path):
    rng = np.random.default_rng(seed)
    assert_equal_everywhere(PROGRAMS[name](rng), tmp_path, rng)


@pytest.mark.parametrize("size", [1, 7, 15, 17, 33])
def test_codes_equal_the_reference_at_odd_sizes(size, tmp_path):
    rng = np.random.default_rng(size)
    b = ProgramBuilder(rng)
    x = b.input((size, size, 3), INT8, zero_point=5)
    x = b.requantize(
        b.conv2d(x, size, (3, 1), padding=(1, 0), groups=size), UINT8, multipliers(rng, size), zero_point=9
    )
    x = b.max_pool2d(b.requantize(b.conv2d(x, size, 1, stride=(2, 1)), INT8, multipliers(rng, size)), 1)
    x = b.requantize(b.linear(b.flatten(x), size), UINT8, multipliers(rng, size))
    assert_equal_everywhere(b.program(x), tmp_path, rng, size)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolutions_equal_the_reference(stride, padding, dilation, groups, tmp_path):
    rng = np.random.default_rng(stride + 10 * padding + 100 * dilation)
    b = ProgramBuilder(rng)
    x = b.input((4, 9, 7), QType.parse("uint5"), zero_point=19)
    acc = b.conv2d(x, 8, 3, stride, padding, dilation, groups)
    assert_equal_everywhere(b.program(acc), tmp_path, rng, 3)


@pytest.mark.parametrize("code_type", ["uint8", "int8", "int12"])
@pytest.mark.parametrize("window", [(2, 2, 0, 1, True), (3, 2, 1, 1, True), (3, 1, 1, 2, False), (3, 4, 1, 3, True)])
def test_pools_equal_the_reference(code_type, window, tmp_path):
    rng = np.random.default_rng(0)
    kernel, stride, padding, dilation, ceil_mode = window
    b = ProgramBuilder(rng)
    x = b.input((3, 9, 10), QType.parse(code_type), zero_point=3)
    best = b.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)
    assert_equal_everywhere(b.program(best, b.sum_pool2d(x, kernel, stride, padding)), tmp_path, rng, 5)


def test_long_dot_product_is_exact_where_byte_products_would_leave_int32(tmp_path):
    rng = np.random.default_rng(0)
    b = ProgramBuilder(rng, worst=True)
    acc = b.linear(b.input((70_000,), UINT8), 1, INT8)
    program = b.program(acc)
    inputs = {"x0": np.full((2, 70_000), 255 * 2.0**-4)}
    ONNX.write(program, tmp_path)
    np.testing.assert_array_equal(ONNX.emulate(tmp_path, inputs)[acc], run_reference(program, inputs)[acc])
    assert ONNX.emulate(tmp_path, inputs)[acc].min() < -(2**31)


@pytest.mark.parametrize("name", PROGRAMS)
def test_model_holds_only_integer_operators_behind_the_input_quantizer(name, tmp_path):
    program = PROGRAMS[name](np.random.default_rng(0))
    (file,) = ONNX.write(program, tmp_path)
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= 10
    quantizers = tuple(n.name for n in program.graph.nodes if n.op == "quantize")
    inside = [n for n in model.graph.node if not n.name.startswith(quantizers)]
    assert {n.op_type for n in inside} <= INTEGER_OPS
    assert {n.domain for n in model.graph.node} == {""}
    floats = {
        i.name for i in model.graph.initializer if i.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    }
    assert not floats & {name for n in inside for name in n.input}
    assert [o.name for o in model.graph.output] == list(program.graph.outputs)


def test_weights_are_unsigned_bytes_because_signed_ones_saturate_on_some_machines(tmp_path):
    (file,) = ONNX.write(PROGRAMS["conv_pool"](np.random.default_rng(0)), tmp_path)
    model = onnx.load(file)
    types = {i.name: i.data_type for i in model.graph.initializer}
    products = [n for n in model.graph.node if n.op_type in ("ConvInteger", "MatMulInteger")]
    assert products
    assert {types[n.input[1]] for n in products} == {onnx.TensorProto.UINT8}


def test_same_program_gives_the_same_bytes(tmp_path):
    program = PROGRAMS["residual"](np.random.default_rng(0))
    first, second = (ONNX.write(program, tmp_path / d)[0].read_bytes() for d in ("a", "b"))
    assert first == second


def test_check_notes_wide_products():
    assert ONNX.check(PROGRAMS["mlp"](np.random.default_rng(0))) == []
    notes = ONNX.check(PROGRAMS["wide"](np.random.default_rng(0)))
    assert notes[0] == "conv2d1: 4 byte products, codes or weights are wider than 8 bits"


def test_check_lists_every_node_that_cannot_be_split(monkeypatch):
    monkeypatch.setattr("dyadiq.targets.onnx_product._BASES", ())
    program = PROGRAMS["bipolar"](np.random.default_rng(0))
    with pytest.raises(
        ExportError, match=r"cannot express 4 nodes.*\n  linear1 .*\n  linear3 .*\n  linear5 .*\n  linear7"
    ):
        ONNX.check(program)


def test_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"'onnx' is not installed.*dyadiq\[onnx\]"):
        ONNX.write(PROGRAMS["mlp"](np.random.default_rng(0)), tmp_path)


def test_damaged_file_is_an_artifact_error(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match="onnxruntime cannot load it"):
        ONNX.emulate(tmp_path, {"x0": np.zeros((1, 16))})


def test_wrong_input_shape_is_refused(tmp_path):
    ONNX.write(PROGRAMS["mlp"](np.random.default_rng(0)), tmp_path)
    with pytest.raises(DataError, match=r"input 'x0': expected shape \[N, 16\], got \(2, 3\)"):
        ONNX.emulate(tmp_path, {"x0": np.zeros((2, 3))})
