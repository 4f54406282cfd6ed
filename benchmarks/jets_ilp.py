"""Jets: bits chosen by curvature under BOPs limits, on the cloud of sampled bit settings; prints Markdown.

Run: DYADIQ_DATA=... python benchmarks/jets_ilp.py [--work FOLDER]

The space of the paper: weights of 4 to 8 bits by layer, hidden activations of w + 3 (here chosen apart, 7 to 11),
16-bit inputs. For each limit, method and seed, `allocate` solves for the least predicted loss and certifies it. The
cloud is sampled from the 5^4 = 625 settings with a = w + 3, at seed 0. Every network starts from the float baseline of
its seed (that of jets_homogeneous.py), and is calibrated and fine-tuned alike and shortly; limits bound BOPs that
count zero weights. Accuracy is that of the integer program on the whole test split. Beside each limit stands the
sampled setting within it that is best on the validation split: what search by training would have chosen.
Every number goes to results/jets_ilp.json, the plot to docs/figures/jets_ilp.svg.
Exit code 1 if an executor differs, a plan breaks its limit, or an optimum is not certified.
"""

import argparse
import itertools
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from environment import environment
from jets_runs import FLOAT, SHORT, Runs, calibration, mismatches, quant_config, save_svg
from matplotlib.figure import Figure
from recipe_runs import mean_and_spread, percent, write_results

from dyadiq.allocation import allocate
from dyadiq.core.plan import BitPlan, uniform_plan
from dyadiq.curvature import analyze

LIMITS = tuple(range(250_000, 550_001, 50_000))
METHODS = ("trace", "gram")
WEIGHT_BITS, EXTRA_BITS, INPUT_BITS = (4, 5, 6, 7, 8), 3, 16
ACTIVATION_BITS = tuple(bits + EXTRA_BITS for bits in WEIGHT_BITS)
N_SETTINGS, N_ANALYZE = 80, 2048


def tied_plan(facts, widths):
    """Return the plan with a width per layer for its weight, and three bits more for the activation it ends in."""
    bits = {layer.weight: width for layer, width in zip(facts.layers, widths, strict=True)}
    bits |= {layer.output: width + EXTRA_BITS for layer, width in zip(facts.layers[:-1], widths[:-1], strict=True)}
    formats = uniform_plan(facts, 8, 8).formats
    return BitPlan({name: fmt.with_bits(bits.get(name, fmt.bits)) for name, fmt in formats.items()})


def sampled_settings(n_settings):
    """Return settings of the 625, the five uniform ones first, the rest drawn without repetition."""
    uniform = [(width,) * 4 for width in WEIGHT_BITS]
    rest = [setting for setting in itertools.product(WEIGHT_BITS, repeat=4) if setting not in uniform]
    order = np.random.default_rng(0).permutation(len(rest))
    return [*uniform, *(rest[i] for i in order)][:n_settings]


def solved(runs, seed, method, limits):
    """Return one row a limit: the certified plan, and the program it became."""
    _, graph = runs.float_network(False, 0.0, seed)
    config = quant_config(INPUT_BITS)
    batches = calibration(runs.data(seed), N_ANALYZE)
    sensitivities = analyze(
        graph, batches, method, bits=WEIGHT_BITS, activation_bits=ACTIVATION_BITS, config=config, seed=seed
    )
    rows = []
    for limit in limits:
        plan = allocate(
            sensitivities, {"bops": limit}, bits=WEIGHT_BITS, activation_bits=ACTIVATION_BITS, front_points=0
        )
        row = {"label": f"{limit // 1000}k", "limit": limit, "method": method, "gap": plan.certificate.gap}
        row |= {"n_plans": plan.certificate.n_candidates, "predicted": plan.certificate.objective}
        row |= runs.integer_network(False, 0.0, seed, config, lambda _, plan=plan: plan, SHORT)
        rows.append(row)
    return rows


def cloud(runs, n_settings):
    """Return one row a sampled setting, at seed 0."""
    config, rows = quant_config(INPUT_BITS), []
    for widths in sampled_settings(n_settings):
        row = runs.integer_network(False, 0.0, 0, config, lambda facts, widths=widths: tied_plan(facts, widths), SHORT)
        rows.append({"label": "cloud", "setting": list(widths), **row})
    return rows


