"""``dyadiq synth``: a program file to counts and a clock, as text and as one document."""

import json
import shutil

import numpy as np
import pytest

from dyadiq.core.qtype import QType
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
    assert [(r["kind"], r["tool"]) for r in document["hardware"]] == [
        ("synthesised", "yosys"),
        ("placed", "nextpnr-ice40"),
    ]
    assert document["hardware"][1]["fmax_mhz"] > 0
    text = cli(*args)
    assert text.exit_code == 0
    assert f"latency {document['latency_cycles']} cycles" in text.stdout
    assert "synthesised" in text.stdout
    assert "ICESTORM_LC" in text.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--family", "virtex"), "unknown family 'virtex'"),
        (("--device", "vu9p"), "unknown device 'vu9p'"),
        ((), "a program file has no folder of its own. Give --out FOLDER"),
    ],
)
def test_bad_requests_are_refused_before_any_work(cli, program, options, message):
    result = cli("synth", program, *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
