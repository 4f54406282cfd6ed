"""Jets: bits chosen under a BOPs budget against bits chosen under a LUT budget, at equal accuracy; prints Markdown.

Run: DYADIQ_DATA=... python benchmarks/jets_budgets.py [--work FOLDER]

The same float networks, sensitivities (gram) and candidates (weights of 2 to 8 bits, activations of 4 to 8) for both;
only the budget of `allocate` differs. Every plan is calibrated, fine-tuned shortly and lowered alike; accuracy is that
of the integer program on the whole test split, LUTs are those of its traced circuit (`fpga.estimate`). At an accuracy
both fronts reach, LUTs are read off by linear interpolation between neighbouring budgets, seed by seed.
Every number goes to results/jets_budgets.json. Exit code 1 if an executor differs.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from environment import environment
from jets_front import CONFIG
from jets_runs import FLOAT, LONG, Runs, calibration, mismatches
from recipe_runs import mean_and_spread, write_results

from dyadiq.allocation import allocate
from dyadiq.cost import network_facts
from dyadiq.curvature import analyze
from dyadiq.fpga.costs import hardware_cost_tables
from dyadiq.ir.passes import canonicalize

BUDGETS = {"bops": (105_000, 135_000, 175_000, 235_000), "lut": (9_000, 13_000, 18_000, 25_000)}
WEIGHT_BITS, ACTIVATION_BITS = (2, 3, 4, 5, 6, 7, 8), (4, 5, 6, 7, 8)
DROPS = (0.005, 0.01, 0.015, 0.02)  # below float, at which LUTs are compared
N_ANALYZE, DEPTH = 2048, 4


def solved(runs, seed):
    """Return a row for every budget."""
    own, graph = runs.float_network(False, 0.0, seed)
    canonical = canonicalize(graph)
    tables = hardware_cost_tables(
        canonical, network_facts(canonical, CONFIG), WEIGHT_BITS, ACTIVATION_BITS, ["lut"], cache=runs.work / "lut.json"
    )
    batches = calibration(runs.data(seed), N_ANALYZE)
    found = analyze(graph, batches, "gram", bits=WEIGHT_BITS, activation_bits=ACTIVATION_BITS, config=CONFIG, seed=seed)
    rows = []
    for metric, budgets in BUDGETS.items():
        for budget in budgets:
            plan = allocate(
                found,
                {metric: budget},
                bits=WEIGHT_BITS,
                activation_bits=ACTIVATION_BITS,
                costs=tables if metric == "lut" else {},
                front_points=0,
            )
            row = runs.integer_network(False, 0.0, seed, CONFIG, lambda _, plan=plan: plan, LONG, depth=DEPTH)
            row = {"label": f"{metric} {budget}", "metric": metric, "budget": budget, **row}
            rows.append({**row, "drop": own["accuracy"] - row["accuracy"]})
    return rows


def luts_at(rows, drop):
    """Return the LUTs at which a front loses so much, or None where it does not reach there."""
    points = sorted((row["drop"], row["lut"]) for row in rows)
    drops, luts = zip(*points, strict=True)
    return float(np.interp(drop, drops, luts)) if drops[0] <= drop <= drops[-1] else None


def compared(rows):
    """Return, for each drop, the LUTs of both and their ratio, over the seeds whose fronts both reach it."""
    found = []
    for drop in DROPS:
        pairs = []
        for seed in sorted({row["seed"] for row in rows}):
            both = [
                luts_at([r for r in rows if r["seed"] == seed and r["metric"] == metric], drop) for metric in BUDGETS
            ]
            if None not in both:
                pairs.append(both)
        if pairs:
            entry = {"drop": drop, "n_seeds": len(pairs), "ratio": mean_and_spread(lut / bops for bops, lut in pairs)}
            found.append(entry | {m: mean_and_spread(pair[i] for pair in pairs) for i, m in enumerate(BUDGETS)})
    return found


def table(document):
    """Return the Markdown table of both fronts."""
    lines = ["| points below float | LUT, BOPs budget | LUT, LUT budget | ratio | seeds |", "|---|---|---|---|---|"]
    for e in document["compared"]:
        cells = " | ".join(f"{e[key]['mean']:,.0f} ± {e[key]['std']:,.0f}" for key in BUDGETS)
        ratio = f"{e['ratio']['mean']:.2f} ± {e['ratio']['std']:.2f}"
        lines.append(f"| {100 * e['drop']:.1f} | {cells} | {ratio} | {e['n_seeds']} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/jets_tables"), help="folder of finished rows")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "jets_budgets.json")
    parser.add_argument("--quick", action="store_true", help="few jets, to see that everything runs")
    args = parser.parse_args()
    start, runs = environment(), Runs(args.work, quick=args.quick)
    rows = [row for seed in args.seeds for row in solved(runs, seed)]
    document = {"schema": "dyadiq.benchmark.jets-budgets/1", "environment": start, "float": FLOAT.to_json()}
    document |= {"compared": compared(rows), "rows": rows}
    write_results(args.out, document)
    print(table(document))
    if problems := mismatches(rows):
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
