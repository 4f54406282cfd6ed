"""The stage that synthesises: what it leaves, what it refuses, and that a crashed tool costs nothing that was done."""

import json
import shutil

import pytest

from dyadiq.core.errors import ConfigError, ToolError
from dyadiq.pipeline.names import check_names
from dyadiq.pipeline.run import run_recipe
from dyadiq.pipeline.store import RunFolder
from dyadiq.recipe import load_recipe, parse_recipe
from dyadiq.targets import TARGETS
from tiny_run import write_tiny_recipe

pytest.importorskip("da4ml", reason="the adder graphs need da4ml")
pytest.importorskip("hls4ml", reason="it is among the executors that are compared")
pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("yosys", "nextpnr-ice40", "iverilog", "g++"))),
    reason="yosys, nextpnr-ice40, iverilog or g++ is not installed",
)
# One layer of two-bit weights: synthesised and placed in seconds.
SMALL = (
    "model.name=tiny_run:one_layer",
    "train.epochs=1",
    "finetune.epochs=0",
    "allocate={ uniform = { weight = 2, activation = 2 } }",
    "quant.input_bits=2",
    "quant.output_bits=4",
    "quant.weight={ signed = true, narrow = true, scale = 'pow2' }",
    "quant.activation={ scale = 'pow2' }",
)
HARDWARE = "hardware={ devices = ['VU9P'], depth = 6 }"
AGAINST = "verify={ against = ['exact', 'hls4ml', 'verilog'], limits = { hls4ml = 40, verilog = 30 } }"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_tiny_recipe(tmp_path_factory.mktemp("recipe"))


def recipe_at(path, out, *overrides):
    return load_recipe(path, [*SMALL, *overrides, f"out={out}"])


@pytest.fixture(scope="module")
def finished(path, tmp_path_factory):
    return run_recipe(recipe_at(path, tmp_path_factory.mktemp("runs") / "run", HARDWARE, AGAINST))


def test_document_has_hardware_with_kinds_and_verilog_in_verify(finished):
    hardware, verify = finished.summary["hardware"], finished.summary["verify"]
    assert hardware["lut"] > 10
    assert (hardware["device"], hardware["dsp"]) == ("vu9p", 0)
    assert hardware["kind"]["lut"] == "synthesised"
    assert hardware["kind"]["latency_ns"] == "modelled"
    assert hardware["latency_ns"] == 5 * hardware["latency_cycles"]
    assert hardware["adders_per_stage"] <= 6
    assert [row["device"] for row in hardware["devices"]] == ["vu9p"]
    assert list(verify) == ["exact", "hls4ml", "verilog"]
    assert [v["samples"] for v in verify.values()] == [100, 40, 30]
    assert [v["mismatches"] for v in verify.values()] == [0, 0, 0]
    assert finished.summary["accepted"]


def test_circuit_that_was_synthesised_is_in_the_folder_and_reported(finished):
    folder = finished.folder / "hardware"
    assert {p.name for p in (folder / "vu9p").iterdir()} >= {"network.v", "testbench.v", "interface.json", "README.md"}
    assert finished.summary["artifacts"]["circuit"] == str(folder / "vu9p" / "network.v")
    report = (finished.folder / "report" / "report.html").read_text()
    assert "<h2>Hardware</h2>" in report
    assert f"{finished.summary['hardware']['lut']:,} of 1,182,240" in report


def test_layers_of_the_document_have_traffic_and_energy(finished):
    layers = finished.summary["layers"]
    assert [layer["n_macs"] for layer in layers] == [80]
    assert all(layer["energy_fj"] > 0 and layer["macs_per_byte"] > 0 for layer in layers)


def test_run_without_the_section_synthesises_nothing(path, tmp_path):
    result = run_recipe(recipe_at(path, tmp_path / "run", "verify.against=['exact']"))
    assert result.summary["hardware"] is None
    assert "<h2>Hardware</h2>" not in (result.folder / "report" / "report.html").read_text()


