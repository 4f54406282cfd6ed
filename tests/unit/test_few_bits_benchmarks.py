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


@pytest.mark.parametrize(
    ("case", "epochs", "n_seeds", "allowed"),
    [("w2a8", 10, 3, 0.012), ("w3a8", 1, 3, 0.004), ("w4a4", 10, 3, 0.001), ("w4a4_cutmix", 15, 3, 0.001)],
)
def test_fine_tuned_rows_are_those_of_the_file(case, epochs, n_seeds, allowed):
    rows = json.loads((BENCHMARKS / "results" / "qat_cifar.json").read_text())["rows"]
    rows = [row for row in rows if (row["case"], row["epochs"]) == (case, epochs)]
    assert [row["seed"] for row in rows] == list(range(n_seeds))
    assert all(row["n_test"] == 8000 for row in rows)
    seeds = " ".join(str(row["seed"]) for row in rows)
    line = line_of(f"python benchmarks/qat_cifar.py --cases {case} --epochs {epochs} --seeds {seeds}")
    drops = [100 * row["drop"] for row in rows]
    spread = f" ± {statistics.stdev(drops):.2f}" if n_seeds > 1 else ""
    assert f"{statistics.mean(drops):.2f}{spread} points below float ({100 * rows[0]['float']:.2f} %)" in line
    # In images, which are exact.
    lost = sum(round(row["drop"] * row["n_test"]) for row in rows)
    assert ("**missed**" in line) == (lost > round(allowed * 8000 * n_seeds))


def test_larger_teacher_is_said_as_measured():
    rows = json.loads((BENCHMARKS / "results" / "qat_cifar.json").read_text())["rows"]
    (row,) = (row for row in rows if row["case"] == "w4a4_apprentice")
    command = f"--cases w4a4_apprentice --epochs {row['epochs']} --seeds {row['seed']}"
    assert f"(`{command}`): {100 * row['drop']:.2f} |" in PAGE


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
