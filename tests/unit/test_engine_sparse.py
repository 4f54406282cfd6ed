"""The results of benchmarks/engine_sparse.py: the page shows them, and its claims follow from them."""

import json

SCRIPT = "engine_sparse"
LEAST = {0.25: 2.5, 0.1: 5.0}


def test_claims_follow_from_the_stored_speedups(script):
    document = json.loads(script.RESULTS.read_text())
    assert list(document["rows"]) == list(script.BLOCKS)
    for blocks, found in document["rows"].items():
        for layer in script.LAYERS:
            for density, least in LEAST.items():
                assert found[f"{layer} {density}"]["speedup"] >= least, (blocks, layer, density)
