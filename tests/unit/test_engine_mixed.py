"""The results of benchmarks/engine_mixed.py: plans keep their budgets, and the page's claims follow from them."""

import json
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "validation.md"
SCRIPT = "engine_mixed"
PYTHON_US = 15  # around a run, which the table of times does not have


def test_plans_keep_their_budgets_and_were_measured_near_what_was_predicted(script):
    for row in json.loads(script.RESULTS.read_text())["networks"].values():
        whole = row["plans"]["w8a8"]["predicted_us"]
        for label, plan in row["plans"].items():
            off_us = abs(plan["least_us"] - plan["predicted_us"])
            assert off_us < 0.04 * plan["predicted_us"] + PYTHON_US, label
            if plan["budget_us"] is not None:
                assert plan["predicted_us"] <= plan["budget_us"] < whole
                assert 0 < plan["n_weights_of_4_bits"] < row["n_weights"]


def test_resnet18_under_a_budget_of_time_takes_less_than_the_must_of_openvino(script):
    row = json.loads(script.RESULTS.read_text())["networks"]["resnet18"]
    plans = row["plans"]
    assert plans["mixed_80"]["time_vs_openvino"] <= 0.8
    assert plans["w8a8"]["kl"] < plans["mixed_80"]["kl"] < plans["w4a6"]["kl"]
    said = " · ".join(f"{plans[label]['time_vs_openvino']:.2f}" for label in ("mixed_90", "mixed_80"))
    (line,) = (line for line in PAGE.read_text().splitlines() if line.startswith("| ResNet-18, widths chosen by"))
    assert f"| {said} of OpenVINO int8" in line
