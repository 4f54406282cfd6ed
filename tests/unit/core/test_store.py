"""Plans, tables and facts to files and back."""

import json
import math

import numpy as np
import pytest

from dyadiq.core.errors import ArtifactError
from dyadiq.core.facts import Decision, LayerFacts, NetworkFacts, QuantConfig
from dyadiq.core.format import Format
from dyadiq.core.plan import BitPlan, BudgetUse, Certificate, ParetoPoint, Swap
from dyadiq.core.store import (
    load_cost,
    load_facts,
    load_plan,
    load_table,
    save_cost,
    save_facts,
    save_plan,
    save_table,
)
from dyadiq.core.tables import CostTable, Interactions, PairCost, Sensitivity, SensitivityTable


def facts():
    return NetworkFacts(
        decisions=(Decision("x", "activation", (3,), 8), Decision("fc.weight", "weight", (2, 3))),
        layers=(LayerFacts("fc", "linear", "fc.weight", "x", "x", 3, 2, 1, n_zero_weights=1),),
        fixed_size_bytes=512,
        float_size_bytes=24,
        config=QuantConfig(weight=Format(3, granularity="group", group_size=4), multiplier_bits=12),
    )


def plan():
    return BitPlan(
        formats={"x": Format(8), "fc.weight": Format(3, narrow=True, scheme="symmetric")},
        certificate=Certificate(0.1, 0.1 - 1e-17, 0.0, "exact", "10^7", Swap("x", 8, 9, -1e-300, 64)),
        budgets=(BudgetUse("size", "byte", 600, 576, True),),
        costs={"size": 576},
        front=(ParetoPoint(576, 0.1, {"x": 8, "fc.weight": 3}, "chosen"),),
        provenance={"seed": 0},
    )


def table(interactions=True):
    cross = Interactions((("x", 8), ("fc.weight", 3)), np.array([[1.0, -0.1], [-0.1, np.inf]]))
    return SensitivityTable(
        method="gram",
        unit="nats",
        entries={"fc.weight": {3: Sensitivity(0.1, math.inf), 10: Sensitivity(5e-324, 0.0)}, "x": {}},
        facts=facts(),
        n_samples=64,
        seed=7,
        curvature={"fc.weight": Sensitivity(1.25, 0.5)},
        interactions=cross if interactions else None,
        notes=("one sample was skipped",),
    )


def test_plan_round_trips(tmp_path):
    save_plan(tmp_path / "a", plan())
    assert load_plan(tmp_path / "a", require_hash=True) == plan()
    assert list(load_plan(tmp_path / "a").formats) == ["x", "fc.weight"]


def test_cost_round_trips(tmp_path):
    cost = CostTable(
        "bops", "bop", "exact", "m n b_a b_w", {"x": {4: 2**60, 8: 3}}, (PairCost("x", "w", {(4, 8): 5}),), 7, None
    )
    save_cost(tmp_path / "a", cost)
    assert load_cost(tmp_path / "a") == cost


def test_facts_round_trip(tmp_path):
    save_facts(tmp_path / "a", facts())
    assert load_facts(tmp_path / "a") == facts()


def test_table_round_trips_when_it_has_interactions(tmp_path):
    save_table(tmp_path / "a", table())
    back = load_table(tmp_path / "a")
    assert back.interactions.index == table().interactions.index
    assert np.array_equal(back.interactions.matrix, table().interactions.matrix)
    assert (back.entries, back.curvature, back.facts) == (table().entries, table().curvature, table().facts)


def test_table_is_readable_json_when_it_has_no_interactions(tmp_path):
    save_table(tmp_path / "a", table(interactions=False))
    assert load_table(tmp_path / "a") == table(interactions=False)
    assert json.loads((tmp_path / "a").read_text())["payload"]["entries"]["fc.weight"]["3"] == [0.1, "inf"]


def test_table_keeps_nan(tmp_path):
    entries = {"x": {4: Sensitivity(math.nan, -math.inf)}}
    save_table(tmp_path / "a", SensitivityTable("m", "u", entries, facts()))
    back = load_table(tmp_path / "a").entries["x"][4]
    assert math.isnan(back.value)
    assert back.stderr == -math.inf


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        ({"w": {"bits": 99}}, r"not a valid plan: Format: bits must be in \[1, 16\], got 99"),
        ({"w": {"bit": 4}}, "not a valid plan: Format: unknown key 'bit'"),
        ({"w": {}}, "not a valid plan: .*missing 1 required"),
        ([], "not a valid plan"),
    ],
)
def test_plan_by_hand_is_refused_when_wrong(tmp_path, formats, message):
    (tmp_path / "p.json").write_text(json.dumps({"schema": "dyadiq.plan/1", "payload": {"formats": formats}}))
    with pytest.raises(ArtifactError, match=message):
        load_plan(tmp_path / "p.json")


def test_plan_by_hand_is_refused_when_formats_are_missing(tmp_path):
    (tmp_path / "p.json").write_text('{"schema": "dyadiq.plan/1", "payload": {}}')
    with pytest.raises(ArtifactError, match="not a valid plan: the key 'formats' is missing"):
        load_plan(tmp_path / "p.json")


def test_plan_by_hand_is_refused_when_a_hash_is_required(tmp_path):
    (tmp_path / "p.json").write_text('{"schema": "dyadiq.plan/1", "payload": {"formats": {}}}')
    with pytest.raises(ArtifactError, match="does not match its hash"):
        load_plan(tmp_path / "p.json", require_hash=True)


def test_nouns_are_not_mixed_up(tmp_path):
    save_plan(tmp_path / "a", plan())
    with pytest.raises(ArtifactError, match=r"holds a dyadiq\.plan, expected a dyadiq\.sensitivity"):
        load_table(tmp_path / "a")
