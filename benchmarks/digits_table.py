"""Digits: float against integer accuracy and size, over seeds; prints Markdown. Run: python benchmarks/digits_table.py

Runs recipes/digits.toml once a seed (about a minute each) and writes every number to results/digits_table.json.
Exit code 1 if an executor differs from the reference, or the integer network is more than one point below float on
average, or above 20 % of its size.
"""

import argparse
import sys
from pathlib import Path

from environment import environment
from recipe_runs import mean_and_spread, measure, percent, problems_of, write_results

MAX_DROP, MAX_SIZE_FRAC = 0.01, 0.2


def table(document):
    """Return the Markdown table of a result."""
    rows = document["rows"]
    lines = [
        "| seed | float % | integer % | size, bytes | share of float size | images compared |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['seed']} | {100 * row['float']:.2f} | {100 * row['integer']:.2f} | {row['size_bytes']:,} "
            f"| {100 * row['size_frac']:.1f} % | {row['verify']['qonnx']['samples']} |"
        )
    means = {key: percent(mean_and_spread(row[key] for row in rows)) for key in ("float", "integer", "size_frac")}
    return "\n".join([*lines, f"| mean | {means['float']} | {means['integer']} | | {means['size_frac']} % | |"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/digits_table"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "digits_table.json")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override of the recipe")
    args = parser.parse_args()
    start = environment()
    rows = [
        measure("digits.toml", [*args.set, f"seed={seed}", "threads=1", f'out="{args.work}/seed{seed}"'])
        for seed in args.seeds
    ]
    problems = problems_of(rows, rows[0]["n_eval"])
    drop, size = (mean_and_spread(row[key] for row in rows) for key in ("drop", "size_frac"))
    if drop["mean"] > MAX_DROP:
        problems.append(f"mean drop {drop['mean']:.4f}, allowed {MAX_DROP}")
    if size["mean"] > MAX_SIZE_FRAC:
        problems.append(f"size is {size['mean']:.4f} of float, allowed {MAX_SIZE_FRAC}")
    document = {"schema": "dyadiq.benchmark.digits-table/1", "environment": start, "overrides": args.set}
    document |= {"problems": problems, "drop": drop, "size_frac": size, "rows": rows}
    write_results(args.out, document)
    print(table(document))
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
