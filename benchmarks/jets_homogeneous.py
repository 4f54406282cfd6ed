"""Jets: homogeneous INT12/8/6/4 and float, baseline / L1 / BN / L1+BN, over seeds; prints Markdown.

Run: DYADIQ_DATA=... python benchmarks/jets_homogeneous.py [--work FOLDER]

One float network a variant and seed; from it, at each width, an integer network: calibrated, fine-tuned, lowered, and
measured as an integer program on the whole test split, where other executors are compared with the reference.
Weights and hidden activations have the width; the input has it too, but at least 8 bits; outputs have 16; biases
have what their values need. The L1 factor, one with batch norm and one without, is the largest of `CANDIDATES` that
costs at most `ALLOWED` on the validation split of seed 0 at 8 bits. Every number goes to results/jets_homogeneous.json.
Exit code 1 if an executor differs, or INT8 of the baseline or with batch norm is more than 0.3 points below float.
"""

import argparse
import sys
from pathlib import Path

import matplotlib as mpl
from environment import environment
from jets_runs import FLOAT, LONG, Runs, mismatches, quant_config, save_svg, span
from matplotlib.figure import Figure
from recipe_runs import mean_and_spread, percent, write_results

from dyadiq.core.plan import uniform_plan

VARIANTS = {"baseline": (False, False), "L1": (False, True), "BN": (True, False), "L1+BN": (True, True)}
WIDTHS = (12, 8, 6, 4)
CANDIDATES, ALLOWED = (1e-5, 3e-5, 1e-4), 0.003
MAX_INT8_DROP = 0.003
EXECUTORS = ("exact", "onnx", "qonnx")  # the last two compute in float32, which cannot hold the sums of 12-bit codes


def integer_row(runs, batch_norm, l1, seed, width):
    """Return the row of one integer network of uniform width."""
    return runs.integer_network(
        batch_norm,
        l1,
        seed,
        quant_config(max(8, width)),
        lambda facts: uniform_plan(facts, width, width),
        LONG,
        EXECUTORS if width <= 8 else EXECUTORS[:1],
    )


def choose_l1(runs):
    """Return the L1 factors without and with batch norm, chosen on the validation split of seed 0, and why."""
    rows, factors = [], {}
    for batch_norm in (False, True):
        for factor in (0.0, *CANDIDATES):
            own, _ = runs.float_network(batch_norm, factor, 0)
            found = integer_row(runs, batch_norm, factor, 0, 8)
            row = {"batch_norm": batch_norm, "l1": factor, "float_validation": own["validation"]}
            rows.append({**row, "validation": found["validation"], "zero_frac": found["zero_frac"]})
        dense, *sparse = [row for row in rows if row["batch_norm"] == batch_norm]
        fine = [row["l1"] for row in sparse if dense["validation"] - row["validation"] <= ALLOWED]
        factors[batch_norm] = max(fine, default=min(CANDIDATES))
    return factors, rows


def groups(rows):
    """Return one entry for each width and variant: means and spreads over seeds."""
    found = []
    for label, variant in dict.fromkeys((row["label"], row["variant"]) for row in rows):
        own = [row for row in rows if (row["label"], row["variant"]) == (label, variant)]
        entry = {"label": label, "variant": variant, "n_seeds": len(own)}
        keys = [key for key in ("accuracy", "drop", "zero_frac", "bops", "bops_dense") if key in own[0]]
        entry |= {key: mean_and_spread(row[key] for row in own) for key in keys}
        layers = range(len(own[0].get("bias_bits", ())))
        entry["bias_bits"] = [span([row["bias_bits"][i] for row in own]) for i in layers]
        found.append(entry)
    return found


