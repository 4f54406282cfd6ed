"""Jets simulated here against those of the data pack: every feature of every class, and jets per second. Prints JSON.

Run: python benchmarks/jets_simulation.py [--jets 12500] [--workers 2] [--out FOLDER]

Fresh jets (a seed of their own) are compared with all jets of ``DYADIQ_DATA/jets/jets.npz``, class by class: the
two-sample Kolmogorov-Smirnov test, and differences of mean and variance in standard errors. The smallest of the 80
p-values must not be below 0.01 / 80, as it is by chance in less than 1 % of such comparisons; else exit code 1.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from environment import environment
from scipy.stats import ks_2samp

from dyadiq.core.data_folder import data_folder
from dyadiq.zoo.jets_features import CLASSES, FEATURES
from dyadiq.zoo.jets_job import JetsConfig, simulate_jets
from dyadiq.zoo.npz_data import read_npz

SIGNIFICANCE = 0.01  # of all tests together


def jets_by_class(path):
    """Return all jets of both splits, by class."""
    arrays = read_npz(path, ("x_train", "y_train", "x_test", "y_test", "feature_names", "classes"))
    assert tuple(arrays["feature_names"]) == FEATURES
    assert tuple(arrays["classes"]) == CLASSES
    x, y = (np.concatenate([arrays[f"{name}_train"], arrays[f"{name}_test"]]) for name in "xy")
    return {name: x[y == label].astype(np.float64) for label, name in enumerate(CLASSES)}


def compare(new, known):
    """Return the comparison of one feature of one class."""
    test = ks_2samp(new, known)
    squares_new, squares_known = ((values - values.mean()) ** 2 for values in (new, known))
    return {
        "ks": round(float(test.statistic), 5),
        "p": float(f"{test.pvalue:.3g}"),
        "mean_ratio": round(float(new.mean() / known.mean()), 5),
        "mean_difference_sigma": sigma(new, known),
        "std_ratio": round(float(new.std() / known.std()), 5),
        "variance_difference_sigma": sigma(squares_new, squares_known),
    }


def sigma(a, b):
    """Return the difference of two means in its standard error."""
    return round(float((a.mean() - b.mean()) / np.sqrt(a.var() / len(a) + b.var() / len(b))), 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jets", type=int, default=12_500, help="jets to simulate, of all classes together")
    parser.add_argument("--seed", type=int, default=20_260)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--chunk-jets", type=int, default=500)
    parser.add_argument("--out", type=Path, help="folder for the jets; a temporary one if not given")
    args = parser.parse_args()
    n_test = args.jets // 5
    config = JetsConfig(args.jets - n_test, n_test, args.seed, args.chunk_jets)
    before = environment()
    with tempfile.TemporaryDirectory() as place:
        folder = args.out or Path(place)
        made = simulate_jets(folder, config, n_workers=args.workers)
        new = jets_by_class(folder / "jets.npz")
    known = jets_by_class(data_folder() / "jets" / "jets.npz")
    rows = [
        {"class": name, "feature": feature, **compare(new[name][:, k], known[name][:, k])}
        for name in CLASSES
        for k, feature in enumerate(FEATURES)
    ]
    limit = SIGNIFICANCE / len(rows)
    worst = min(rows, key=lambda row: row["p"])
    document = {
        "schema": "dyadiq.benchmark.jets_simulation/1",
        "environment": before,
        "n_new": {name: len(jets) for name, jets in new.items()},
        "n_known": {name: len(jets) for name, jets in known.items()},
        "seed": args.seed,
        "versions": made["settings"]["versions"],
        "n_events": made["n_events"],
        "seconds": made["seconds"],
        "n_workers": args.workers,
        "jets_per_cpu_second": made["jets_per_cpu_second"],
        "jets_per_cpu_second_of_class": made["jets_per_cpu_second_of_class"],
        "p_limit": limit,
        "worst": worst,
        "n_p_below_5_percent": sum(row["p"] < 0.05 for row in rows),
        "largest_mean_difference_sigma": max(abs(row["mean_difference_sigma"]) for row in rows),
        "largest_variance_difference_sigma": max(abs(row["variance_difference_sigma"]) for row in rows),
        "agree": worst["p"] >= limit,
        "rows": rows,
    }
    print(json.dumps(document, indent=2))
    return 0 if document["agree"] else 1


if __name__ == "__main__":
    sys.exit(main())
