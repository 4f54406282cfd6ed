"""Jets: float, uniform and mixed integer networks over seeds; prints Markdown. Run: python benchmarks/jets_table.py

Runs recipes/jets.toml, plain and with batch norm, for each seed: one float network, then W8A8, W6A6, W4A4 and a
mixed plan under a budget of bit operations, each calibrated, fine-tuned, lowered, and measured as an integer
program on the whole test split, with every executor compared on it. Settings were chosen on the validation split.
Needs the jets in the folder that DYADIQ_DATA names. Writes every number to results/jets_table.json.
Exit code 1 if an executor differs, fewer than 10,000 jets were compared, or W8A8 is more than 0.3 points below float.

The jets are simulated for this project: these accuracies cannot be compared with published ones.
"""

import argparse
import multiprocessing
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from environment import environment
from recipe_runs import mean_and_spread, measure, percent, problems_of, write_results

VARIANTS = ("plain", "batch_norm")
PLANS = {f"W{bits}A{bits}": f"allocate={{uniform={{weight={bits},activation={bits}}}}}" for bits in (8, 6, 4)}
PLANS["mixed"] = ""
# Learning rates and budget were chosen on the validation split of seed 0, epochs by what the table may cost in time.
SETTINGS = (
    "threads=1",
    "train.epochs=40",
    "train.learning_rate=1e-2",
    "finetune.epochs=15",
    "finetune.learning_rate=6e-3",
    'allocate.budget={bops="4%"}',
    "compare.uniform_bits=[]",
    'verify.against=["exact","onnx","qonnx"]',
)
MAX_INT8_DROP, N_VERIFIED = 0.003, 10_000


def runs(variant, seed, work, overrides):
    """Return one row for each plan, all from the same float network; finished plans are kept from an earlier call."""
    rows = []
    base = work / f"{variant}-seed{seed}"
    for label, plan in PLANS.items():
        if rows and not (base / label).exists():
            # The stages before the plan (data, float network, sensitivities) are taken over and not run again.
            shutil.rmtree(base / ".copy", ignore_errors=True)
            shutil.copytree(base / next(iter(PLANS)), base / ".copy").rename(base / label)
        sets = [*SETTINGS, f"model.args.batch_norm={str(variant == 'batch_norm').lower()}", f"seed={seed}"]
        sets += [f'out="{base / label}"', *([plan] if plan else []), *overrides]
        rows.append({"variant": variant, "label": label, **measure("jets.toml", sets)})
        print(f"{variant}, seed {seed}, {label}: {rows[-1]['integer']:.4f}", file=sys.stderr, flush=True)
    return rows


def groups(rows):
    """Return one entry for each variant and plan: means and spreads over seeds."""
    found = []
    for variant, label in dict.fromkeys((row["variant"], row["label"]) for row in rows):
        own = [row for row in rows if (row["variant"], row["label"]) == (variant, label)]
        found.append(
            {
                "variant": variant,
                "label": label,
                "n_seeds": len(own),
                **{key: mean_and_spread(row[key] for row in own) for key in ("float", "integer", "drop", "size_bytes")},
                "bops": mean_and_spread(row["costs"]["bops"] for row in own),
                "macs_bops": mean_and_spread(row["costs"]["macs_bops"] for row in own),
            }
        )
    return found


def table(document):
    """Return the Markdown table of a result."""
    entries, bops_float = document["groups"], document["rows"][0]["bops_float"]
    lines = [
        "| network | plan | accuracy % | points below float | BOPs (with additions) | MACs b_a b_w | packed bytes |",
        "|---|---|---|---|---|---|---|",
    ]
    for variant in dict.fromkeys(entry["variant"] for entry in entries):
        own = [entry for entry in entries if entry["variant"] == variant]
        lines.append(f"| {variant} | float32 | {percent(own[0]['float'])} | | {bops_float:,} | | |")
        lines += [
            f"| {variant} | {e['label']} | {percent(e['integer'])} | {percent(e['drop'])} "
            f"| {_count(e['bops'])} | {_count(e['macs_bops'])} | {_count(e['size_bytes'])} |"
            for e in own
        ]
    return "\n".join(lines)


def _count(found):
    spread = f" ± {found['std']:,.0f}" if found["std"] else ""
    return f"{found['mean']:,.0f}{spread}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--work", type=Path, default=Path("runs/jets_table"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "jets_table.json")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override of the recipe")
    args = parser.parse_args()
    start = environment()
    with ProcessPoolExecutor(args.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        asked = [(variant, seed) for seed in args.seeds for variant in args.variants]
        futures = [pool.submit(runs, variant, seed, args.work, args.set) for variant, seed in asked]
        rows = [row for future in futures for row in future.result()]
    problems, entries = problems_of(rows, N_VERIFIED), groups(rows)
    problems += [
        f"{entry['variant']} {entry['label']}: {entry['drop']['mean']:.4f} below float, allowed {MAX_INT8_DROP}"
        for entry in entries
        if entry["label"] == "W8A8" and entry["drop"]["mean"] > MAX_INT8_DROP
    ]
    document = {"schema": "dyadiq.benchmark.jets-table/1", "environment": start, "overrides": [*SETTINGS, *args.set]}
    document |= {"problems": problems, "groups": entries, "rows": rows}
    write_results(args.out, document)
    print(table(document))
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
