"""The results of benchmarks/allocation_quality.py: the page shows them, and the summary follows from the cells."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from dyadiq.ir.graph import Graph, Node, TensorInfo

ROOT = Path(__file__).parents[2]
SCRIPT = "allocation_quality"
FOUND = json.loads((ROOT / "benchmarks/results/allocation_quality.json").read_text())
PAGE = (ROOT / "docs/validation.md").read_text()
NETWORKS = [(rounding, name) for rounding, found in FOUND.items() for name in found["networks"]]
RUNS = sorted({(rounding, c["network"], c["seed"]) for rounding, found in FOUND.items() for c in found["cells"]})


def geometric_mean(ratios):
    return math.prod(ratios) ** (1 / len(ratios))


@pytest.mark.parametrize(("rounding", "name"), NETWORKS)
def test_summary_is_that_of_the_cells(rounding, name):
    cells = [c for c in FOUND[rounding]["cells"] if c["network"] == name]
    for what in ("kl", "refined"):
        ratios = [c[what]["kl"] / c["trace"]["kl"] for c in cells]
        said = FOUND[rounding]["networks"][name][what]
        assert said["geometric_mean"] == pytest.approx(geometric_mean(ratios))
        assert (said["worst"], said["n"]) == (pytest.approx(max(ratios)), len(ratios))
        assert said["n_above_1_05"] == sum(r > 1.05 for r in ratios)


@pytest.mark.parametrize(("rounding", "name", "seed"), RUNS)
def test_validation_page_shows_every_cell(rounding, name, seed):
    cells = [c for c in FOUND[rounding]["cells"] if (c["network"], c["seed"]) == (name, seed)]
    cells.sort(key=lambda c: c["average_bits"])
    assert [c["average_bits"] for c in cells] == [2.5, 3.0, 3.5, 4.0, 5.0]
    shown = [
        f"{c['refined']['ratio']:.2f} ({100 * c['trace']['accuracy']:.1f} → {100 * c['refined']['accuracy']:.1f} %)"
        for c in cells
    ]
    mean = geometric_mean([c["refined"]["ratio"] for c in cells])
    row = " | ".join([f"`{name}`", str(seed), *shown, f"{mean:.3f}"])
    assert f"| {row} |" in PAGE


@pytest.mark.parametrize("rounding", FOUND)
def test_validation_page_shows_the_summary(rounding):
    said = FOUND[rounding]["overall"]["refined"]
    (line,) = (line for line in PAGE.splitlines() if f"--rounding {rounding} --networks" in line and line[0] == "|")
    assert f"geometric mean {said['geometric_mean']:.3f}, worst {said['worst']:.2f}, {said['n']} cells" in line
    assert ("**missed**" in line) == (said["geometric_mean"] > 0.8 or said["n_above_1_05"] > 0 or said["n"] < 45)


@pytest.mark.parametrize("script", [SCRIPT], indirect=True)
def test_losses_of_rounded_weights_scale_with_their_squared_errors(script, tmp_path):
    infos = {"x": TensorInfo((2,)), "fc": TensorInfo((2,))}
    weight = np.array([[1.0, 0.3], [0.2, -1.0]])
    node = Node("fc", "linear", ("x", "fc.weight"), "fc")
    graph = Graph("float", ("x",), ("fc",), (node,), infos, {"fc.weight": weight})
    problem = script.measured(graph, np.eye(2, dtype=np.float32))
    table = {("fc.weight", bits): float(bits) for bits in script.BITS}
    # The candidates' error is twice the nearest one's in every element, so its square is four times as large.
    twice = {
        (name, bits): weight + 2.0 * (script.quantized_weight(problem, name, bits) - weight) for name, bits in table
    }
    found = script.with_rounded_errors(problem, table, twice)
    assert found == pytest.approx({key: 4.0 * value for key, value in table.items()})
    kept = script.rounded(graph, np.eye(2, dtype=np.float32), tmp_path / "kept.safetensors")
    again = script.rounded(graph, None, tmp_path / "kept.safetensors")
    assert set(kept) == set(table) == set(again)
    assert all(np.array_equal(kept[key], again[key]) for key in kept)
