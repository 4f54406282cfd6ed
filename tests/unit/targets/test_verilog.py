"""Target verilog: what Icarus Verilog simulates is what the reference computes, integer for integer."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from dyadiq.core.errors import ArtifactError, ConfigError, ExportError, MissingToolError, ToolError, UnknownNameError
from dyadiq.core.qtype import QType
from dyadiq.ir.reference import run_reference
from dyadiq.targets.verify import verify
from dyadiq.targets.verilog import VerilogConfig, VerilogTarget
from programs import BIPOLAR, INT4N, INT8, PROGRAMS, UINT8, ProgramBuilder, multipliers, raw_inputs

pytest.importorskip("da4ml", reason="the adder graphs need da4ml")
needs_iverilog = pytest.mark.skipif(shutil.which("iverilog") is None, reason="iverilog is not installed")


def small_mlp(rng):
    b = ProgramBuilder(rng)
    x = b.requantize(b.linear(b.input((6,), INT8), 8, INT4N), QType.parse("uint5"))
    return b.program(b.requantize(b.linear(x, 4, INT4N), INT8, multipliers(rng, 4)))


def small_conv(rng):
    """4x4 images: padding, stride, both poolings, a residual add with rescaled branches, a concat."""
    b = ProgramBuilder(rng)
    x = b.requantize(b.conv2d(b.input((1, 4, 4), UINT8), 2, 3, padding=1, qtype=INT4N), UINT8, multipliers(rng, 2))
    scale = b.scale(x) * 0.71
    y = b.branch(b.conv2d(x, 2, 3, padding=1, qtype=INT4N, weight_scale=0.003), scale)
    z = b.clip(b.add(y, b.branch(x, scale)), UINT8, clip=(0, 200))
    z = b.max_pool2d(b.concat(z, z), 3, 2, padding=1)
    pooled = b.requantize(b.sum_pool2d(z, 2, 1), INT8, 97)
    return b.program(b.linear(b.flatten(pooled), 3, INT4N), z)


def small_zero_points(rng):
    b = ProgramBuilder(rng)
    x = b.conv2d(b.input((2, 3, 3), UINT8, zero_point=131), 3, 2, padding=1, dilation=2, qtype=INT4N, asymmetric=True)
    x = b.requantize(x, UINT8, multipliers(rng, 3), 15, zero_point=77, clip=(77, 255))
    x = b.requantize(
        b.conv2d(x, 3, 2, groups=3, qtype=INT4N, bias_bits=5), INT8, multipliers(rng, 3), 12, zero_point=-9
    )
    return b.program(b.clip(b.requantize(b.sum_pool2d(x), UINT8, 1, 1, zero_point=100), QType.parse("int9"), -3))


def small_bipolar(rng):
    """Bipolar input, weights, activations and output, beside an output that is an accumulator."""
    b = ProgramBuilder(rng)
    x = b.requantize(b.linear(b.input((9,), BIPOLAR), 7, BIPOLAR, bias_bits=2), BIPOLAR, shift=0)
    x = b.requantize(b.linear(x, 5, INT4N, bias_bits=2), BIPOLAR, shift=0)
    return b.program(x, b.linear(x, 2, INT4N, bias_bits=3))


SMALL = {f.__name__: f for f in (small_mlp, small_conv, small_zero_points, small_bipolar)}
SMALL |= {name: PROGRAMS[name] for name in ("strange", "pow2_grids", "grids")}


@needs_iverilog
@pytest.mark.parametrize("name", SMALL)
def test_simulation_equals_reference(tmp_path, name):
    program = SMALL[name](np.random.default_rng(0))
    inputs = raw_inputs(program, np.random.default_rng(1), count=1000)
    assert all((codes != codes[0]).any() for codes in run_reference(program, inputs).values())
    result = verify(program, inputs, ["verilog"], chunk=1000, workdir=tmp_path)["verilog"]
    assert (result.mismatches, result.samples, result.exact) == (0, 1000, True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("verilator") is None, reason="verilator is not installed")
def test_verilator_equals_reference(tmp_path):
    program = small_conv(np.random.default_rng(0))
    inputs = raw_inputs(program, np.random.default_rng(1), count=2000)
    target = VerilogTarget().configured(simulator="verilator")
    target.write(program, tmp_path)
    got = target.emulate(tmp_path, inputs)
    for name, codes in run_reference(program, inputs).items():
        assert np.array_equal(got[name], codes)


@needs_iverilog
@pytest.mark.parametrize("depth", [1, 2, 100])
def test_every_depth_gives_the_same_codes_at_the_stated_latency(tmp_path, depth):
    program = small_mlp(np.random.default_rng(0))
    target = VerilogTarget(VerilogConfig(depth=depth, n_vectors=50))
    target.write(program, tmp_path)
    interface = json.loads((tmp_path / "interface.json").read_text())
    assert interface["adders_per_stage"] <= depth
    assert interface["latency_cycles"] == interface["stages"] + 1
    inputs = raw_inputs(program, np.random.default_rng(1), count=50)
    for name, codes in run_reference(program, inputs).items():
        assert np.array_equal(target.emulate(tmp_path, inputs)[name], codes)


@needs_iverilog
def test_bench_passes_and_fails_when_an_answer_is_wrong(tmp_path):
    program = small_mlp(np.random.default_rng(0))
    VerilogTarget(VerilogConfig(n_vectors=20)).write(program, tmp_path)
    run = ["make", "-s", "-C", str(tmp_path)]
    assert "PASS: 20 vectors" in subprocess.run(run, capture_output=True, text=True, check=True).stdout
    answers = (tmp_path / "vectors_out.hex").read_text()
    (tmp_path / "vectors_out.hex").write_text(("1" if answers[0] == "0" else "0") + answers[1:])
    text = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert "FAIL: 1 of 20 vectors differ" in text
    assert "vector 0: got" in text


def test_writing_twice_gives_the_same_bytes(tmp_path):
    program = small_conv(np.random.default_rng(0))
    first, second = (VerilogTarget(VerilogConfig(n_vectors=5)).write(program, tmp_path / n) for n in ("a", "b"))
    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in second]


def test_check_refuses_when_network_is_too_large_to_unroll(tmp_path):
    b = ProgramBuilder(np.random.default_rng(0))
    program = b.program(b.conv2d(b.input((8, 32, 32), INT8), 64, 3))
    reason = r"cannot be unrolled: about [0-9,]+ LUTs .*in conv2d1; the limit is 1,182,240 LUTs"
    with pytest.raises(ExportError, match=reason):
        VerilogTarget().write(program, tmp_path)
    assert not list(tmp_path.iterdir())


def test_emulate_says_so_when_there_is_no_file(tmp_path):
    with pytest.raises(ArtifactError, match=r"there is no file .*network\.v. Write the program first"):
        VerilogTarget().emulate(tmp_path, {})


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": "dyadiq.verilog/9"}'])
def test_emulate_refuses_when_interface_is_not_ours(tmp_path, text):
    (tmp_path / "network.v").write_text("")
    (tmp_path / "interface.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"interface\.json: is (no JSON|not of schema).*Export the program again"):
        VerilogTarget().emulate(tmp_path, {})


def test_emulate_says_what_to_install_when_there_is_no_simulator(tmp_path, monkeypatch):
    program = small_mlp(np.random.default_rng(0))
    VerilogTarget(VerilogConfig(n_vectors=5)).write(program, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError, match=r"'iverilog' is not installed\. Run: apt-get install iverilog"):
        VerilogTarget().emulate(tmp_path, raw_inputs(program, np.random.default_rng(1)))


@needs_iverilog
def test_emulate_reports_when_verilog_is_damaged(tmp_path):
    program = small_mlp(np.random.default_rng(0))
    VerilogTarget(VerilogConfig(n_vectors=5)).write(program, tmp_path)
    (tmp_path / "network.v").write_text("module network (input wire clk);\nendmodule\n")
    with pytest.raises(ToolError, match=r"iverilog failed with exit status(.|\n)*not a port of dut"):
        VerilogTarget().emulate(tmp_path, raw_inputs(program, np.random.default_rng(1)))


def test_configuration_is_refused_when_a_number_is_too_small():
    with pytest.raises(ConfigError, match="verilog: depth must be at least 1, got 0"):
        VerilogTarget().configured(depth="0")


def test_configuration_is_refused_when_the_simulator_is_unknown():
    with pytest.raises(UnknownNameError, match="unknown simulator 'iverlog'; did you mean 'iverilog'"):
        VerilogTarget().configured(simulator="iverlog")
