"""How many images the decision needs: `analyze` on ResNet-20 until a bootstrap bounds the regret of the plan.

    DYADIQ_DATA=... python benchmarks/regret_stop.py

CIFAR-10 training images, method gram, weights of 2, 4 and 8 bits, a budget of average bits. Beside the bound that it
stopped at stands what the plan really gives away on other images: its loss above that of the best plan there, as a
share of the same scale (the plan's loss above that of all widest widths). Times are CPU seconds of one thread. A seed
draws the images that are measured and those that judge.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from environment import environment

import dyadiq as dq
from dyadiq.allocation import build_problem, solve
from dyadiq.allocation.limits import parse_limits
from dyadiq.cost import candidate_bits, cost_tables
from dyadiq.curvature import analyze
from dyadiq.zoo import build_model, load_dataset
from dyadiq.zoo.pretrained import load_pretrained_

RESULTS = Path(__file__).parent / "results" / "regret_stop.json"
BITS = (2, 4, 8)


def problem_of(table, budget):
    known = cost_tables(table.facts, BITS)
    options = candidate_bits(table.facts, BITS, (8,))
    return build_problem(table, known, parse_limits(budget, known, table.facts), options)


def regret_elsewhere(table, judge, budget):
    """The loss that the table's best plan gives away if the judge is the truth, as a share."""
    plan = solve(problem_of(table, budget)).choice
    there = problem_of(judge, budget)
    lost = there.objective(plan) - solve(there).objective
    return lost / (there.objective(plan) - sum(map(min, there.loss)))


def one_seed(seed, train, graph, arguments):
    order = np.random.default_rng(seed).permutation(len(train.x))
    judging = train.x[order[: arguments.judges]]
    pool = train.x[order[arguments.judges :][: arguments.pool]]
    options = {"bits": BITS, "activation_bits": ()}
    judge = analyze(graph, [judging], **options)
    runs = []
    with tempfile.TemporaryDirectory() as folder:  # one measurement: budgets share what they measure
        for average in arguments.budgets:
            budget = {"bits": average}
            rule = dq.RegretRule(budget, BITS, limit=arguments.limit, seed=seed)
            begin = time.process_time()
            table = analyze(graph, [pool], **options, stop=rule, seed=seed, folder=Path(folder))
            runs.append(
                {
                    "seed": seed,
                    "average_bits": average,
                    "n_images": table.n_samples,
                    "bound": rule(table),
                    "regret_elsewhere": regret_elsewhere(table, judge, budget),
                    "regret_of_64_images": regret_elsewhere(analyze(graph, [pool[:64]], **options), judge, budget),
                    "cpu_s_beyond_earlier_budgets": time.process_time() - begin,
                }
            )
            print(runs[-1], flush=True)
    return runs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budgets", type=float, nargs="+", default=[3.0, 4.0])
    parser.add_argument("--limit", type=float, default=0.01)
    parser.add_argument("--pool", type=int, default=1024)
    parser.add_argument("--judges", type=int, default=768)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train = load_dataset("cifar10", n_train=20_000, n_validation=1000).train
    model = load_pretrained_(build_model("cifar_resnet20"), "cifar_resnet20").eval()
    graph = dq.capture(model, (torch.from_numpy(train.x[:2]),))
    runs = []
    for seed in arguments.seeds:
        runs += one_seed(seed, train, graph, arguments)
        options = {key: getattr(arguments, key) for key in ("limit", "pool", "judges")}
        RESULTS.write_text(json.dumps({"environment": environment(), **options, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
