"""The results of benchmarks/engine_codebook.py: the page shows them, and what it says follows from them."""

import json

SCRIPT = "engine_codebook"
LEAST_BY_RULE, LINEAR = 0.88, 0.7


def test_places_in_a_table_halve_files_at_little_time_where_the_rule_takes_them(script):
    rows = json.loads(script.RESULTS.read_text())["rows"]
    assert rows.keys() == script.SHAPES.keys()
    for layer, (_, size, _) in script.SHAPES.items():
        row = rows[layer]
        by_rule = size * size >= 49
        assert row["speedup"] >= LEAST_BY_RULE if by_rule else row["speedup"] < LINEAR, layer
        assert row["file_bytes"]["codebook"] < 0.65 * row["file_bytes"]["direct"], layer
