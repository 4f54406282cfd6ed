"""Target qonnx: equal to the reference in the qonnx executor where proven, refused or noted where not."""

import numpy as np
import onnx
import pytest
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.custom_op.general.intquant import int_quant
from qonnx.transformation.infer_datatypes import InferDataTypes

from dyadiq.core.errors import ArtifactError, DataError, ExportError, VerificationError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.qtype import QType
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.lower import lower_graph
from dyadiq.ir.quantized import ActivationQuant, WeightQuant
from dyadiq.targets import TARGETS
from dyadiq.targets.qonnx import _codes, pow2_obstacles
from dyadiq.targets.verify import verify
from programs import INT8, PROGRAMS, UINT8, ProgramBuilder, mlp, raw_inputs

QONNX = TARGETS["qonnx"]
POW2 = ("pow2_cnn", "pow2_mlp", "pow2_bipolar")


def lowered(rng, product_bits=24, bits=4, zero_point=0):
    """A small residual network with float scales and per-channel weights, lowered with narrow multipliers."""
    conv = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    shapes = {"a": (4, 2, 3, 3), "b": (4, 4, 3, 3), "c": (3, 4)}
    params = {f"{k}.weight": np.zeros(s) for k, s in shapes.items()}
    params |= {f"{k}.bias": rng.normal(size=s[0]) for k, s in shapes.items()}
    size = {"x": (2, 6, 6), "h": (4, 6, 6), "g": (4, 6, 6), "s": (4, 6, 6), "p": (4, 1, 1), "f": (4,), "y": (3,)}
    nodes = (
        Node("a", "conv2d", ("x", "a.weight", "a.bias"), "h", conv | {"activation": "relu"}),
        Node("b", "conv2d", ("h", "b.weight", "b.bias"), "g", conv),
        Node("s", "add", ("g", "h"), "s", {"activation": "relu"}),
        Node(
            "p",
            "avg_pool2d",
            ("s",),
            "p",
            {"kernel": (6, 6), "stride": (6, 6), "padding": (0, 0), "count_include_pad": True},
        ),
        Node("f", "flatten", ("p",), "f"),
        Node("c", "linear", ("f", "c.weight", "c.bias"), "y"),
    )
    graph = Graph("float", ("x",), ("y",), nodes, {k: TensorInfo(v) for k, v in size.items()}, params)
    qtype = QType(bits, signed=True, narrow=True)
    weights = {
        f"{k}.weight": WeightQuant(
            rng.integers(qtype.qmin, qtype.qmax, s, endpoint=True), qtype, 0.04 * (1 + rng.random(s[0])),
            np.zeros(s[0], dtype=np.int64),
        )
        for k, s in shapes.items()
    }  # fmt: skip
    uint4 = QType(4, signed=False)
    activations = {
        "x": ActivationQuant(QType(6, signed=False), 0.1, zero_point),
        "h": ActivationQuant(uint4, 0.31),
        "s": ActivationQuant(uint4, 0.47),
        "p": ActivationQuant(UINT8, 0.021),
        "y": ActivationQuant(INT8, 0.03),
    }
    return lower_graph(graph, weights, activations, QuantConfig(product_bits=product_bits))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", POW2)
def test_power_of_two_programs_are_proven_and_equal(name, seed):
    rng = np.random.default_rng(seed)
    program = PROGRAMS[name](rng)
    result = verify(program, raw_inputs(program, rng), ["qonnx"])
    assert (result["qonnx"].mismatches, result["qonnx"].exact, result["qonnx"].samples) == (0, True, 33)
    assert "mode pow2" in result["qonnx"].note


@pytest.mark.parametrize("zero_point", [0, 21])
@pytest.mark.parametrize("seed", range(3))
def test_dyadic_programs_with_narrow_products_are_proven_and_equal(seed, zero_point):
    rng = np.random.default_rng(seed)
    program = lowered(rng, zero_point=zero_point)
    result = verify(program, raw_inputs(program, rng, 200), ["qonnx", "exact", "onnx"])
    assert [result[k].mismatches for k in ("qonnx", "exact", "onnx")] == [0, 0, 0]
    assert result["qonnx"].exact
    assert "mode dyadic" in result["qonnx"].note


@pytest.mark.parametrize("name", sorted(set(PROGRAMS) - {*POW2, "wide"}))
def test_unproven_programs_are_written_compared_and_marked(name):
    """These happen to agree; only the proof is missing, and their weights fill no product to the brim."""
    rng = np.random.default_rng(0)
    program = PROGRAMS[name](rng)
    result = verify(program, raw_inputs(program, rng, 9), ["qonnx"], raise_on_mismatch=False)["qonnx"]
    assert result.mismatches == 0
    assert (result.exact, result.proven) == (True, not QONNX.unproven(program))


