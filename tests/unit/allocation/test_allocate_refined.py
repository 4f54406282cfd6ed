"""`allocate` with a measurement: the plan is refined, says so, and keeps the proof of the one before."""

import json

import numpy as np
import pytest

from dyadiq.allocation import allocate
from dyadiq.core.errors import ConfigError
from dyadiq.core.facts import Decision, LayerFacts, NetworkFacts
from dyadiq.core.plan import BitPlan
from dyadiq.core.tables import Sensitivity, SensitivityTable

NAMES = ("a", "b")


class Truth:
    """The table thinks that ``a`` needs bits more; measured, ``b`` does."""

    def __init__(self, worse="b"):
        self.worse = worse

    def __call__(self, bits):
        return np.array([1.0, 1.1, 0.9]) * sum((2.0 if n == self.worse else 1.0) * 2.0 ** -bits[n] for n in NAMES)

    def rebase(self, bits): ...


@pytest.fixture
def table():
    activations = [Decision(n, "activation", (16,), 8) for n in ("x", "h", "y")]
    weights = [Decision(n, "weight", (16, 16)) for n in NAMES]
    layers = (
        LayerFacts("fc1", "linear", "a", "x", "h", n=16, m=16, n_positions=1),
        LayerFacts("fc2", "linear", "b", "h", "y", n=16, m=16, n_positions=1),
    )
    rows = {
        n: {b: Sensitivity(scale * 2.0**-b, 0.01) for b in (4, 8)} for n, scale in zip(NAMES, (2.0, 1.0), strict=True)
    }
    return SensitivityTable("gram", "nats", rows, NetworkFacts((*activations, *weights), layers))


def of(table, **options):
    return allocate(table, {"weight_bits": 12 * 256}, bits=(4, 8), **options)


def test_refined_plan_keeps_the_certificate_and_budget_and_says_what_changed(table):
    plain, plan = of(table), of(table, refine_by=Truth(), refine_guard=Truth())
    assert (plain.bits["a"], plain.bits["b"]) == (8, 4)
    assert (plan.bits["a"], plan.bits["b"]) == (4, 8)
    assert plan.certificate == plain.certificate
    assert plan.refinement.changes == {"a": (8, 4), "b": (4, 8)}
    assert plan.refinement.after[1] < plan.refinement.before[1]
    assert plan.budgets[0].used == plan.costs["weight_bits"] == plain.costs["weight_bits"]
    (chosen,) = (p for p in plan.front if p.label == "chosen")
    assert chosen.bits == plan.bits
    assert (plan.alternatives, plan.stability) == ((), None)
    assert BitPlan.from_json(json.loads(json.dumps(plan.to_json()))).refinement == plan.refinement


def test_where_the_guard_disagrees_the_certified_plan_is_kept(table):
    plain, plan = of(table), of(table, refine_by=Truth(), refine_guard=Truth("a"))
    assert plan.bits == plain.bits
    assert plan.refinement.changes == {}
    assert "the first start was kept" in plan.refinement.reason
    assert plan.alternatives == plain.alternatives
    assert plain.refinement is None


def test_no_rounds_leave_the_plan_as_it_was(table):
    assert of(table, refine_by=Truth(), refine_guard=Truth(), refine_rounds=0).bits == of(table).bits


@pytest.mark.parametrize("given", ["refine_by", "refine_guard"])
def test_measurement_and_guard_go_together(table, given):
    with pytest.raises(ConfigError, match="refine_by and refine_guard go together"):
        of(table, **{given: Truth()})
