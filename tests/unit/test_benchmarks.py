"""The scripts behind docs/validation.md run: on a few samples, for a few epochs, in seconds."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dyadiq.core.data_folder import data_folder
from dyadiq.core.qtype import QType
from dyadiq.ir.serialize import save_program
from dyadiq.targets.dyq import write_dyq
from programs import INT4N, ProgramBuilder, mlp

JETS = data_folder() / "jets" / "jets.npz"
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
VALIDATION = BENCHMARKS.parent / "docs" / "validation.md"
QUICK = ("train.epochs=1", "finetune.epochs=1", "analyze.n_samples=32", "calibrate.n_samples=64")
SMALL_BUDGET = "allocate.budget={ size = '90%' }"  # most of a tiny network is metadata


def start(script, tmp_path, *arguments):
    return subprocess.run(
        [sys.executable, BENCHMARKS / script, *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DYADIQ_DATA": str(data_folder().resolve())},
        capture_output=True,
        text=True,
        timeout=300,
    )


def sets(*overrides):
    return [word for override in overrides for word in ("--set", override)]


@pytest.mark.slow
@pytest.mark.skipif(not JETS.is_file(), reason=f"{JETS} is not here; set DYADIQ_DATA")
def test_jets_tables_have_every_network_when_training_is_short(tmp_path):
    quick = ("--quick", "--seeds", "0", "--work", "work", "--figure", "figure.svg")
    done = start("jets_homogeneous.py", tmp_path, *quick, "--widths", "8", "--out", "homogeneous.json")
    document = json.loads((tmp_path / "homogeneous.json").read_text())
    eight = {row["variant"]: row for row in document["rows"] if row["label"] == "INT8"}
    assert list(eight) == ["baseline", "L1", "BN", "L1+BN"]
    for row in eight.values():
        assert row["bops_dense"] == 362_784
        assert 362_784 - row["bops"] == 64 * round(4256 * row["zero_frac"])
        assert row["verify"]["qonnx"] == {"samples": 500, "compared": 2500, "mismatches": 0}
    assert len(document["l1_choice"]) == 8
    assert "| INT8 L1+BN |" in done.stdout, done.stderr
    # Networks trained for a moment may lose more than they should; nothing else may be wrong.
    assert all(problem.startswith("INT8") for problem in document["problems"])
    assert done.returncode == (1 if document["problems"] else 0), done.stderr
    assert "float32, baseline" in (tmp_path / "figure.svg").read_text()

    options = ("--settings", "6", "--limits", "300000", "--out", "ilp.json")
    done = start("jets_ilp.py", tmp_path, *quick, *options)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "ilp.json").read_text())
    assert [row["method"] for row in document["rows"]] == ["trace", "gram"]
    assert all(row["bops_dense"] <= 300_000 and row["gap"] == 0 for row in document["rows"])
    assert [row["weight_bits"] for row in document["cloud"][:5]] == [[bits] * 4 for bits in (4, 5, 6, 7, 8)]
    assert document["cloud"][0]["activation_bits"] == [16, 7, 7, 7]
    assert [row["bops_dense"] for row in document["cloud"][:5:4]] == [234_368, 523_776]
    assert "optimum of trace, 1 seeds" in (tmp_path / "figure.svg").read_text()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("yosys") is None, reason="yosys is not installed")
@pytest.mark.skipif(not JETS.is_file(), reason=f"{JETS} is not here; set DYADIQ_DATA")
def test_front_has_a_synthesised_network_within_its_budget_when_training_is_short(tmp_path):
    pytest.importorskip("da4ml")
    options = ("--quick", "--seeds", "0", "--budgets", "1340", "--work", "work", "--out", "front.json")
    done = start("jets_front.py", tmp_path, *options)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "front.json").read_text())["rows"]
    assert row["verify"]["exact"] == {"samples": 500, "compared": 2500, "mismatches": 0}
    assert row["weight_bits"] == [8] * 4
    assert row["activation_bits"] == [10, 4, 4, 4]
    assert len(row["feature_bits"]) == 16
    assert 0 < row["lut_yosys"] < 1.1 * 1340
    assert (tmp_path / "work" / row["program"]).is_file()


def test_kept_rows_are_not_made_again_when_nothing_they_depend_on_changed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    jets_runs = importlib.import_module("jets_runs")
    made = []

    def make(path):
        made.append(path)
        return {"accuracy": 0.5}

    first = jets_runs.Runs(tmp_path).row({"seed": 0}, make)
    assert jets_runs.Runs(tmp_path).row({"seed": 0}, make) == first
    assert len(made) == 1
    jets_runs.Runs(tmp_path).row({"seed": 1}, make)
    jets_runs.Runs(tmp_path, quick=True).row({"seed": 0}, make)
    assert len(set(made)) == 3


@pytest.mark.slow
def test_digits_table_has_a_row_for_each_seed_when_training_is_short(tmp_path):
    arguments = ("--seeds", "0", "1", "--out", "table.json", *sets(*QUICK, "model.args.width=4", SMALL_BUDGET))
    done = start("digits_table.py", tmp_path, *arguments)
    document = json.loads((tmp_path / "table.json").read_text())
    assert [row["seed"] for row in document["rows"]] == [0, 1]
    assert all(row["verify"]["onnx"]["mismatches"] == 0 for row in document["rows"])
    assert "| mean |" in done.stdout, done.stderr
    assert done.returncode == (1 if document["problems"] else 0), done.stderr


def test_packing_speed_has_a_row_for_each_width(tmp_path):
    done = start("packing.py", tmp_path, "--codes", "4096", "--runs", "1", "--bits", "3", "4")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [row["bits"] for row in document["rows"]] == [3, 4]
    assert set(document["environment"]) >= {"cpu", "load_average", "versions", "commit", "uncommitted"}


@pytest.mark.skipif(
    not all(map(shutil.which, ("yosys", "nextpnr-ice40", "iverilog"))),
    reason="yosys, nextpnr-ice40 or iverilog is not installed",
)
def test_division_is_right_before_it_is_placed(tmp_path):
    done = start("ice40_division.py", tmp_path, "--seeds", "0", "--widths", "4", "--out", "table.json")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert len(rows) == 10
    assert {row["mismatches"] for row in rows} == {0}
    assert all(row["pairs"] > 40_000 and row["lc"] > 0 and row["fmax_mhz"] > 0 for row in rows)


def test_validation_page_shows_budgets_at_equal_accuracy(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module("jets_budgets")
    document = json.loads((BENCHMARKS / "results" / "jets_budgets.json").read_text())
    assert script.table(document) in VALIDATION.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["jets_homogeneous", "jets_ilp", "digits_table", "ice40_division"])
def test_validation_page_shows_the_table_of_the_stored_results(name, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module(name)
    document = json.loads((BENCHMARKS / "results" / f"{name}.json").read_text())
    assert document["problems"] == []
    assert script.table(document) in VALIDATION.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(not all(map(shutil.which, ("iverilog", "yosys", "g++"))), reason="iverilog, yosys or g++ missing")
def test_silicon_chain_compares_every_executor_when_samples_are_few(tmp_path):
    pytest.importorskip("da4ml")
    pytest.importorskip("hls4ml")
    write_dyq(mlp(np.random.default_rng(0), (4, 4, 3), dyadic=False), tmp_path / "p.dyq")
    options = ("--samples", "60", "--executed", "20", "--simulated", "40", "--families", "ice40")
    done = start("silicon_chain.py", tmp_path, tmp_path / "p.dyq", *options)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    found = document["executors"]
    assert set(found) >= {"emulator", "qonnx", "hls4ml", "iverilog"}
    assert {row["mismatches"] for row in found.values()} == {0}
    assert [found[name]["samples"] for name in ("emulator", "qonnx", "hls4ml", "iverilog")] == [60, 20, 60, 40]
    assert found["qonnx"]["proven"]
    assert document["hardware"][0]["lut"] > 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("iverilog") is None, reason="iverilog is not installed")
def test_digits_circuits_are_compared_when_images_are_few(tmp_path):
    pytest.importorskip("da4ml")
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.requantize(
        b.conv2d(b.input((1, 8, 8), QType.parse("uint2")), 2, 3, stride=2, qtype=INT4N), QType.parse("uint2")
    )
    save_program(tmp_path / "p.safetensors", b.program(b.linear(b.flatten(x), 10, INT4N)))
    options = ("--images", "20", "--simulator", "iverilog", "--no-synthesis", "--work", "work", "--out", "rtl.json")
    pairs = ("p.safetensors", "verilog", "p.safetensors", "verilog_stream")
    done = start("digits_rtl.py", tmp_path, *pairs, *options)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rtl.json").read_text())["rows"]
    assert [(row["target"], row["compared"], row["mismatches"]) for row in rows] == [
        ("verilog", 200, 0),
        ("verilog_stream", 200, 0),
    ]
    assert [row["initiation_interval"] for row in rows] == [1, 64]


def test_validation_page_shows_the_stored_digits_circuits():
    rows = json.loads((BENCHMARKS / "results" / "digits_rtl.json").read_text())["rows"]
    page = VALIDATION.read_text(encoding="utf-8")
    for row in rows:
        counts = " | ".join(f"{row[key]:,}" for key in ("lut", "ff", "latency_cycles", "initiation_interval"))
        assert f"| {row['target']} | {counts} | {row['images']:,} | {row['compared']:,} | {row['mismatches']} |" in page
