"""The shipped recipes on their real data, from training to report: the promises of the README, kept."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dyadiq.cli.app import app
from dyadiq.core.data_folder import data_folder
from dyadiq.core.native import native_module
from dyadiq.ir.serialize import load_program
from dyadiq.quant.exact import run_exact
from dyadiq.targets.dyq import read_dyq
from dyadiq.targets.verify import verify
from dyadiq.zoo import load_dataset

JETS = data_folder() / "jets" / "jets.npz"
RECIPES = Path(__file__).parents[2] / "recipes"
AVAILABLE = [name for name, found in (("c", shutil.which("cc")), ("engine", native_module())) if found]


def run(recipe, out, *overrides):
    sets = [word for override in (f"out={out}", *overrides) for word in ("--set", override)]
    result = CliRunner().invoke(app, ["run", str(RECIPES / recipe), "--json", *sets])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def assert_exact(summary, *executors):
    for name in executors:
        found = summary["verify"][name]
        assert (found["mismatches"], found["samples"]) == (0, summary["n_eval"]), name


@pytest.mark.e2e
def test_digits_recipe_keeps_its_promises(tmp_path):
    summary = run("digits.toml", tmp_path / "run")
    assert summary["n_eval"] == 540
    assert summary["accuracy"]["float"] > 0.97
    assert summary["accuracy"]["integer"] >= summary["accuracy"]["float"] - 0.01
    assert summary["size_bytes"] <= 0.2 * summary["size_float_bytes"]
    assert summary["size_bytes"] == Path(summary["artifacts"]["dyq"]).stat().st_size == summary["costs"]["size"]
    widths = set(summary["weight_bits"].values())
    assert len(widths) > 1
    assert widths <= set(range(2, 9))
    assert summary["certificate"]["gap"] == pytest.approx(0, abs=1e-9)
    assert_exact(summary, "exact", "onnx", "qonnx", "dyq", *AVAILABLE)
    # The packed file alone gives the accuracy that the summary reports.
    test = load_dataset("digits").test
    program = read_dyq(Path(summary["artifacts"]["dyq"]))
    (codes,) = run_exact(program, test.x).values()
    assert (codes.argmax(axis=1) == test.y).mean() == summary["accuracy"]["integer"]


@pytest.mark.e2e
@pytest.mark.skipif(not JETS.is_file(), reason=f"{JETS} is not here; set DYADIQ_DATA")
def test_jets_recipe_is_exact_on_ten_thousand_jets(tmp_path):
    summary = run(
        "jets.toml",
        tmp_path / "run",
        "data.options={ n_train = 60000, n_test = 10000 }",
        "train.epochs=8",
        "finetune.epochs=3",
        "compare.uniform_bits=[8]",
    )
    assert summary["n_eval"] == 10_000
    assert_exact(summary, "exact", "onnx", "qonnx", "dyq", *AVAILABLE)
    (eight,) = summary["uniform"]
    assert eight["bops"] == 362_784
    assert eight["accuracy"] >= summary["accuracy"]["float"] - 0.003
    assert summary["bops"] <= 0.04 * summary["bops_float"]
    scales = [t.scale for t in load_program(summary["artifacts"]["program"]).graph.tensors.values()]
    assert all(np.all(np.frexp(s)[0] == 0.5) for s in scales if s is not None)  # powers of two


@pytest.mark.e2e
@pytest.mark.skipif(shutil.which("iverilog") is None, reason="iverilog is not installed")
def test_digits_convolutions_are_exact_as_logic_unrolled_and_streamed(tmp_path):
    pytest.importorskip("da4ml")
    summary = run("digits_fpga.toml", tmp_path / "run")
    assert summary["accuracy"]["integer"] > 0.96
    assert_exact(summary, "exact", "onnx", "qonnx", "verilog")
    program = load_program(summary["artifacts"]["program"])
    test = np.asarray(load_dataset("digits").test.x, dtype=np.float64)
    noise = np.random.default_rng(0).uniform(-0.05, 1.05, (1000 - len(test), 1, 8, 8))
    found = verify(program, np.concatenate([test, noise]), ["verilog_stream", "verilog"], chunk=1000)
    assert {name: (r.mismatches, r.samples) for name, r in found.items()} == {
        "verilog_stream": (0, 1000),
        "verilog": (0, 1000),
    }
