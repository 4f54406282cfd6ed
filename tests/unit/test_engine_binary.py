"""The results of benchmarks/engine_binary.py: the page shows them, and the rule follows from them."""

import json

import numpy as np
import pytest

from dyadiq.engine.weights import Dot, choose_weights, find_weights

SCRIPT = "engine_binary"


def test_bits_are_faster_wherever_the_rule_takes_them(script):
    document = json.loads(script.RESULTS.read_text())
    assert document["rows"].keys() == script.SHAPES.keys()
    chosen = 0
    for layer, (channels, size, n_out, kernel) in script.SHAPES.items():
        weight = np.resize(np.array([-1, 1, 1]), (n_out, channels, kernel, kernel))
        dot = Dot(weight, np.zeros(n_out, dtype=np.int64), codes=(0, 1), plane=(size, size), only_ends=True)
        if choose_weights(dot, find_weights(dot)).algorithm == "binary":
            chosen += 1
            assert all(row["speedup"] > 1.1 for row in document["rows"][layer].values()), layer
    assert chosen == len(script.SHAPES) - 3


@pytest.mark.parametrize("layer", ["16 channels", "1x1, 64 channels"])
def test_the_page_says_where_bits_are_slower(layer, script):
    rows = json.loads(script.RESULTS.read_text())["rows"][layer]
    assert rows["avx512vnni256"]["speedup"] < 1
