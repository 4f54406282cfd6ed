"""The results of benchmarks/allocation_quality.py: the page shows them, and the summary follows from the cells."""

import json
import math
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOUND = json.loads((ROOT / "benchmarks/results/allocation_quality.json").read_text())
PAGE = (ROOT / "docs/validation.md").read_text()
RUNS = sorted({(c["network"], c["seed"]) for c in FOUND["cells"]})


def geometric_mean(ratios):
    return math.prod(ratios) ** (1 / len(ratios))


@pytest.mark.parametrize("name", FOUND["networks"])
def test_summary_is_that_of_the_cells(name):
    cells = [c for c in FOUND["cells"] if c["network"] == name]
    for what in ("kl", "refined"):
        ratios = [c[what]["kl"] / c["trace"]["kl"] for c in cells]
        said = FOUND["networks"][name][what]
        assert said["geometric_mean"] == pytest.approx(geometric_mean(ratios))
        assert (said["worst"], said["n"]) == (pytest.approx(max(ratios)), len(ratios))
        assert said["n_above_1_05"] == sum(r > 1.05 for r in ratios)


@pytest.mark.parametrize(("name", "seed"), RUNS)
def test_validation_page_shows_every_cell(name, seed):
    cells = [c for c in FOUND["cells"] if (c["network"], c["seed"]) == (name, seed)]
    cells.sort(key=lambda c: c["average_bits"])
    shown = [
        f"{c['refined']['ratio']:.2f} ({100 * c['trace']['accuracy']:.1f} → {100 * c['refined']['accuracy']:.1f} %)"
        for c in cells
    ]
    mean = geometric_mean([c["refined"]["ratio"] for c in cells])
    row = " | ".join([f"`{name}`", str(seed), *shown, f"{mean:.3f}"])
    assert f"| {row} |" in PAGE


def test_validation_page_shows_the_summary():
    said = FOUND["overall"]["refined"]
    assert f"geometric mean {said['geometric_mean']:.3f}, worst {said['worst']:.2f}, {said['n']} cells" in PAGE
