"""The results of benchmarks/population_trace.py: the claims of the validation page are what was measured."""

import json
from pathlib import Path
from statistics import NormalDist

ROOT = Path(__file__).parents[2]
FOUND = json.loads((ROOT / "benchmarks/results/population_trace.json").read_text())


def test_every_interval_is_within_the_tolerance():
    for run in FOUND["runs"]:
        z = NormalDist().inv_cdf(1.0 - 0.025 / len(run["layers"]))
        widths = [z * layer["stderr"] / layer["mean"] for layer in run["layers"].values()]
        assert len(widths) == 20
        assert 0.0 < max(widths) <= FOUND["tolerance"] == 0.02


def test_validation_page_shows_the_seconds():
    page = (ROOT / "docs/validation.md").read_text()
    seconds = ", ".join(f"{run['cpu_s']:.1f}" for run in FOUND["runs"])
    worst = max(run["relative_stderr_worst"] for run in FOUND["runs"])
    assert f"{seconds} s; worst standard error {100 * worst:.2f} %" in page
