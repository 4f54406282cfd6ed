"""docs/validation.md shows the tables that benchmark scripts print from their stored results."""

import json
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "validation.md"


TABLES = [
    "distill_images",
    "engine_baselines",
    "engine_binary",
    "engine_codebook",
    "engine_mixed",
    "engine_runtime",
    "engine_sparse",
    "engine_vs_peers",
    "engine_winograd",
    "four_bits",
    "latency_cost",
    "ptq_methods",
    "ptq_vs_peers",
    "qdq_import",
    "what_costs",
]


@pytest.mark.parametrize("script", TABLES, indirect=True)
def test_validation_page_shows_the_table_of_the_stored_results(script):
    assert script.table(json.loads(script.RESULTS.read_text())) in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("script", ["jets_vs_hgq"], indirect=True)
def test_validation_page_shows_both_fronts(script):
    ours, theirs = (json.loads((script.RESULTS / f"{name}.json").read_text()) for name in ("jets_front", "jets_hgq"))
    assert script.both_table(ours, theirs) in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("script", ["zero_shot"], indirect=True)
def test_validation_page_shows_calibration_without_data(script):
    found = json.loads((script.Path(script.__file__).parent / "results" / "zero_shot.json").read_text())
    page, reached = PAGE.read_text(encoding="utf-8"), found["reached"]
    both = [reached[name] for name in ("cifar_resnet20", "cifar_resnet56")]
    cpu, other_cpu = (f"{each['cpu_s']['mean']:.1f}" for each in both)
    below = " and ".join(f"{100 * each['w8a8_drop']['mean']:.2f}" for each in both)
    ratios = " and ".join(f"{each['ratio_geometric_mean']:.2f}" for each in both)
    worst = " and ".join(f"{each['ratio_at_the_worst_width']:.2f}" for each in both)
    assert script.tables(found["rows"]) in page
    assert f"on ResNet-20 (the mean is {cpu}; on ResNet-56, which has no goal, {other_cpu};" in page
    assert f"below float ({below})" in page
    assert f"KL of training images ({ratios}; at the worst width {worst})" in page
