"""The results of benchmarks/engine_baselines.py: the page shows them, and its claims follow from them."""

import json

SCRIPT = "engine_baselines"
LEAST = 0.98  # two times of the same kernels may differ so much by noise


def test_claims_follow_from_the_stored_ratios_and_bytes(script):
    rows = json.loads(script.RESULTS.read_text())["rows"]
    assert rows.keys() == script.LAYERS.keys()
    for layer, (channels, size, _, kernel, stride) in script.LAYERS.items():
        side = (size - kernel) // stride + 1
        pixels = {"im2col": side * side, "mec": ((side - 1) * stride + kernel) * side}
        width = {"im2col": kernel * kernel * channels, "mec": kernel * channels}
        for name, row in rows[layer].items():
            assert row["copy_bytes"] == pixels[name] * -(-width[name] // 4) * 4, (layer, name)
            assert row["speedup"] >= LEAST, (layer, name)
        assert rows[layer]["mec"]["copy_bytes"] < rows[layer]["im2col"]["copy_bytes"]
