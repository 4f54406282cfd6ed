"""The scripts behind docs/validation.md run: on a few samples, for a few epochs, in seconds."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dyadiq.core.data_folder import data_folder

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
def test_jets_table_has_every_plan_when_training_is_short(tmp_path):
    options = sets(*QUICK, "data.options={ n_train = 3000, n_test = 500 }")
    arguments = ("--seeds", "0", "--variants", "plain", "--jobs", "1", "--out", "table.json")
    done = start("jets_table.py", tmp_path, *arguments, *options)
    document = json.loads((tmp_path / "table.json").read_text())
    assert [row["label"] for row in document["rows"]] == ["W8A8", "W6A6", "W4A4", "mixed"]
    assert len({row["float"] for row in document["rows"]}) == 1
    eight = document["rows"][0]
    assert eight["costs"]["bops"] == 362_784
    assert eight["verify"]["qonnx"] == {"samples": 500, "compared": 2500, "mismatches": 0}
    assert "| plain | W8A8 |" in done.stdout, done.stderr
    # A network trained for a moment may lose more than it should; nothing else may be wrong.
    assert all(problem.startswith("plain W8A8:") for problem in document["problems"])
    assert done.returncode == (1 if document["problems"] else 0), done.stderr


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


@pytest.mark.parametrize("name", ["jets_table", "digits_table"])
def test_validation_page_shows_the_table_of_the_stored_results(name, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module(name)
    document = json.loads((BENCHMARKS / "results" / f"{name}.json").read_text())
    assert document["problems"] == []
    assert script.table(document) in VALIDATION.read_text(encoding="utf-8")
