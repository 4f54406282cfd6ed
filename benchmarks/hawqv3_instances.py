"""The 18 integer programs that HAWQ-V3 published, solved to the proven optimum by our own solver.

Layers, costs and perturbations are those of the notebook (hawqv3_ilp.json of the data pack; MIT licence). Per layer
W4A4 or W8A8, layers that read the same tensor tied, one budget at a time: ``cost_4 + alpha (cost_8 - cost_4)`` on
model size, bit operations or measured latency. Costs become integers exactly: every number is a finite decimal.

    DYADIQ_DATA=... python benchmarks/hawqv3_instances.py [--write]

With --write the result goes to results/hawqv3_instances.json; the table goes to stdout either way. No randomness.
"""

import argparse
import json
import math
import time
from fractions import Fraction
from pathlib import Path

from environment import environment

from dyadiq.allocation import Constraint, Problem, solve_brute_force, solve_knapsack, solve_milp
from dyadiq.core.data_folder import data_folder
from dyadiq.core.storage import atomic_write_text

RESULTS = Path(__file__).parent / "results" / "hawqv3_instances.json"
BITS = (4, 8)


def load_instances():
    return json.loads((data_folder() / "hawqv3_ilp.json").read_text(encoding="utf-8"))


def layer_costs(network, metric):
    """Cost of every layer at 4 and 8 bits, in the notebook's unit, exactly."""
    exact = [Fraction(str(v)) for v in network["parameters" if metric == "modelsize" else "bops"]]
    if metric == "modelsize":
        return [(n / 2, n) for n in exact]
    if metric == "bops":
        return [(n / 64, n / 16) for n in exact]
    columns = (network["latency_int4"], network["latency_int8"])
    return [(Fraction(str(a)), Fraction(str(b))) for a, b in zip(*columns, strict=True)]


def build_instance(data, name):
    """Return the problem over tied groups, the groups, and the denominator of its integer costs."""
    model, metric, share = name.split("_")
    network = data[model]
    costs = layer_costs(network, metric)
    narrow, wide = (sum(c[i] for c in costs) for i in (0, 1))
    unit = math.lcm(*(v.denominator for pair in costs for v in pair))
    limit = math.floor((narrow + Fraction(share) * (wide - narrow)) * unit)
    trace, at4, at8 = (
        network[k] for k in ("Hutchinson_trace", "delta_weights_4bit_square", "delta_weights_8bit_square")
    )
    tied = {layer: pair[0] for pair in data["links"][model] for layer in pair}
    groups = {}
    for layer in range(len(costs)):
        groups.setdefault(tied.get(layer, layer), []).append(layer)
    members = tuple(map(tuple, groups.values()))
    loss = tuple((math.fsum(trace[i] * at4[i] for i in g), math.fsum(trace[i] * at8[i] for i in g)) for g in members)
    unary = tuple(tuple(int(sum(costs[i][o] for i in g) * unit) for o in (0, 1)) for g in members)
    names = tuple("+".join(map(str, g)) for g in members)
    return Problem(names, (BITS,) * len(members), loss, (Constraint(metric, unary, limit),)), members, unit


def published_choice(data, name, members):
    bits = data["published_bits_excl_first"][name]
    assert all(bits[i] == bits[g[0]] for g in members for i in g)
    return tuple(BITS.index(bits[g[0]]) for g in members)


def solve_instance(data, name, *, check=True):
    """Return one row: our optimum, HiGHS's, brute force's where it is in reach, and the published answer."""
    problem, members, unit = build_instance(data, name)
    (constraint,) = problem.constraints
    started = time.perf_counter()
    found = solve_knapsack(problem)
    seconds = time.perf_counter() - started
    published = published_choice(data, name, members)
    row = {
        "instance": name,
        "limit": constraint.limit / unit,
        "cost": constraint.total(found.choice) / unit,
        "omega": found.objective,
        "gap": found.objective - found.lower_bound,
        "method": found.method,
        "published_cost": constraint.total(published) / unit,
        "published_omega": problem.objective(published),
        "published_feasible": problem.is_feasible(published),
        "published_optimal": problem.objective(published) == found.objective,
        "layers_that_differ": sum(len(g) for g, a, b in zip(members, found.choice, published, strict=True) if a != b),
        "milliseconds": 1e3 * seconds,
    }
    if check:
        row["highs_agrees"] = solve_milp(problem).choice == found.choice
        if problem.n_candidates <= 2**16:
            row["brute_force_agrees"] = solve_brute_force(problem).choice == found.choice
    return row


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    data = load_instances()
    rows = [solve_instance(data, name) for name in data["published_bits_excl_first"]]
    for row in rows:
        verdict = "published answer optimal" if row["published_optimal"] else "PUBLISHED ANSWER SUBOPTIMAL"
        print(
            f"{row['instance']:26} limit {row['limit']:8.3f}  optimum {row['cost']:8.3f} / {row['omega']:.5f}  "
            f"gap {row['gap']:.1g}  published {row['published_cost']:8.3f} / {row['published_omega']:.5f}  {verdict}"
        )
    print(f"{sum(r['published_optimal'] for r in rows)} of {len(rows)} published answers are optimal")
    if arguments.write:
        atomic_write_text(RESULTS, json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
