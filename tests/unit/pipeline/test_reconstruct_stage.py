"""Runs with ``[reconstruct]``: methods run after calibration, on the same plan; unknown ones stop before it."""

import json

import numpy as np
import pytest

from dyadiq.core.errors import ConfigError
from dyadiq.pipeline.run import run_recipe
from dyadiq.quant.reconstruct import reconstruct_
from dyadiq.quant.store import load_quant_module
from dyadiq.recipe import load_recipe
from tiny_run import write_tiny_recipe

FAST = ("train.epochs=2", "finetune.epochs=0", "allocate={ uniform = { weight = 3, activation = 8 } }")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_tiny_recipe(tmp_path_factory.mktemp("recipe"))


def run(path, out, *overrides, until=None):
    return run_recipe(load_recipe(path, [*FAST, *overrides, f"out={out}"]), until=until)


def codes(folder, stage):
    quants = load_quant_module(folder / stage / "module.safetensors").weight_quants()
    return {name: quant.codes for name, quant in quants.items()}


def test_methods_run_after_calibration_and_the_program_has_their_codes(path, tmp_path):
    result = run(path, tmp_path / "run", 'reconstruct.methods=["gptq"]')
    done = json.loads((result.folder / "reconstruct" / "reconstruct.json").read_text())
    assert done["methods"] == ["gptq"]
    assert all(error["now"] < error["nearest"] for error in done["errors"].values())
    before, after, trained = (codes(result.folder, stage) for stage in ("quantize", "reconstruct", "finetune"))
    assert any((before[name] != after[name]).any() for name in before)
    assert all(np.array_equal(after[name], trained[name]) for name in before)
    assert all(not found["mismatches"] for found in result.summary["verify"].values())


def test_without_methods_the_module_passes_unchanged(path, tmp_path):
    folder = run(path, tmp_path / "run", until="reconstruct").folder
    before, after = (
        load_quant_module(folder / stage / "module.safetensors").state_dict() for stage in ("quantize", "reconstruct")
    )
    assert all((before[name] == after[name]).all() for name in before)
    assert json.loads((folder / "reconstruct" / "reconstruct.json").read_text())["methods"] == []


def test_unknown_methods_stop_the_run_before_it_starts(path, tmp_path):
    with pytest.raises(ConfigError, match=r"reconstruct\.methods: unknown reconstruction method 'gtpq'"):
        run(path, tmp_path / "run", 'reconstruct.methods=["gtpq"]')
    assert not (tmp_path / "run").exists()


def test_the_public_name_is_the_function():
    import dyadiq as dq

    assert dq.reconstruct_ is reconstruct_
