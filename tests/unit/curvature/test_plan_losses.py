import numpy as np
import pytest

from dyadiq.core.errors import DataError
from dyadiq.curvature.plan_loss import PlanLoss
from dyadiq.curvature.plan_losses import PlanLosses, plan_losses
from graphs import NETWORKS
from measured import measured_problem


def plans_of(problem, n):
    rng = np.random.default_rng(0)
    return [{name: int(rng.choice(widths)) for name, widths in problem.widths.items()} for _ in range(n)]


def test_losses_are_those_of_a_plan_measured_at_once_from_any_base():
    problem = measured_problem(NETWORKS["mlp"](), widths=(2, 3, 5))
    measure, direct = PlanLosses(problem), PlanLoss(problem)
    first, second = plans_of(problem, 2)
    measure.rebase(first)
    np.testing.assert_allclose(measure(second), direct(second), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(measure(first), direct(first), rtol=1e-9, atol=1e-12)


def test_kept_losses_are_read_back_and_nothing_is_computed_again(tmp_path, monkeypatch):
    from dataclasses import replace

    problem = replace(measured_problem(NETWORKS["mlp"](), widths=(2, 3)), folder=tmp_path / "kept")
    plans = plans_of(problem, 3)
    measured = [PlanLosses(problem)(plan) for plan in plans]
    assert len(list((tmp_path / "kept").iterdir())) == len({str(plan) for plan in plans})
    monkeypatch.setattr(PlanLoss, "__init__", lambda *_: pytest.fail("measured again"))
    again = PlanLosses(problem)
    again.rebase(plans[0])
    for plan, losses in zip(plans, measured, strict=True):
        np.testing.assert_array_equal(again(plan), losses)


def test_call_quantizes_what_the_facts_name_and_needs_two_samples():
    problem = measured_problem(NETWORKS["mlp"](), widths=(2, 8))
    x = np.concatenate([batch[0].numpy() for batch in problem.batches])
    measure = plan_losses(problem.graph, [x], problem.facts, bits=(2, 8), activation_bits=(8,), precision="float64")
    bits = {d.name: d.fixed_bits or (2 if d.kind == "weight" else 8) for d in problem.facts.decisions}
    assert measure(bits).shape == (len(x),)
    assert measure(bits).mean() > measure({**bits, **dict.fromkeys(problem.weights, 8)}).mean() > 0.0
    with pytest.raises(DataError, match="needs at least two samples"):
        plan_losses(problem.graph, [x[:1]], problem.facts, bits=(2, 8))
