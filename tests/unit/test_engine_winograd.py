"""The results of benchmarks/engine_winograd.py: the page shows them, and its claims follow from them."""

import json

SCRIPT = "engine_winograd"
LEAST_PEAK_FRAC, MISSED = 1.4, {"layer4": 1.3}  # the page says so


def test_claims_follow_from_the_stored_shares_and_speedups(script):
    rows = json.loads(script.RESULTS.read_text())["rows"]
    assert rows.keys() == script.LAYERS.keys()
    for layer, row in rows.items():
        share = row["peak_frac"]["winograd"]
        assert (share < LEAST_PEAK_FRAC) == (layer in MISSED), layer
        assert share >= MISSED.get(layer, LEAST_PEAK_FRAC), layer
        assert row["speedup"] > 1
