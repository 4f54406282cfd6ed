"""The results of benchmarks/allocation_vs_solvers.py: the row of the page says what the file says."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOUND = json.loads((ROOT / "benchmarks/results/allocation_vs_solvers.json").read_text())
(LINE,) = (
    line
    for line in (ROOT / "docs/validation.md").read_text().splitlines()
    if "`python benchmarks/allocation_vs_solvers.py --write`" in line
)


def medians(n_layers):
    """Ours, and the fastest peer's, by number of widths; one budget."""
    rows = [row for row in FOUND["one"] if (row["layers"], row["budgets"]) == (n_layers, 1)]
    ours = [row["ours"]["ms"] for row in rows]
    peers = [min(row[peer]["ms"] for peer in FOUND["peers"]) for row in rows]
    return ours, peers


def test_every_run_is_there_and_ours_is_always_proven_optimal():
    assert FOUND["complete"]
    assert FOUND["native"]
    assert all(row["ours"]["broke_budget"] == row["ours"]["missed_optimum"] == 0 for row in FOUND["one"])
    agreement = FOUND["agreement"]
    assert agreement["equal"] + agreement["both_infeasible"] == agreement["instances"] == 5000


def test_validation_page_shows_the_times():
    (ours, peers), (large, large_peers) = medians(54), medians(1000)
    assert f"at 54 layers {min(ours):.2f} to {max(ours):.2f} ms" in LINE
    assert f"the fastest peer {min(peers):.1f} to {max(peers):.1f})" in LINE
    assert f"at 1,000 layers {min(large):.1f} to {max(large):.1f} ms" in LINE
    assert f"({min(large_peers):.0f} to {max(large_peers):.0f})" in LINE
    fronts = {n: max(max(r["ms"]) for r in FOUND["front"] if r["layers"] == n) for n in (54, 1000)}
    assert f"front at most {fronts[54]:.1f} ms and {fronts[1000]:.1f} ms" in LINE
    assert max(ours) <= 2
    assert fronts[54] <= 50
    assert fronts[1000] <= 1000
