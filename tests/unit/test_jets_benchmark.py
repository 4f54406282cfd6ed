"""The comparison behind benchmarks/jets_simulation.py sees what differs; its stored result says that jets agree."""

import json
from pathlib import Path

import numpy as np

from dyadiq.zoo.jets_features import CLASSES, FEATURES

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = "jets_simulation"


def test_alike_samples_agree_and_shifted_or_wider_ones_do_not(script):
    rng = np.random.default_rng(0)
    known = rng.normal(5.0, 1.0, 20_000)
    limit = script.SIGNIFICANCE / 80
    alike = script.compare(rng.normal(5.0, 1.0, 2_000), known)
    assert alike["p"] > limit
    assert abs(alike["mean_difference_sigma"]) < 4
    assert script.compare(rng.normal(5.2, 1.0, 2_000), known)["mean_difference_sigma"] > 6
    assert script.compare(rng.normal(5.2, 1.0, 2_000), known)["p"] < limit
    assert script.compare(rng.normal(5.0, 1.2, 2_000), known)["variance_difference_sigma"] > 6


def test_stored_result_compares_every_feature_of_every_class_and_agrees(script):
    document = json.loads((BENCHMARKS / "results" / "jets_simulation.json").read_text())
    assert [(row["class"], row["feature"]) for row in document["rows"]] == [(c, f) for c in CLASSES for f in FEATURES]
    assert document["agree"]
    assert min(row["p"] for row in document["rows"]) == document["worst"]["p"] >= document["p_limit"]
    assert document["p_limit"] == script.SIGNIFICANCE / len(document["rows"])
