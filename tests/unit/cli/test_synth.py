"""``dyadiq synth``: a program file to counts and a clock, as text and as one document."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from dyadiq.core.qtype import QType
from dyadiq.fpga import devices
from dyadiq.ir.serialize import save_program
from programs import INT4N, UINT8, ProgramBuilder

pytest.importorskip("da4ml", reason="the adder graphs need da4ml")
needs_tools = pytest.mark.skipif(
    not (shutil.which("yosys") and shutil.which("nextpnr-ice40")), reason="yosys or nextpnr-ice40 is not installed"
)


@pytest.fixture
def program(tmp_path):
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.linear(b.input((3,), QType.parse("int4")), 2, INT4N, bias_bits=3)
    save_program(tmp_path / "p.safetensors", b.program(b.requantize(x, UINT8, shift=0)))
    return tmp_path / "p.safetensors"


@needs_tools
def test_counts_and_clock_in_one_document(cli, program, tmp_path):
    args = ("synth", program, "--family", "ice40", "--device", "hx8k", "--out", tmp_path / "out")
    result = cli(*args, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["schema"] == "dyadiq.synth/1"
    counted, placed = document["hardware"]
    assert (counted["kind"], counted["tool"]) == ("synthesised", "yosys")
    assert (placed["kind"]["lut"], placed["kind"]["fmax_mhz"]) == ("synthesised", "placed")
    assert placed["fmax_mhz"] > 0
    assert document["adders_per_stage"] <= 2  # what suits iCE40
    text = cli(*args)
    assert text.exit_code == 0
    assert f"latency {document['latency_cycles']} cycles" in text.stdout
    assert "synthesised, placed" in text.stdout
    assert "ICESTORM_LC" in text.stdout
    assert f"cycles / {placed['fmax_mhz']:g} MHz = {placed['latency_ns']:g} ns, placed" in " ".join(text.stdout.split())


@needs_tools
def test_part_without_open_timing_is_counted_and_its_nanoseconds_are_called_a_model(cli, program, tmp_path):
    result = cli("synth", program, "--device", "VU9P", "--depth", "1", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "synthesised, modelled" in result.stdout
    assert "of 1,182,240 LUT" in result.stdout
    assert "cycles / 200 MHz" in result.stdout


@needs_tools
def test_answer_is_no_when_the_circuit_does_not_fit(cli, program, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "DEVICES", {"hx8k": replace(devices.DEVICES["hx8k"], lut=3)})
    result = cli("synth", program, "--device", "hx8k", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "Does not fit: hx8k: the circuit takes" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--family", "virtex"), "unknown family 'virtex'"),
        (("--device", "vu99"), "unknown device 'vu99'; did you mean 'vu9p'"),
        ((), "a program file has no folder of its own. Give --out FOLDER"),
    ],
)
def test_bad_requests_are_refused_before_any_work(cli, program, options, message):
    result = cli("synth", program, *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
