"""Budgets of circuits in recipes: met, with traces kept; refused before anything runs."""

import sys

import pytest

from dyadiq.core.errors import ConfigError, MissingDependencyError
from dyadiq.pipeline.run import run_recipe
from dyadiq.recipe import load_recipe
from tiny_run import write_tiny_recipe

pytest.importorskip("da4ml", reason="the adder graphs need da4ml")


def test_allocate_meets_hardware_budgets_with_traces_kept_in_the_run_folder(tmp_path, monkeypatch):
    from dyadiq.core.store import load_plan

    monkeypatch.chdir(tmp_path)
    recipe = write_tiny_recipe(tmp_path)
    plans = {}
    for clock, budget in ((200.0, {"lut": 40_000}), (400.0, {"latency_ns": 90, "ff": 20_000})):
        changes = [f"allocate.budget={{{', '.join(f'{m}={a}' for m, a in budget.items())}}}"]
        changes += [
            "quant.multiplier_bits=4",
            f"allocate.clock_mhz={clock}",
            "train.epochs=2",
            "model.name=tiny_run:one_layer",
        ]
        run_recipe(load_recipe(recipe, changes), until="allocate")
        plan = load_plan(tmp_path / "runs" / "tiny" / "allocate" / "plan.json")
        assert all(plan.costs[metric] <= limit for metric, limit in budget.items())
        plans[clock] = plan
    assert {"lut", "ff", "latency_ns"} <= set(plans[200.0].costs)
    assert (tmp_path / "runs" / "tiny" / "cache" / "layer_traces.json").is_file()


def test_hardware_budgets_are_checked_before_anything_runs(tmp_path, monkeypatch):
    recipe = write_tiny_recipe(tmp_path)
    with pytest.raises(ConfigError, match=r"allocate\.budget lut: '50%' is a percentage .* Give an absolute number"):
        run_recipe(load_recipe(recipe, ["allocate.budget={lut='50%'}"]))
    with pytest.raises(ConfigError, match=r"unknown cost metric 'luts'; did you mean 'lut'"):
        run_recipe(load_recipe(recipe, ["allocate.budget={luts=5}"]))
    monkeypatch.setitem(sys.modules, "da4ml.cmvm", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'dyadiq\[fpga\]'"):
        run_recipe(load_recipe(recipe, ["allocate.budget={lut=5000}"]))