def table(document):
    """Return two Markdown tables: accuracies as they were published, and what each network costs."""
    entries = {(entry["label"], entry["variant"]): entry for entry in document["groups"]}
    labels, variants = list(dict.fromkeys(e[0] for e in entries)), list(dict.fromkeys(e[1] for e in entries))
    lines = [f"| accuracy % | {' | '.join(variants)} |", f"|---|{'---|' * len(variants)}"]
    for label in labels:
        cells = [percent(entries[label, variant]["accuracy"]) for variant in variants]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    lines += [
        "",
        "| network | points below float | zero weights % | BOPs | BOPs, zeros counted | bias bits, layer by layer |",
        "|---|---|---|---|---|---|",
    ]
    for (label, variant), e in entries.items():
        if "drop" in e:
            lines.append(
                f"| {label} {variant} | {percent(e['drop'])} | {percent(e['zero_frac'], 1)} "
                f"| {e['bops']['mean']:,.0f} ± {e['bops']['std']:,.0f} | {e['bops_dense']['mean']:,.0f} "
                f"| {', '.join(e['bias_bits'])} |"
            )
    return "\n".join(lines)


def draw(document):
    """Return the figure: accuracy against BOPs of every network, with error bars."""
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for marker, variant in zip("osD^", VARIANTS, strict=True):
            own = [e for e in document["groups"] if e["variant"] == variant and "bops" in e]
            x, y = ([e[key]["mean"] for e in own] for key in ("bops", "accuracy"))
            bars = {name: [e[key]["std"] for e in own] for name, key in (("xerr", "bops"), ("yerr", "accuracy"))}
            bars["yerr"] = [100 * s for s in bars["yerr"]]
            axes.errorbar(x, [100 * v for v in y], **bars, fmt=f"{marker}-", markersize=4, linewidth=1, label=variant)
        best = next(e for e in document["groups"] if e["variant"] == "baseline" and e["label"] == "float32")
        axes.axhline(
            100 * best["accuracy"]["mean"], color="0.5", linewidth=1, linestyle="--", label="float32, baseline"
        )
        axes.set(xlabel="bit operations (zero weights left out)", ylabel="accuracy on the test split, %")
        axes.legend(frameon=False, loc="lower right")
    return figure


def main():
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    parser.add_argument("--work", type=Path, default=Path("runs/jets_published"), help="folder of what is kept")
    parser.add_argument("--out", type=Path, default=here / "results" / "jets_homogeneous.json")
    parser.add_argument("--figure", type=Path, default=here.parent / "docs" / "figures" / "jets_homogeneous.svg")
    parser.add_argument("--quick", action="store_true", help="one epoch on a few jets, to see that everything runs")
    args = parser.parse_args()
    start, runs, rows = environment(), Runs(args.work, quick=args.quick), []
    factors, choice = choose_l1(runs)
    for seed in args.seeds:
        for variant, (batch_norm, with_l1) in VARIANTS.items():
            l1 = factors[batch_norm] if with_l1 else 0.0
            own, _ = runs.float_network(batch_norm, l1, seed)
            rows.append({"label": "float32", "variant": variant, **own})
            for width in args.widths:
                row = integer_row(runs, batch_norm, l1, seed, width)
                drop = own["accuracy"] - row["accuracy"]
                rows.append({"label": f"INT{width}", "variant": variant, "drop": drop, **row})
    entries, problems = groups(rows), mismatches(rows)
    problems += [
        f"{e['label']} {e['variant']}: {e['drop']['mean']:.4f} below float, allowed {MAX_INT8_DROP}"
        for e in entries
        if e["label"] == "INT8" and "L1" not in e["variant"] and e["drop"]["mean"] > MAX_INT8_DROP
    ]
    document = {"schema": "dyadiq.benchmark.jets-homogeneous/1", "environment": start, "quick": args.quick}
    document |= {"train": FLOAT.to_json(), "finetune": LONG.to_json(), "quantization": quant_config(8).to_json()}
    document |= {"l1": {"L1": factors[False], "L1+BN": factors[True]}, "l1_allowed": ALLOWED, "l1_choice": choice}
    document |= {"problems": problems, "groups": entries, "rows": rows}
    write_results(args.out, document)
    save_svg(draw(document), args.figure)
    print(table(document))
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
