"""Runs with ``[allocate.refine]``: the plan is measured on other samples than those that guard it, and goes on."""

import numpy as np
import pytest

from dyadiq.core.errors import ConfigError, DataError, RunInterruptedError
from dyadiq.core.store import load_plan
from dyadiq.curvature.plan_loss import PlanLoss
from dyadiq.pipeline.run import run_recipe
from dyadiq.recipe import load_recipe
from tiny_run import write_tiny_recipe

FAST = (
    "train.epochs=2",
    "finetune.epochs=0",
    "allocate.budget={ weight_bits = 11000 }",
    "analyze.activation_bits=[8]",
    'analyze.method="squared_error"',
)
REFINE = "allocate.refine={ n_samples = 40, n_guard = 30 }"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_tiny_recipe(tmp_path_factory.mktemp("recipe"))


def run(path, out, *overrides):
    return run_recipe(load_recipe(path, [*FAST, *overrides, f"out={out}"]), until="allocate")


@pytest.fixture(scope="module")
def refined(path, tmp_path_factory):
    return load_plan(run(path, tmp_path_factory.mktemp("runs") / "r", REFINE).folder / "allocate" / "plan.json")


def test_refined_plan_keeps_the_proof_and_the_budget_of_the_plan_before(path, tmp_path, refined):
    plain = load_plan(run(path, tmp_path / "plain").folder / "allocate" / "plan.json")
    assert plain.refinement is None
    assert refined.certificate == plain.certificate
    assert refined.budgets[0].used <= refined.budgets[0].limit == 11000
    change = refined.refinement
    assert {name: was for name, (was, _) in change.changes.items()} == {n: plain.bits[n] for n in change.changes}
    assert {n: b for n, b in refined.bits.items() if b != plain.bits[n]} == {
        n: b for n, (_, b) in change.changes.items()
    }
    assert change.n_accepted > 0 < len(change.changes)
    assert (change.after[0] <= change.before[0], change.after[1] <= change.before[1]) == (True, True)


def test_killed_search_goes_on_and_measures_no_plan_twice(path, tmp_path, refined, monkeypatch):
    measured, whole = [], PlanLoss.__call__

    def killed_at_the_fifth(self, bits):
        if len(measured) == 4:
            raise KeyboardInterrupt
        return measure(self, bits)

    def measure(self, bits):
        measured.append((self._problem.n_samples, tuple(bits.items())))
        return whole(self, bits)

    monkeypatch.setattr(PlanLoss, "__call__", killed_at_the_fifth)
    with pytest.raises(RunInterruptedError, match="interrupted during stage 'allocate'"):
        run(path, tmp_path / "run", REFINE)
    monkeypatch.setattr(PlanLoss, "__call__", measure)
    plan = load_plan(run(path, tmp_path / "run", REFINE).folder / "allocate" / "plan.json")
    assert plan.to_json() == refined.to_json()
    assert len(measured) == len(set(measured)) > 4


def test_distilled_inputs_are_split_between_proposing_and_guarding(path, tmp_path):
    distilled = ("model.args={ batch_norm = true }", "distill={ n_images = 20, steps = 2 }")
    plan = load_plan(run(path, tmp_path / "run", REFINE, *distilled).folder / "allocate" / "plan.json")
    assert np.isfinite([*plan.refinement.before, *plan.refinement.after]).all()


def test_weights_rounded_by_gptq_are_measured_as_they_will_be(path, tmp_path, refined):
    plan = load_plan(
        run(path, tmp_path / "run", REFINE, 'reconstruct.methods=["gptq"]').folder / "allocate" / "plan.json"
    )
    assert plan.refinement.before != refined.refinement.before


def test_refining_is_refused_without_samples_enough_or_with_uniform_bits(path, tmp_path):
    with pytest.raises(DataError, match="n_samples = 4000 and n_guard = 256 need 4256 training samples, there are"):
        run(path, tmp_path / "run", "allocate.refine={ n_samples = 4000 }")
    with pytest.raises(ConfigError, match="a `budget` where `refine` is asked for"):
        run(path, tmp_path / "run", "allocate={ uniform = { weight = 4, activation = 8 }, refine = {} }")
