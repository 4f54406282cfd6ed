"""The results of benchmarks/engine_winograd.py: the page shows them, and its claims follow from them."""

import json

SCRIPT = "engine_winograd"
LEAST_PEAK_FRAC, MISSED = 1.4, {"layer4": 1.3}  # the page says so
OF_RULE = ("layer1", "layer2", "layer3")  # whose planes are large enough along one axis


def rows_of(script, isa):
    by_algorithm = json.loads(script.RESULTS.read_text())["rows"][isa]
    assert {name: rows.keys() for name, rows in by_algorithm.items()} == {
        name: shapes.keys() for name, (_, shapes) in script.CASES.items()
    }
    return by_algorithm


def test_claims_follow_from_the_stored_shares_and_speedups(script):
    by_algorithm = rows_of(script, "avx512vnni")
    for layer, row in by_algorithm["winograd"].items():
        share = row["peak_frac"]["winograd"]
        assert (share < LEAST_PEAK_FRAC) == (layer in MISSED), layer
        assert share >= MISSED.get(layer, LEAST_PEAK_FRAC), layer
        assert row["speedup"] > 1


def test_both_pay_on_every_instruction_set_where_the_rule_takes_them(script):
    for isa in ("avx512vnni", "avx512vnni256", "avx2"):
        found = rows_of(script, isa)
        assert all(row["speedup"] > 1 for rows in found.values() for layer, row in rows.items() if layer in OF_RULE), (
            isa
        )
    lines = rows_of(script, "avx512vnni")["winograd1d"]
    assert all(lines[layer]["speedup"] > 1 for layer in script.LINES)
    assert lines["layer4"]["speedup"] < 1  # which the rule leaves to direct kernels
