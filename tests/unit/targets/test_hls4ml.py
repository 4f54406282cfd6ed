"""Target hls4ml: its C simulation equals the reference; what it cannot do exactly is refused first, with the reason."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from dyadiq.cli.app import app
from dyadiq.core.errors import (
    ArtifactError,
    ConfigError,
    ExportError,
    MissingDependencyError,
    ToolError,
    UnknownNameError,
)
from dyadiq.core.qtype import QType
from dyadiq.ir.reference import run_reference
from dyadiq.targets import get_target
from dyadiq.targets.hls4ml import Hls4mlConfig, Hls4mlTarget
from dyadiq.targets.hls4ml_layers import build_layers
from dyadiq.targets.hls4ml_project import write_project
from dyadiq.targets.hls4ml_types import Fixed
from programs import INT4N, INT8, PROGRAMS, UINT8, ProgramBuilder, mlp, multipliers, raw_inputs

UINT6, INT3N = QType.parse("uint6"), QType.parse("int3n")


def tiny_mlp(rng, dyadic):
    """Three layers of different bits, the last one an accumulator that goes out as it is."""
    b = ProgramBuilder(rng)
    x = b.requantize(b.linear(b.input((6,), INT8), 5, INT4N), UINT6, multipliers(rng, 5) if dyadic else None)
    x = b.requantize(b.linear(x, 4, INT3N), QType.parse("int5n"), multipliers(rng, 1) if dyadic else None)
    return b.program(b.linear(x, 3, QType.parse("int2n")))


def tiny_cnn(rng, dyadic, averaged=True):
    """Per-channel scales, relu on signed codes, padded overlapping max pool, average, flatten before a linear."""
    b = ProgramBuilder(rng)
    exponent = np.array([-5, -3, -5])
    scale = 0.03 * (1 + np.arange(3)) if dyadic else 2.0**exponent
    acc = b.conv2d(b.input((2, 5, 6), INT8), 3, 3, padding=1, qtype=INT4N, weight_scale=scale)
    x = b.requantize(acc, UINT8, multipliers(rng, 3)) if dyadic else b.requantize(acc, UINT8, 1, 3 - exponent)
    x = b.max_pool2d(x, 3, 2, padding=1, ceil_mode=True)
    if averaged:
        x = b.requantize(b.sum_pool2d(x, 2, 1), UINT6, multipliers(rng, 1) if dyadic else None)
    x = b.flatten(x)
    return b.program(b.requantize(b.linear(x, 4, INT4N), INT8, multipliers(rng, 4) if dyadic else None), x)


def differences(target, program, tmp_path, count=300):
    """Write, compile, run; count integers that differ from the reference."""
    rng = np.random.default_rng(1)
    feeds = raw_inputs(program, rng, count)
    target.write(program, tmp_path)
    got, want = target.emulate(tmp_path, feeds), run_reference(program, feeds)
    assert {k: v.shape for k, v in got.items()} == {k: v.shape for k, v in want.items()}
    assert all(v.dtype == np.int64 for v in got.values())
    return sum(int((got[k] != v).sum()) for k, v in want.items())


@pytest.mark.slow
@pytest.mark.parametrize("dyadic", [False, True])
def test_mlp_of_mixed_bits_is_equal(dyadic, tmp_path):
    program = tiny_mlp(np.random.default_rng(0), dyadic)
    assert differences(Hls4mlTarget(Hls4mlConfig(backend="Quartus")), program, tmp_path) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dyadic", "config"),
    [
        (False, Hls4mlConfig()),
        (True, Hls4mlConfig(backend="Catapult")),
    ],
    ids=["pow2", "dyadic"],
)
def test_cnn_with_pooling_is_equal(dyadic, config, tmp_path):
    program = tiny_cnn(np.random.default_rng(0), dyadic)
    assert differences(Hls4mlTarget(config), program, tmp_path) == 0


@pytest.mark.slow
def test_resource_strategy_with_reuse_is_equal(tmp_path):
    target = Hls4mlTarget(Hls4mlConfig(backend="Vivado", strategy="resource", reuse_factor=2))
    assert differences(target, mlp(np.random.default_rng(0), (4, 4, 2)), tmp_path) == 0


@pytest.mark.slow
def test_streams_are_equal(tmp_path):
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.requantize(b.conv2d(b.input((2, 4, 4), INT8), 2, 3, padding=1, qtype=INT4N), UINT6)
    x = b.max_pool2d(b.requantize(b.add(x, x), UINT6), 2)
    program = b.program(b.linear(b.flatten(x), 3, INT4N))
    assert differences(Hls4mlTarget(Hls4mlConfig(io_type="io_stream")), program, tmp_path) == 0


@pytest.mark.slow
def test_channels_with_grids_of_their_own_are_equal(tmp_path):
    program = PROGRAMS["pow2_grids"](np.random.default_rng(0))
    assert differences(Hls4mlTarget(Hls4mlConfig(backend="Quartus")), program, tmp_path) == 0


@pytest.mark.slow
def test_distributed_arithmetic_is_equal(tmp_path):
    """From QONNX this fails upstream (layers are looked up by tensor names); here each layer is named as its tensor."""
    program = tiny_mlp(np.random.default_rng(0), dyadic=True)
    target = Hls4mlTarget(Hls4mlConfig(strategy="distributed_arithmetic"))
    assert differences(target, program, tmp_path) == 0
    facts = json.loads((tmp_path / "hls4ml.json").read_bytes())
    assert facts["layers"]["linear1"]["Strategy"] == "distributed_arithmetic"
    assert "dense_da_" in (tmp_path / "hls4ml" / "firmware" / "dyadiq_net.cpp").read_text()


@pytest.mark.slow
def test_grouped_convolutions_joins_and_two_inputs_are_equal(tmp_path):
    rng = np.random.default_rng(0)
    b = ProgramBuilder(rng)
    x, y = b.input((4, 3, 3), INT8), b.input((4, 3, 3), QType.parse("uint1"))
    left = b.requantize(b.conv2d(x, 4, 3, padding=1, groups=2, qtype=INT4N), INT8, multipliers(rng, 4))
    right = b.conv2d(y, 4, 2, groups=4, padding=1, stride=(1, 1), qtype=INT4N)
    right = b.requantize(b.sum_pool2d(right, 2, 1, average=False), INT8, multipliers(rng, 1))
    both = b.concat(left, b.requantize(right, INT8, 1, 0, scale=b.scale(left)))
    program = b.program(b.linear(b.flatten(both), 3, INT4N, groups_of=8, asymmetric=True), b.flatten(both))
    assert differences(Hls4mlTarget(Hls4mlConfig(backend="Quartus")), program, tmp_path, 60) == 0


def test_every_type_is_given_and_kept(tmp_path):
    for name, dyadic in (("a", False), ("b", True)):
        Hls4mlTarget().write(tiny_cnn(np.random.default_rng(0), dyadic), tmp_path / name)
        facts = json.loads((tmp_path / name / "hls4ml.json").read_bytes())
        assert facts["types"]
        for layer, types in facts["types"].items():
            for kind, got in types.items():
                if kind in ("table_t", "index_t"):  # of activations with a table, of compressed weights: not used
                    continue
                given = facts["layers"][layer]["Precision"][kind.removesuffix("_t")]
                assert got.split(",")[:2] == given.removesuffix(">").split(",")[:2]
                assert "RND,SAT" in got or "SAT" not in given


def test_falling_back_to_the_default_precision_is_refused(tmp_path):
    made = build_layers(tiny_mlp(np.random.default_rng(0), dyadic=False), "latency", 1, depthwise=True, average=True)
    del made.config["linear1"]["Precision"]["accum"]
    with pytest.raises(ExportError, match="hls4ml did not take the types of linear1"):
        write_project(made, tmp_path, "Vitis", "io_parallel", {})


def test_accumulators_have_the_bits_of_the_proof():
    program = tiny_mlp(np.random.default_rng(0), dyadic=False)
    made = build_layers(program, "latency", 1, depthwise=True, average=True)
    linears = [n for n in program.graph.nodes if n.op == "linear"]
    want = [program.graph.tensors[n.output].qtype.bits for n in linears]
    assert list(made.accumulators.values()) == want
    assert made.config["linear1"]["Precision"]["weight"] == "fixed<4,-2>"


def test_types_are_spelled_as_hls4ml_reads_them():
    assert str(Fixed(QType.parse("bipolar"), 0)) == "fixed<2,2>"
    assert str(Fixed(QType.parse("int8"), -10, saturates=True)) == "fixed<8,-2,RND,SAT>"


@pytest.mark.parametrize(
    "name", sorted(set(PROGRAMS) - {"mlp", "conv_pool", "groups", "strange", "pow2_mlp", "pow2_grids"})
)
def test_what_is_not_exact_is_refused_before_anything_is_written(name, tmp_path):
    program = PROGRAMS[name](np.random.default_rng(0))
    with pytest.raises(ExportError, match=r"target 'hls4ml' cannot express .*\n  \w+ \(\w+\): ") as caught:
        Hls4mlTarget().write(program, tmp_path)
    assert not list(tmp_path.iterdir())
    expected = {
        "residual": r"clips to \[0, 200\]",
        "joins": "padded max pooling of negative values",
        "zero_points": "zero point is not 0",
        "wide": "zero point is not 0",
        "bipolar": "bipolar activations",
        "pow2_bipolar": "bipolar activations",
        "pow2_cnn": "padded max pooling of negative values",
        "grids": "padded max pooling of negative values",
    }
    assert caught.match(expected[name])


def test_sums_of_different_orders_are_refused():
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.input((2, 2, 2), INT8, scale=1.0)
    flat = b.flatten(x)
    with pytest.raises(ExportError, match=r"add3 \(add\): adds a flattened image to a vector"):
        Hls4mlTarget().check(b.program(b.add(flat, b.linear(flat, 8, INT4N, weight_scale=1.0))))


def test_multipliers_far_apart_are_refused():
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.linear(b.input((2,), INT8), 2, INT8, weight_scale=0.3)
    program = b.program(b.requantize(x, INT8, [2**30 - 1, 2**30 - 1], [20, 55]))
    with pytest.raises(ExportError, match="multipliers of its channels too far apart"):
        Hls4mlTarget().check(program)


def test_scales_far_apart_are_refused():
    b = ProgramBuilder(np.random.default_rng(0))
    program = b.program(b.linear(b.input((2,), INT8), 2, INT8, weight_scale=np.array([1.0, 2.0**50])))
    with pytest.raises(ExportError, match="scales of its channels too far apart"):
        Hls4mlTarget().check(program)


def test_dilation_and_overlapping_streams_are_refused():
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.conv2d(b.input((1, 9, 9), UINT8), 1, 3, dilation=2)
    x = b.max_pool2d(b.requantize(x, UINT8), 2, 1, dilation=2)
    target = Hls4mlTarget(Hls4mlConfig(io_type="io_stream"))
    with pytest.raises(ExportError, match=r"dilation is not 1(.|\n)*dilated max pooling(.|\n)*overlapping max pooling"):
        target.check(b.program(x))


def test_wide_ports_are_refused():
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.input((1,), QType.parse("int32"), scale=1.0)
    program = b.program(b.linear(x, 1, QType.parse("int30"), weight_scale=1.0))
    with pytest.raises(ExportError, match=r"a port of \d\d bits; the C simulation's float64 carries 53"):
        Hls4mlTarget().check(program)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "vitis"}, "backend must be one of Vivado, Vitis, Quartus, Catapult; got 'vitis'"),
        ({"strategy": "fast"}, "strategy must be one of latency, resource"),
        ({"io_type": "serial"}, "io_type must be one of"),
        ({"reuse_factor": 0}, "reuse_factor must be at least 1, got 0"),
        ({"reuse_factor": "many"}, "option reuse_factor of target 'hls4ml' must be of type int, got 'many'"),
        ({"clock_period_ns": "-1"}, r"clock_period_ns must be positive, got -1\.0"),
        ({"strategy": "distributed_arithmetic", "backend": "Quartus"}, "needs Vivado or Vitis, got Quartus"),
        ({"strategy": "distributed_arithmetic", "reuse_factor": "2"}, "use reuse_factor=1"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        get_target("hls4ml").configured(**options)


def test_options_are_set_and_unknown_ones_named():
    target = get_target("hls4ml").configured(backend="Vivado", reuse_factor="4", clock_period_ns="2.5")
    assert target.config == Hls4mlConfig(backend="Vivado", reuse_factor=4, clock_period_ns=2.5)
    assert get_target("hls4ml").configured() is get_target("hls4ml")
    with pytest.raises(UnknownNameError, match="unknown option of target hls4ml 'bakend'; did you mean 'backend'"):
        get_target("hls4ml").configured(bakend="Vivado")
    with pytest.raises(ConfigError, match="target 'onnx' has no options, got backend"):
        get_target("onnx").configured(backend="Vivado")


def test_options_come_from_the_command_line(tmp_path):
    (program,) = get_target("dyq").write(mlp(np.random.default_rng(0), (3, 2)), tmp_path)
    arguments = ["export", str(program), "--to", "hls4ml", "--out", str(tmp_path / "out"), "--option"]
    result = CliRunner().invoke(app, [*arguments, "backend=Quartus"])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "hls4ml.json").read_bytes())["config"]["backend"] == "Quartus"
    for option, message in (("backend", "expected NAME=VALUE"), ("bakend=Vitis", "did you mean 'backend'")):
        result = CliRunner().invoke(app, [*arguments, option])
        assert result.exit_code == 2
        assert message in result.output


def test_part_and_clock_reach_the_project(tmp_path):
    target = get_target("hls4ml").configured(part="xczu3eg-sbva484-1-e", clock_period_ns=4)
    files = target.write(mlp(np.random.default_rng(0), (3, 2), dyadic=False), tmp_path)
    assert [f.name for f in files] == ["hls4ml.json", "dyadiq_net.cpp"]
    text = (tmp_path / "hls4ml" / "project.tcl").read_text()
    assert "xczu3eg-sbva484-1-e" in text
    assert "clock_period 4" in text


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"format": "other"}'])
def test_damaged_files_are_refused(content, tmp_path):
    (tmp_path / "hls4ml.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"hls4ml\.json: (not JSON|it was not written by this version)"):
        Hls4mlTarget().emulate(tmp_path, {})


def test_missing_compiler_and_failing_builds_are_named(tmp_path, monkeypatch):
    program = mlp(np.random.default_rng(0), (3, 2), dyadic=False)
    feeds = raw_inputs(program, np.random.default_rng(0), 2)
    Hls4mlTarget().write(program, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "which", lambda _: None)
        with pytest.raises(MissingDependencyError, match="C\\+\\+ compiler"):
            Hls4mlTarget().emulate(tmp_path, feeds)
    script = tmp_path / "hls4ml" / "build_lib.sh"
    script.write_text("echo 'x.cpp:1: error: no such thing' >&2; exit 1\n")
    wrong = (
        r"does not compile: x\.cpp:1: error: no such thing\. bash failed with exit status 1. Its log is .*compile\.log"
    )
    with pytest.raises(ToolError, match=wrong) as caught:
        Hls4mlTarget().emulate(tmp_path, feeds)
    assert caught.value.exit_code == 3
    library = json.loads((tmp_path / "hls4ml.json").read_bytes())["library"]
    (tmp_path / "hls4ml" / library).write_bytes(b"no library")
    with pytest.raises(
        ToolError, match=r"(?s)the C simulation failed: .* exit status 1. Its log is .*csim\.log.*OSError"
    ):
        Hls4mlTarget().emulate(tmp_path, feeds)


def test_refusal_by_hls4ml_itself_is_an_export_error(tmp_path, monkeypatch):
    monkeypatch.setattr("hls4ml.model.ModelGraph.from_layer_list", lambda *_: 1 / 0)
    with pytest.raises(ExportError, match="hls4ml with backend 'Vitis' refuses: ZeroDivisionError"):
        Hls4mlTarget().write(mlp(np.random.default_rng(0), (3, 2)), tmp_path)
