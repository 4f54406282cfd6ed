"""The rows of docs/validation.md on fine-tuned and zoo networks say what their results files say."""

import json
import statistics
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PAGE = (BENCHMARKS.parent / "docs" / "validation.md").read_text()


def line_of(command):
    (line,) = (line for line in PAGE.splitlines() if f"`{command}`" in line)
    return line


@pytest.mark.parametrize("case", ["w4a4", "w2a8"])
def test_fine_tuned_rows_are_those_of_the_file(case):
    rows = json.loads((BENCHMARKS / "results" / "qat_cifar.json").read_text())["rows"]
    (row,) = (row for row in rows if row["case"] == case)
    line = line_of(f"python benchmarks/qat_cifar.py --cases {case} --seeds 0 --epochs {row['epochs']}")
    assert f"{100 * row['integer']:.2f} % (float {100 * row['float']:.2f})" in line
    assert row["n_test"] == 8000
    assert ("**missed**" in line) == (row["drop"] > {"w4a4": 0.001, "w2a8": 0.012}[case])


@pytest.mark.parametrize(("bits", "allowed"), [("8", 0.5), ("4", 2.0)])
def test_squeezenet_rows_are_those_of_the_file(bits, allowed):
    networks = json.loads((BENCHMARKS / "results" / "zoo_networks.json").read_text())["networks"]
    rows = [networks[f"squeezenet1_1 W{bits}A8 seed {seed}"] for seed in (0, 1, 2)]
    width = "" if bits == "8" else f" --bits {bits}"
    line = line_of(f"python benchmarks/zoo_networks.py squeezenet1_1{width} --seeds 0 1 2")
    drops = [row["drop_points"] for row in rows]
    assert f"{statistics.mean(drops):.2f} ± {statistics.stdev(drops):.2f} points below" in line
    assert ("**missed**" in line) == (statistics.mean(drops) > allowed)
    assert all(row["n_test"] == 600 and not any(v["mismatches"] for v in row["verify"].values()) for row in rows)