def test_crashed_tool_keeps_its_log_and_the_run_continues(path, finished, tmp_path):
    moved = tmp_path / "run"
    shutil.copytree(finished.folder, moved)
    more = "hardware={ devices = ['vu9p', 'hx8k'], depth = 6, timeout_s = 0.05 }"
    with pytest.raises(ToolError, match=r"(?s)yosys was stopped after 0.05 seconds. Its log is (.*\.log)") as caught:
        run_recipe(recipe_at(path, moved, more, AGAINST))
    assert caught.value.exit_code == 3
    assert "stage 'hardware'" in caught.value.__notes__[0]
    assert list(moved.glob(".work/hardware-*/vu9p/synth-xcup.log"))
    record = RunFolder(moved).record("compare")
    assert record is not None
    # A longer limit is no other circuit: earlier stages and the scratch folder are kept.
    events = []
    limit = more.replace("0.05", "600")
    result = run_recipe(recipe_at(path, moved, limit, AGAINST), listener=events.append)
    assert {e.stage for e in events if e.status == "started"} == {
        "data",
        "hardware",
        "report",
    }  # data are looked at each time
    row = result.summary["hardware"]["devices"][1]
    assert row["kind"]["fmax_mhz"] == "placed"
    assert row["fmax_mhz"] > 20
    assert not list(moved.glob(".work/*"))


def test_answer_is_no_when_the_circuit_takes_more_luts_than_accepted(path, finished, tmp_path):
    moved = tmp_path / "run"
    shutil.copytree(finished.folder, moved)
    summary = run_recipe(recipe_at(path, moved, HARDWARE, AGAINST, "accept.max_lut=2")).summary
    assert summary["refusals"] == [f"the circuit takes {summary['hardware']['lut']:,} LUT, accept.max_lut is 2."]


def test_wrong_names_and_missing_programs_are_told_before_anything_runs(path, tmp_path, monkeypatch):
    overrides = (
        "hardware.devices=['vu9', 'hx8k']",
        "verify.limits={ verilog = 3 }",
        "export.options={ verilog = { dept = 3 }, hls4ml = { backend = 'vitis' } }",
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("dyadiq.fpga.tools.sys.executable", str(tmp_path / "python"))
    with pytest.raises(ConfigError) as caught:
        run_recipe(recipe_at(path, tmp_path / "run", *overrides))
    for words in (
        "hardware.devices: unknown device 'vu9'; did you mean 'vu9p'",
        "hardware: the program 'yosys' is not installed. Run: apt-get install yosys",
        "hardware: the program 'nextpnr-ice40' is not installed. Run: apt-get install nextpnr-ice40",
        "verify.limits: 'verilog' is not among verify.against",
        "export.options: unknown option of target verilog 'dept'",
        "export.options: hls4ml: backend must be one of Vivado",
    ):
        assert words in str(caught.value)


def test_limit_of_luts_needs_the_section(path):
    recipe = load_recipe(path, ["accept.max_lut=2"])
    with pytest.raises(ConfigError, match=r"LUTs are counted by the section \[hardware\], which is missing"):
        check_names(recipe)


def test_part_of_a_recipe_takes_single_keys():
    data = {"name": "t", "data": {"name": "digits"}, "model": {"name": "m"}, "allocate": {"budget": {"size": "25%"}}}
    recipe = parse_recipe(data, ["hardware.depth=3"])
    assert recipe.part("name", "hardware.depth", "hardware.devices") == {
        "name": "t",
        "hardware": {"devices": ["vu9p"], "depth": 3},
    }
    assert recipe.part("hardware.depth", "hardware")["hardware"]["place"] is True
    assert parse_recipe(data).part("hardware.depth") == {"hardware": None}


def test_every_stage_that_writes_circuits_writes_the_same_one(finished, tmp_path):
    """The circuit that `verify` simulated is the one whose cells are counted."""
    from dyadiq.ir.serialize import load_program

    program = load_program(finished.folder / "lower" / "program.safetensors")
    TARGETS["verilog"].configured(depth=6).write(program, tmp_path)
    kept = finished.folder / "hardware" / "vu9p" / "network.v"
    assert (tmp_path / "network.v").read_bytes() == kept.read_bytes()
    rows = json.loads((finished.folder / "hardware" / "hardware.json").read_text())
    assert "seconds" not in json.dumps(rows)
