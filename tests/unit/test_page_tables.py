"""docs/validation.md shows the tables that benchmark scripts print from their stored results."""

import json
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "validation.md"


TABLES = [
    "engine_baselines",
    "engine_binary",
    "engine_runtime",
    "engine_sparse",
    "engine_vs_peers",
    "engine_winograd",
    "latency_cost",
    "ptq_methods",
    "ptq_vs_peers",
    "qdq_import",
]


@pytest.mark.parametrize("script", TABLES, indirect=True)
def test_validation_page_shows_the_table_of_the_stored_results(script):
    assert script.table(json.loads(script.RESULTS.read_text())) in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("script", ["jets_vs_hgq"], indirect=True)
def test_validation_page_shows_both_fronts(script):
    ours, theirs = (json.loads((script.RESULTS / f"{name}.json").read_text()) for name in ("jets_front", "jets_hgq"))
    assert script.both_table(ours, theirs) in PAGE.read_text(encoding="utf-8")
