"""Synthesis and placing: counts are read from the tools, kept while the circuit is the same, refused with reasons."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from dyadiq.core.errors import ArtifactError, MissingToolError, ToolError, UnknownNameError
from dyadiq.core.qtype import QType
from dyadiq.fpga import place as placing
from dyadiq.fpga.place import DEVICES, place
from dyadiq.fpga.synth import FAMILIES, synthesize
from dyadiq.targets.verilog import VerilogConfig, VerilogTarget
from programs import INT4N, UINT8, ProgramBuilder

pytest.importorskip("da4ml", reason="the adder graphs need da4ml")
needs_yosys = pytest.mark.skipif(shutil.which("yosys") is None, reason="yosys is not installed")
needs_nextpnr = pytest.mark.skipif(shutil.which("nextpnr-ice40") is None, reason="nextpnr-ice40 is not installed")


@pytest.fixture
def folder(tmp_path):
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.requantize(b.linear(b.input((3,), QType.parse("int4")), 2, INT4N, bias_bits=3), UINT8, shift=0)
    VerilogTarget(VerilogConfig(n_vectors=5)).write(b.program(x), tmp_path)
    return tmp_path


@needs_yosys
@pytest.mark.parametrize("family", FAMILIES)
def test_counts_of_every_family(folder, family):
    result = synthesize(folder, family)
    assert (result.kind, result.tool, result.family, result.dsp) == ("synthesised", "yosys", family, 0)
    # 12 input bits, 16 output bits, and the registers between
    assert 20 <= result.ff <= 200
    if family == "asic":
        assert result.lut == 0
        assert result.gate_equivalents > 4 * result.ff
    else:
        assert result.lut + 2 * result.carry > 20
        assert result.gate_equivalents is None
    assert result.to_json()["version"] == result.version


@needs_yosys
def test_result_is_kept_until_the_circuit_changes(folder):
    first = synthesize(folder, "ice40")
    assert synthesize(folder, "ice40") == first
    text = (folder / "network.v").read_text()
    (folder / "network.v").write_text(text + "// changed\n")
    again = synthesize(folder, "ice40")
    assert again.circuit != first.circuit
    assert replace(again, circuit=first.circuit, seconds=first.seconds) == first


@needs_yosys
def test_failure_names_the_log(folder):
    (folder / "network.v").write_text("module network (")
    with pytest.raises(ToolError, match=r"yosys failed with exit status 1. Its log is .*synth-xcup\.log(.|\n)*ERROR"):
        synthesize(folder, "xcup")
    assert "ERROR" in (folder / "synth-xcup.log").read_text()
    assert ToolError.exit_code == 3


@needs_yosys
def test_synthesis_is_stopped_when_time_is_over(folder):
    with pytest.raises(ToolError, match=r"yosys was stopped after 0.01 seconds"):
        synthesize(folder, "xcup", timeout_s=0.01)


def test_unknown_names_are_answered_with_near_ones(folder):
    with pytest.raises(UnknownNameError, match="unknown family 'xcpu'; did you mean 'xcup'"):
        synthesize(folder, "xcpu")
    with pytest.raises(UnknownNameError, match="unknown device 'hx8'; did you mean 'hx8k'"):
        place(folder, "hx8")


def test_missing_yosys_is_named_with_the_line_that_installs_it(folder, monkeypatch):
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(MissingToolError, match=r"'yosys' is not installed\. Run: apt-get install yosys"):
        synthesize(folder)


def test_synthesis_needs_a_written_folder(tmp_path):
    with pytest.raises(ArtifactError, match="no such file"):
        synthesize(tmp_path)


@needs_yosys
@needs_nextpnr
def test_placing_reaches_a_clock_with_pins_or_shift_registers(folder, monkeypatch):
    result = place(folder)
    assert (result.kind, result.wrapped, result.seed) == ("placed", False, 1)
    assert 20 < result.fmax_mhz < 500
    assert result.latency_ns == pytest.approx(1000 * result.latency_cycles / result.fmax_mhz, abs=0.1)
    assert result.used["ICESTORM_LC"] > 30
    assert place(folder) == result
    monkeypatch.setattr(placing, "DEVICES", {"hx8k": replace(DEVICES["hx8k"], pins=5)})
    assert place(folder, seed=2).wrapped


@needs_yosys
@needs_nextpnr
def test_placing_fails_with_the_reason_when_the_part_is_too_small(folder, monkeypatch):
    small = replace(DEVICES["hx8k"], options=("--lp384", "--package", "qn32", "--pcf-allow-unconstrained"))
    monkeypatch.setattr(placing, "DEVICES", {"hx8k": small})
    with pytest.raises(ToolError, match=r"nextpnr-ice40 failed.*place-hx8k-seed1\.log"):
        place(folder)