def groups(rows, cloud_rows, float_accuracy):
    """Return one entry a limit and method: means and spreads over seeds, and the sampled setting of choice."""
    found = []
    for limit, method in dict.fromkeys((row["limit"], row["method"]) for row in rows):
        own = [row for row in rows if (row["limit"], row["method"]) == (limit, method)]
        entry = {"limit": limit, "method": method, "n_seeds": len(own)}
        entry |= {key: mean_and_spread(row[key] for row in own) for key in ("accuracy", "bops", "bops_dense")}
        entry["drop"] = mean_and_spread(float_accuracy[row["seed"]] - row["accuracy"] for row in own)
        entry["max_gap"] = max(row["gap"] for row in own)
        first = min(own, key=lambda row: row["seed"])
        entry |= {key: first[key] for key in ("weight_bits", "activation_bits")}
        within = [row for row in cloud_rows if row["bops_dense"] <= limit]
        best = max(within, key=lambda row: row["validation"], default=None)
        found.append({**entry, "n_sampled": len(within), "sampled": best and best["accuracy"]})
        found[-1]["seed0"] = first["accuracy"]
    return found


def table(document):
    """Return the Markdown table of the sweep."""
    lines = [
        "| BOPs limit | sensitivity | accuracy % | points below float | BOPs used | weights; inputs (seed 0) "
        "| seed 0 % | best sampled %, seed 0 | sampled |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for e in document["groups"]:
        bits = f"{'-'.join(map(str, e['weight_bits']))}; {'-'.join(map(str, e['activation_bits']))}"
        sampled = "" if e["sampled"] is None else f"{100 * e['sampled']:.2f}"
        lines.append(
            f"| {e['limit']:,} | {e['method']} | {percent(e['accuracy'])} | {percent(e['drop'])} "
            f"| {e['bops_dense']['mean']:,.0f} | {bits} | {100 * e['seed0']:.2f} | {sampled} | {e['n_sampled']} |"
        )
    return "\n".join(lines)


def draw(document):
    """Return the figure: the cloud coloured by the first layer's bits, and the solved plans of all seeds on top."""
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        colours = mpl.colormaps["viridis"].resampled(len(WEIGHT_BITS))
        points = document["cloud"]
        for i, bits in enumerate(WEIGHT_BITS):
            own = [row for row in points if row["weight_bits"][0] == bits]
            x, y = [row["bops_dense"] for row in own], [100 * row["accuracy"] for row in own]
            axes.plot(x, y, "o", color=colours(i), markersize=4, label=f"first layer {bits} bits")
        for marker, colour, method in zip("*P", ("tab:red", "black"), METHODS, strict=True):
            own = [e for e in document["groups"] if e["method"] == method]
            x, y, spread = (
                [e["bops_dense"]["mean"] for e in own],
                [100 * e["accuracy"]["mean"] for e in own],
                [100 * e["accuracy"]["std"] for e in own],
            )
            label = f"optimum of {method}, {own[0]['n_seeds'] if own else 0} seeds"
            axes.errorbar(x, y, yerr=spread, fmt=f"{marker}-", color=colour, markersize=7, linewidth=1, label=label)
        axes.set(xlabel="bit operations (zero weights counted)", ylabel="accuracy on the test split, %")
        axes.legend(frameon=False, loc="lower right")
    return figure


def problems_of(rows, entries):
    """Return what must not be: a broken limit, or an optimum without its certificate."""
    over = [row for row in rows if row["bops_dense"] > row["limit"]]
    found = [f"{row['label']} {row['method']}, seed {row['seed']}: {row['bops_dense']} BOPs" for row in over]
    return found + [f"{e['limit']} {e['method']}: gap {e['max_gap']}" for e in entries if e["max_gap"] > 0]


def main():
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--limits", type=int, nargs="+", default=list(LIMITS))
    parser.add_argument("--settings", type=int, default=N_SETTINGS, help="of the cloud")
    parser.add_argument("--work", type=Path, default=Path("runs/jets_published"), help="folder of what is kept")
    parser.add_argument("--out", type=Path, default=here / "results" / "jets_ilp.json")
    parser.add_argument("--figure", type=Path, default=here.parent / "docs" / "figures" / "jets_ilp.svg")
    parser.add_argument("--quick", action="store_true", help="one epoch on a few jets, to see that everything runs")
    args = parser.parse_args()
    start, runs = environment(), Runs(args.work, quick=args.quick)
    rows = [row for seed in args.seeds for method in METHODS for row in solved(runs, seed, method, args.limits)]
    points = cloud(runs, args.settings)
    floats = {seed: runs.float_network(False, 0.0, seed)[0]["accuracy"] for seed in args.seeds}
    entries = groups(rows, points, floats)
    entries.sort(key=lambda entry: entry["limit"])
    problems = problems_of(rows, entries) + mismatches([*rows, *points])
    document = {"schema": "dyadiq.benchmark.jets-ilp/1", "environment": start, "quick": args.quick}
    document |= {"train": FLOAT.to_json(), "finetune": SHORT.to_json(), "n_analyze": N_ANALYZE}
    document |= {"quantization": quant_config(INPUT_BITS).to_json(), "float": floats, "problems": problems}
    document |= {"groups": entries, "rows": rows, "cloud": points}
    write_results(args.out, document)
    save_svg(draw(document), args.figure)
    print(table(document))
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
