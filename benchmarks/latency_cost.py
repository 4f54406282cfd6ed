"""How well times of layers add up: the latency cost of `allocate` against whole networks on the engine.

    python benchmarks/latency_cost.py [--networks NAME ...] [--rounds N] [--json PATH] [--table]

Every network is timed N times from nothing, weights of 2, 4 and 8 bits by activations of 4 and 8, with real weights
where the data pack has them; with algorithms by the rule, and with the fastest of this machine. A round gives the
factor between summed steps and whole runs, fitted on the six uniform networks, and the error of the table's totals on
six networks of random widths, which had no part in the fit. One thread, one sample.

Writes benchmarks/results/latency_cost.json, one entry a network and choice of algorithms; a run adds to what is there.
"""

import argparse
import itertools
import json
import time
from pathlib import Path

import torch
from engine_vs_peers import NETWORKS, build
from environment import environment

import dyadiq as dq
from dyadiq.core.plan import uniform_plan
from dyadiq.cost.facts import network_facts
from dyadiq.engine.costs import ENGINE_COSTS
from dyadiq.ir.passes import canonicalize

RESULTS = Path(__file__).parents[1] / "benchmarks/results/latency_cost.json"
NAMES = ("cifar_resnet20", "resnet18")
BITS, ACTIVATION_BITS = (2, 4, 8), (4, 8)


def measure(name, algorithms, rounds):
    model, trained = build(name)
    graph = canonicalize(dq.capture(model, torch.zeros(1, *NETWORKS[name])))
    facts, found = network_facts(graph), []
    for _ in range(rounds):
        start = time.perf_counter()
        table = ENGINE_COSTS["latency_us"](graph, facts, BITS, ACTIVATION_BITS, algorithms=algorithms)
        seconds = time.perf_counter() - start
        totals = {
            f"W{w}A{a}": table.total(uniform_plan(facts, w, a).bits) / 1000 for w in BITS for a in ACTIVATION_BITS
        }
        found.append({**table.measurement, "seconds": round(seconds, 1), "uniform_us": totals})
    return {
        "weights": "trained" if trained else "random",
        "error_rms_frac": max(row["error_rms_frac"] for row in found),
        "error_worst_frac": max(row["error_worst_frac"] for row in found),
        "rounds": found,
        "environment": environment(),
    }


def table(results):
    lines = [
        "| network, algorithms | W8A8 | W4A4 | factor | worst rms error | worst error | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, entry in results.items():
        rounds = entry["rounds"]
        factors, seconds = ([row[key] for row in rounds] for key in ("factor", "seconds"))
        eight, four = (min(row["uniform_us"][which] for row in rounds) for which in ("W8A8", "W4A4"))
        lines.append(
            f"| {name} | {eight:,.0f} µs | {four:,.0f} µs | {min(factors):.3f} to {max(factors):.3f} | "
            f"{100 * entry['error_rms_frac']:.1f} % | {100 * entry['error_worst_frac']:.1f} % | {max(seconds):.0f} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NAMES, choices=tuple(NETWORKS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table of the results, measure nothing")
    arguments = parser.parse_args()
    results = json.loads(arguments.json.read_text()) if arguments.json.is_file() else {}
    if not arguments.table:
        for name, algorithms in itertools.product(arguments.networks, ("rule", "measured")):
            results[f"{name}, {algorithms}"] = measure(name, algorithms, arguments.rounds)
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
