"""The results of benchmarks/engine_runtime.py keep what the engine must reach."""

import json

SCRIPT = "engine_runtime"


def test_stored_results_are_within_the_musts(script):
    found = json.loads(script.RESULTS.read_text())
    assert found.keys() == script.PARTS.keys()
    assert found["threads"]["speed_up"] >= 1.8
    assert found["first_runs"]["memory_most_bytes"] <= 2e6
    assert found["first_runs"]["load_to_result_ms"] <= 10
    assert found["size"]["library_bytes"] <= 1e6
    assert found["size"]["small_library_bytes"] < found["size"]["library_bytes"]
    assert found["size"]["portable_program_bytes"] < found["size"]["small_program_bytes"] <= 400e3
    soaked = found["soak"]
    assert soaked["n_runs"] == 10_000
    assert [(row["threads"], row["differing"], row["growth_bytes"]) for row in soaked["rows"]] == [(1, 0, 0), (2, 0, 0)]
