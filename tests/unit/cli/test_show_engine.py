"""What `show` says of a compiled program: the algorithm of every layer, and what it was chosen by."""

import json

import numpy as np

from dyadiq.engine import compile_program, write_engine_file
from programs import PROGRAMS


def compiled(path, measured=None):
    plan = compile_program(PROGRAMS["residual"](np.random.default_rng(0)))
    plan.measured = measured
    write_engine_file(plan, path)


def test_steps_and_algorithms_are_shown(cli, tmp_path):
    compiled(tmp_path / "p.dyqe")
    shown = cli("show", str(tmp_path / "p.dyqe"))
    assert shown.exit_code == 0, shown.stderr
    assert "compiled program, " in shown.stdout
    assert "conv2d1" in shown.stdout
    assert "direct" in shown.stdout
    assert "the file depends on no machine" in shown.stdout
    document = json.loads(cli("show", str(tmp_path / "p.dyqe"), "--json").stdout)
    assert document["schema"] == "dyadiq.dyqe/1"
    assert {step["algorithm"] for step in document["steps"] if step["op"] == "conv"} == {"direct"}
    assert document["measured"] is None


def test_measured_times_are_shown(cli, tmp_path):
    layers = {"conv2d1": {"direct": [12.34, 9.0], "winograd": [8.5, 7.0]}}
    compiled(tmp_path / "p.dyqe", {"isa": "avx2", "threads": 2, "layers": layers})
    shown = " ".join(cli("show", str(tmp_path / "p.dyqe")).stdout.split())
    assert "direct 12.3 (9.0), winograd 8.5 (7.0)" in shown
    assert "algorithms by measurement: kernels avx2, threads 2" in shown


def test_what_is_no_compiled_program_is_refused(cli, tmp_path):
    (tmp_path / "p.dyqe").write_bytes(b"x" * 100)
    assert cli("show", str(tmp_path / "p.dyqe")).exit_code != 0
