"""Per-layer traces of ResNet-20 for a population of CIFAR-10 training images: seconds to narrow intervals.

    DYADIQ_DATA=... python benchmarks/population_trace.py

The population is 10,000 training images; `sampled_trace` takes directions of their outputs by priority until every
weight's 95 % interval (all at once, Bonferroni) has a half width within the tolerance. It is the interval for the mean
over these images. Times are CPU seconds of one thread, the pass over the population included. A seed draws the
population and the directions.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from environment import environment

import dyadiq as dq
from dyadiq.curvature import analyze
from dyadiq.zoo import build_model, load_dataset
from dyadiq.zoo.pretrained import load_pretrained_

RESULTS = Path(__file__).parent / "results" / "population_trace.json"


def one_seed(seed, train, tolerance):
    x = train.x[np.random.default_rng(seed).permutation(len(train.x))[:10_000]]
    model = load_pretrained_(build_model("cifar_resnet20"), "cifar_resnet20").eval()
    graph = dq.capture(model, (torch.from_numpy(x[:2]),))
    begin = time.process_time()
    table = analyze(graph, [x], "sampled_trace", bits=(8,), tolerance=tolerance, seed=seed)
    seconds = time.process_time() - begin
    relative = {name: c.stderr / c.value for name, c in table.curvature.items()}
    return {
        "seed": seed,
        "cpu_s": seconds,
        "notes": table.notes,
        "relative_stderr_median": float(np.median(list(relative.values()))),
        "relative_stderr_worst": max(relative.values()),
        "layers": {n: {"mean": c.value, "stderr": c.stderr} for n, c in table.curvature.items()},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tolerance", type=float, default=0.02)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train = load_dataset("cifar10", n_train=20_000, n_validation=1000).train
    runs = []
    for seed in arguments.seeds:
        runs.append(one_seed(seed, train, arguments.tolerance))
        print({k: v for k, v in runs[-1].items() if k != "layers"}, flush=True)
        RESULTS.write_text(
            json.dumps({"environment": environment(), "tolerance": arguments.tolerance, "runs": runs}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
