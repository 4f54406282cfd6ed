"""``dyadiq data jets``: converts published jets, simulates new ones, and says what is wrong with either wish."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from dyadiq.zoo import jets_job
from published_jets import jets, write_csv, write_tutorial


def test_help_of_data_jets(cli, snapshot):
    result = cli("data", "jets", "--help")
    assert result.exit_code == 0
    snapshot(result)


def test_published_jets_are_converted(cli, tmp_path, snapshot):
    write_csv(tmp_path / "a.csv", *jets(100))
    result = cli("data", "jets", "--from", tmp_path / "a.csv", "--out", tmp_path / "out")
    assert result.exit_code == 0
    snapshot(result, paths=((tmp_path, "<tmp>"),))


def test_published_arrays_are_converted_to_a_document(cli, tmp_path):
    result = cli("data", "jets", "--from", write_tutorial(tmp_path / "in"), "--out", tmp_path / "out", "--json")
    document = json.loads(result.stdout)
    assert (document["schema"], document["n"]) == ("dyadiq.jets/1", {"train": 80, "test": 40})
    assert (tmp_path / "out" / "jets.npz").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--from", "x", "--n-train", "9", "--workers", "1"), "got --n-train, --workers as well"),
        (("--from", "nothing.csv"), "no file or folder nothing.csv"),
        (("--n-train", "3"), "n_train must be at least 5"),
        (("--n-train", "0"), "Invalid value for '--n-train'"),
    ],
)
def test_impossible_wish_is_bad_input(cli, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = cli("data", "jets", "--out", "out", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_missing_pythia_names_the_extra(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pythia8mc", None)
    result = cli("data", "jets", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "pip install 'dyadiq[jets]'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_interruption_says_what_is_kept(cli, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(jets_job, "simulate_jets", interrupted)
    result = cli("data", "jets", "--out", tmp_path / "out")
    assert result.exit_code == 130
    assert "finished jets are kept in" in result.stderr


def needs_physics():
    for package in ("pythia8mc", "fastjet"):
        pytest.importorskip(package, reason="needs pythia8mc and fastjet: pip install 'dyadiq[jets]'")


@pytest.mark.slow
def test_simulation_ends_in_one_document_and_nothing_else_on_stdout(tmp_path):
    needs_physics()
    script = (
        "import sys; from pathlib import Path; from dyadiq.zoo import jets_job; from dyadiq.cli.app import main\n"
        "from dataclasses import replace\n"
        "whole = jets_job.simulate_jets\n"
        "jets_job.simulate_jets = lambda out, config, **kw: whole(out, replace(config, chunk_jets=2), **kw)\n"
        "if __name__ == '__main__': main()\n"
    )
    (tmp_path / "small.py").write_text(script)
    words = [sys.executable, "small.py", "data", "jets", "--out", "out", "--n-train", "5", "--n-test", "5", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").rglob("*.npz")) and time.monotonic() < deadline:
        time.sleep(0.05)
    start.send_signal(signal.SIGINT)
    assert start.wait(timeout=60) == 130, start.stderr.read()
    kept = len(list((tmp_path / "out").rglob("*.npz")))
    assert 1 <= kept < 10
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["chunks"]["kept"] == kept
    with np.load(tmp_path / "out" / "jets.npz") as made:
        assert sorted(made["y_train"].tolist()) == [0, 1, 2, 3, 4]
    start.stdout.close(), start.stderr.close()
