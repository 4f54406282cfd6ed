"""Runs a recipe and keeps the numbers that tables are made of; used by the table scripts beside it."""

import json
import statistics
import warnings
from pathlib import Path

from dyadiq.core.artifact import atomic_write_text
from dyadiq.pipeline.run import run_recipe
from dyadiq.recipe import load_recipe

RECIPES = Path(__file__).parents[1] / "recipes"
EXACT = ("exact", "onnx", "qonnx")


def measure(recipe, overrides):
    """Run a recipe and return one row: accuracies on the test split, costs, plan, and what verification compared.

    Stages of an earlier call in the same folder are kept where nothing they depend on changed: so that several plans
    share one float network.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of exporters; what matters is in the summary
        summary = run_recipe(load_recipe(RECIPES / recipe, overrides)).summary
    return {
        "seed": summary["seed"],
        "float": summary["accuracy"]["float"],
        "integer": summary["accuracy"]["integer"],
        "drop": summary["accuracy"]["float"] - summary["accuracy"]["integer"],
        "validation": summary["validation_accuracy"],
        "n_eval": summary["n_eval"],
        "size_bytes": summary["size_bytes"],
        "size_frac": summary["size_bytes"] / summary["size_float_bytes"],
        "costs": summary["costs"],
        "bops_float": summary["bops_float"],
        "bits": summary["plan"],
        "gap": summary["certificate"]["gap"],
        "verify": {
            name: {key: found[key] for key in ("samples", "compared", "mismatches")}
            for name, found in summary["verify"].items()
        },
        "recipe_sha256": summary["provenance"]["recipe sha256"],
        "seconds": sum(summary["seconds"].values()),
    }


def mean_and_spread(values):
    """Return the mean and the sample standard deviation (n - 1); 0 for a single value."""
    values = list(values)
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0}


def percent(found, digits=2):
    """Return ``mean ± spread`` of fractions as text in percent."""
    return f"{100 * found['mean']:.{digits}f} ± {100 * found['std']:.{digits}f}"


def problems_of(rows, n_verified):
    """Return what breaks the law: an executor with mismatches, or one that saw fewer than ``n_verified`` samples."""
    return [
        f"{row.get('label', 'run')}, seed {row['seed']}: {name}: {row['verify'].get(name)}"
        for row in rows
        for name in EXACT
        if name not in row["verify"]
        or row["verify"][name]["mismatches"]
        or row["verify"][name]["samples"] < min(n_verified, row["n_eval"])
    ]


def write_results(path, document):
    """Write a result as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, json.dumps(document, indent=1) + "\n")
