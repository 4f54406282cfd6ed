"""The parts of benchmarks/jets_vs_hgq.py that need no HGQ2: which checkpoints are measured, means, the table."""

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = "jets_vs_hgq"


def row(**changes):
    counts = {"ebops": 4000, "lut_da4ml": 3900, "lut_yosys": 3800, "ff": 900, "latency_cycles": 6, "cpu_seconds": 400.0}
    return {
        "kind": "fixed beta",
        "beta": 2e-5,
        "epochs": 160,
        "seed": 0,
        "accuracy": 0.71,
        "val_accuracy": 0.72,
        **counts,
        **changes,
    }


def test_groups_are_means_over_seeds_when_rows_are_mixed(script):
    rows = [row(), row(seed=1, accuracy=0.73, lut_yosys=4000), row(beta=1e-6), row(kind="ramp", beta=3e-6)]
    small, large = script.groups(rows)
    assert (small["beta"], small["n_seeds"], large["beta"], large["n_seeds"]) == (1e-6, 1, 2e-5, 2)
    assert large["accuracy"]["mean"] == pytest.approx(0.72)
    assert large["lut_yosys"]["mean"] == 3900
    assert small["accuracy"]["std"] == 0


def test_table_has_a_line_for_each_beta_when_seeds_are_many(script):
    text = script.table({"groups": script.groups([row(), row(seed=1, accuracy=0.73)])})
    assert text.splitlines()[2].startswith("| 2e-05 | 160 | 2 | 72.00 ± 1.41 | 4,000 ± 0 | 3,900 ± 0 | 3,800 ± 0 |")


def test_rows_of_other_lengths_of_training_are_kept_beside_new_ones(script, tmp_path):
    rows = [row(), row(epochs=240), row(beta=2.0000001e-5), row(beta=1e-6)]
    (tmp_path / "rows.json").write_text(json.dumps({"rows": rows}))
    assert script.kept(tmp_path / "rows.json", [2e-5], 160) == [rows[1], rows[3]]
    assert [(e["beta"], e["epochs"], e["n_seeds"]) for e in script.groups([row(), row(epochs=240)])] == [
        (2e-5, 160, 1),
        (2e-5, 240, 1),
    ]


def test_front_is_chosen_by_validation_accuracy_when_sizes_are_near(script, tmp_path):
    history = {"ebops": [9000, 8900, 4100, 4000, 900], "val_accuracy": [0.70, 0.71, 0.69, 0.66, 0.6]}
    (tmp_path / "training.json").write_text(json.dumps({"history": history}))
    (tmp_path / "front").mkdir()
    for epoch in (0, 1, 3, 4):  # epoch 2 was beaten, so that no checkpoint of it is left
        (tmp_path / "front" / f"{epoch:04d}.keras").touch()
    assert script.front_of(tmp_path) == ["0001.keras", "0003.keras", "0004.keras"]


def test_validation_page_shows_both_fronts_of_the_stored_results(script):
    ours, theirs = (json.loads((script.RESULTS / file).read_text()) for file in script.FRONTS.values())
    page = (BENCHMARKS.parent / "docs" / "validation.md").read_text(encoding="utf-8")
    assert script.both_table(ours, theirs) in page
    assert not any(found["mismatches"] for row in ours["rows"] for found in row["verify"].values())
    # The claim about the cost model: estimates of circuits as trained are within 2 % of Yosys.
    assert all(abs(row["lut_estimated"] / row["lut_yosys"] - 1) <= 0.02 for row in ours["rows"])


def test_validation_page_says_what_seeds_that_nothing_was_chosen_by_reach(script):
    ours, theirs = (json.loads((script.RESULTS / file).read_text())["rows"] for file in script.FRONTS.values())
    said = []
    for rows, seconds in (
        ([row for row in ours if row["budget"] == 1340], "training_cpu_seconds"),
        ([row for row in theirs if row["kind"] == "fixed beta" and row["epochs"] == 286], "cpu_seconds"),
    ):
        fresh = [row for row in rows if row["seed"] in (3, 4, 5)]
        assert len(fresh) == 3
        found = [script.mean_and_spread(row[key] for row in fresh) for key in ("accuracy", "lut_yosys", seconds)]
        counts = [f"{count['mean']:,.0f} ± {count['std']:.0f}" for count in found[1:]]
        said.append((f"{script.percent(found[0])} % with {counts[0]}", f"{counts[1]} CPU s"))
    page = (BENCHMARKS.parent / "docs" / "validation.md").read_text(encoding="utf-8")
    assert f"{said[0][0]} LUTs in {said[0][1]} | HGQ2 trained about as long, {said[1][1]}: {said[1][0]} |" in page