def test_verify_refuses_what_is_not_proven_and_lists_every_node():
    program = PROGRAMS["wide"](np.random.default_rng(0))
    message = r"target 'qonnx' cannot express .*\n  conv2d1 \(conv2d\): may reach \d+ steps in float32.*\n  requantize2"
    with pytest.raises(ExportError, match=message):
        verify(program, raw_inputs(program, np.random.default_rng(0), 3), ["qonnx"])
    assert any("not proven exact in float32: conv2d1" in note for note in QONNX.check(program))


def test_float32_bound_is_tight():
    """One step below 2^24 is proven and right, at 2^24 it is refused."""
    for bits, proven in ((23, True), (24, False)):
        b = ProgramBuilder(np.random.default_rng(0))
        x = b.input((1,), QType.parse("uint1"), scale=1.0)
        x = b.linear(x, 1, QType.parse("uint1"), weight_scale=1.0, bias_bits=0)
        program = b.program(b.requantize(x, INT8, 1, 4))
        program.graph.params["p3"][:] = 2**bits - (2 if bits == 23 else 1)
        program.graph.tensors["linear1:out"] = TensorInfo((1,), QType(26, signed=True), np.ones(()))
        assert (not QONNX.unproven(program)) == proven


def test_clamp_then_floor_equals_floor_then_clip_at_every_edge():
    """Quant clamps before it rounds; with half a step added and FLOOR this is rounding half up, also at the ends."""
    for signed, narrow in ((True, True), (True, False), (False, False)):
        qtype = QType(4, signed=signed, narrow=narrow)
        values = np.arange(-20 * 8, 20 * 8, dtype=np.float32) / 8  # all eighths of a step, far beyond both ends
        got = int_quant(values + np.float32(0.5), 1.0, 0.0, np.float32(4), signed, narrow, "FLOOR")
        np.testing.assert_array_equal(got, np.clip(np.floor(values + 0.5), qtype.qmin, qtype.qmax))


@pytest.mark.parametrize("name", ["pow2_cnn", "mlp"])
def test_model_is_clean_and_its_datatypes_can_be_inferred(name, tmp_path):
    (file,) = QONNX.write(PROGRAMS[name](np.random.default_rng(0)), tmp_path)
    model = ModelWrapper(str(file))
    assert model.check_all_tensor_shapes_specified()
    quants = [n for n in model.graph.node if n.op_type in ("Quant", "BipolarQuant")]
    assert {n.domain for n in quants} == {"qonnx.custom_op.general"}
    for node in quants:
        scale, zero_point, bits = (model.get_initializer(i) for i in node.input[1:])
        assert bits.ndim == zero_point.ndim == 0
        assert zero_point == 0
        assert scale.ndim in (0, len(model.get_tensor_shape(node.input[0])))
        assert {a.name for a in node.attribute} == {"signed", "narrow", "rounding_mode"}
    model = model.transform(InferDataTypes(allow_scaledint_dtypes=True))
    for node in model.graph.node:
        if node.op_type in ("Quant", "MatMul", "Conv"):
            assert model.get_tensor_datatype(node.output[0]).name != "FLOAT32"


def test_input_quantizer_is_compared_apart_on_raw_data():
    program = mlp(np.random.default_rng(0), dyadic=False)
    inputs = raw_inputs(program, np.random.default_rng(0))
    inputs["x0"][0, 0] = (0.5 - 1e-9) * 2.0**-4  # becomes a tie in float32
    result = verify(program, inputs, ["qonnx"])
    assert list(result) == ["qonnx", "qonnx:input"]
    apart = result["qonnx:input"]
    assert (apart.exact, apart.compared, apart.mismatches) == (False, 33 * 16, 1)
    assert (apart.first.got, apart.first.expected) == (1, 0)
    assert result["qonnx"].mismatches == 0


def test_batches_give_the_same_codes_as_single_samples(tmp_path, monkeypatch):
    program = PROGRAMS["pow2_cnn"](np.random.default_rng(0))
    inputs = raw_inputs(program, np.random.default_rng(0), 7)
    QONNX.write(program, tmp_path)
    whole = QONNX.emulate(tmp_path, inputs)
    monkeypatch.setattr("dyadiq.targets.qonnx._MAX_BATCH", 3)
    parts = QONNX.emulate(tmp_path, inputs)
    assert all(np.array_equal(whole[k], parts[k]) for k in whole)


