"""The results of benchmarks/allocation_quality.py: the page shows the row, and the summary follows from the cells."""

import json
import math
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOUND = json.loads((ROOT / "benchmarks/results/allocation_quality.json").read_text())


@pytest.mark.parametrize("name", FOUND["networks"])
def test_summary_is_that_of_the_cells(name):
    cells = [c for c in FOUND["cells"] if c["network"] == name]
    ratios = [c["refined"]["kl"] / c["trace"]["kl"] for c in cells]
    said = FOUND["networks"][name]["refined"]
    assert said["geometric_mean"] == pytest.approx(math.prod(ratios) ** (1 / len(ratios)))
    assert (said["worst"], said["n"]) == (pytest.approx(max(ratios)), len(ratios))


def test_validation_page_shows_resnet20():
    page = (ROOT / "docs/validation.md").read_text()
    cells = [c for c in FOUND["cells"] if c["network"] == "cifar_resnet20"]
    ratios = [c["refined"]["ratio"] for c in sorted(cells, key=lambda c: c["average_bits"])]
    said = FOUND["networks"]["cifar_resnet20"]
    assert (
        f"{', '.join(f'{r:.2f}' for r in ratios)}; geometric mean {said['refined']['geometric_mean']:.3f}, "
        f"worst {said['refined']['worst']:.2f} (single divergences alone: {said['kl']['geometric_mean']:.3f})"
    ) in page