def test_tensor_read_twice_by_one_node_survives_cleaning():
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.input((3, 2, 2), INT8)
    program = b.program(b.clip(b.add(x, x), INT8), b.concat(x, x))
    assert verify(program, raw_inputs(program, np.random.default_rng(0)), ["qonnx"])["qonnx"].mismatches == 0


def test_multipliers_that_are_powers_of_two_stay_in_power_of_two_mode():
    b = ProgramBuilder(np.random.default_rng(0))
    acc = b.linear(b.input((7,), INT8), 3, INT8)
    x = b.requantize(acc, INT8, np.array([1, 4, 64]), np.array([6, 8, 12]))
    program = b.program(x, b.requantize(x, QType.parse("int9"), 2, 0))
    assert not pow2_obstacles(program)
    assert verify(program, raw_inputs(program, np.random.default_rng(0)), ["qonnx"])["qonnx"].mismatches == 0


def test_one_bit_signed_codes_are_not_taken_for_bipolar():
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.requantize(b.linear(b.input((7,), INT8), 5, INT8), QType.parse("int1"), 1, 10)
    program = b.program(x)
    result = verify(program, raw_inputs(program, np.random.default_rng(0)), ["qonnx"])
    assert result["qonnx"].mismatches == 0


def test_obstacles_to_power_of_two_mode_are_named():
    lines = pow2_obstacles(PROGRAMS["zero_points"](np.random.default_rng(0))).lines
    assert lines[0] == "quantize0 (quantize): zero point is not 0"
    assert "conv2d1 (conv2d): weights with zero points or group factors" in lines
    assert any("no power of two" in line for line in pow2_obstacles(mlp(np.random.default_rng(0))).lines)
    b = ProgramBuilder(np.random.default_rng(0))
    lines = pow2_obstacles(b.program(b.sum_pool2d(b.input((1, 2, 2), UINT8, zero_point=3)))).lines
    assert "sum_pool2d1 (sum_pool2d): bias of the pool is not 0" in lines
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.requantize(b.linear(b.input((7,), INT8), 5, INT8), UINT8, 3, 5, scale=0.5)
    y = b.requantize(x, UINT8, 1, 1, scale=4.0)
    lines = pow2_obstacles(b.program(b.add(x, y))).lines
    assert [line.split(": ")[1] for line in lines] == [
        "multiplier is no power of two",
        "scales of input and output disagree with the multiplier",
        "inputs and output have different scales",
    ]


def test_per_channel_scales_on_matmul_are_noted():
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.linear(b.input((7,), INT8), 2, INT8, weight_scale=np.array([0.5, 0.25]))
    program = b.program(b.requantize(x, INT8, 1, np.array([8, 9])))
    assert QONNX.check(program) == ["mode pow2", "hls4ml cannot import per-channel scales on MatMul: linear1"]


def test_pool_that_runtimes_cannot_pad_is_refused():
    b = ProgramBuilder(np.random.default_rng(0))
    program = b.program(b.max_pool2d(b.input((1, 10, 10)), 3, 4, 1, 3, ceil_mode=True))
    for name in ("qonnx", "qdq"):
        with pytest.raises(ExportError, match=r"max_pool2d1 \(max_pool2d\): pads .* reach beyond kernel \[3, 3\]"):
            TARGETS[name].check(program)


def test_files_that_are_not_ours_are_refused(tmp_path):
    file = tmp_path / QONNX.filename
    file.write_bytes(b"\xff\xff not a model")
    with pytest.raises(ArtifactError, match="not an ONNX file, or a damaged one"):
        QONNX.emulate(tmp_path, {})
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [])), file)
    with pytest.raises(ArtifactError, match="not written by Dyadiq"):
        QONNX.emulate(tmp_path, {})


def test_wrong_inputs_are_refused(tmp_path):
    QONNX.write(mlp(np.random.default_rng(0), dyadic=False), tmp_path)
    with pytest.raises(DataError, match=r"has inputs \['x0'\], got \['x'\]"):
        QONNX.emulate(tmp_path, {"x": np.zeros((1, 16))})


def test_values_off_the_grid_are_never_rounded_away():
    with pytest.raises(VerificationError, match=r"1 values of 'y' are off their grid, e.g. 1.5"):
        _codes("y", np.array([[0.5, 0.75]]), 0.5)
