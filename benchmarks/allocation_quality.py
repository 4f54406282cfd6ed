"""Which bits are best at equal size: every sensitivity method through the same exact solver, beside measured refining.

    DYADIQ_DATA=... python benchmarks/allocation_quality.py [--networks resnet20 resnet56] [--seeds 0 1 2]

For every network, seed and average width of weights: allocate, quantize the weights (per channel, ranges by least
squares, round to nearest; activations stay float, as in the papers' comparison), and measure on test images the KL
divergence from the float network. A seed draws the calibration images from the training images; test images are used
for this last number only. Plans of one row have the same budget, and the same candidates {2, 3, 4, 5, 6, 8}.

Methods: the papers' (trace: HAWQ-V2, eigenvalue: HAWQ-V1, fisher, kl: ZeroQ), the forward Gram, and `refined`:
the best of four plans by measurement, then `allocation.refine`, which proposes on blends of training images and is
judged on real ones that the network is unsure about. Ratios are to `trace`.
Rows are kept in the work folder (--work), so that a run that was stopped goes on.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from environment import environment

import dyadiq as dq
from dyadiq.allocation import Constraint, Problem, solve
from dyadiq.allocation.refine import refine
from dyadiq.core.facts import QuantConfig
from dyadiq.cost import network_facts
from dyadiq.curvature import METHODS
from dyadiq.curvature.importance import draw
from dyadiq.curvature.losses import divergence, root_transposed_times
from dyadiq.curvature.mix import blend
from dyadiq.curvature.outputs import PerturbedOutputs
from dyadiq.curvature.plan_loss import PlanLoss
from dyadiq.curvature.problem import Problem as Measured
from dyadiq.curvature.samples import read_samples
from dyadiq.ir.graph import Graph
from dyadiq.ir.passes import canonicalize
from dyadiq.ir.sites import find_sites
from dyadiq.zoo import Dataset, build_model, load_dataset
from dyadiq.zoo.pretrained import load_pretrained_

BITS = (2, 3, 4, 5, 6, 8)
AVERAGES = (2.5, 3.0, 3.5, 4.0, 5.0)
RESULTS = Path(__file__).parent / "results" / "allocation_quality.json"
BASELINE = "trace"
STARTS = ("trace", "kl", "gram_blends", "kl_blends")


@dataclass
class Network:
    """A trained network with its images, and how many each part of the measurement uses."""

    name: str
    graph: Graph
    data: Dataset
    n_test: int
    n_table: int
    n_eigen: int
    n_blends: int
    n_refine: int
    n_pool: int = 2000

    def __post_init__(self):
        self.train_x, self.train_y = self.data.train.x, self.data.train.y
        self.test_x, self.test_y = self.data.test.x[: self.n_test], self.data.test.y[: self.n_test]


def cifar(depth, **counts):
    name = f"cifar_resnet{depth}"
    data = load_dataset("cifar10", n_train=5000, n_validation=1000)
    model = load_pretrained_(build_model(name), name).eval()
    graph = canonicalize(dq.capture(model, (torch.from_numpy(data.train.x[:2]),)))
    return Network(f"resnet{depth}", graph, data, **counts)


NETWORKS = {
    "resnet20": lambda: cifar(20, n_test=1500, n_table=128, n_eigen=32, n_blends=96, n_refine=96),
    "resnet56": lambda: cifar(56, n_test=800, n_table=64, n_eigen=8, n_blends=64, n_refine=64),
}


def measured(network, x, y=None):
    """Return the problem of measuring the network's weights on some images."""
    facts = network_facts(network.graph, QuantConfig())
    names = [d.name for d in facts.decisions if d.kind == "weight"]
    samples = read_samples([(x, y)] if y is not None else [x], "float32", labelled=y is not None)
    return Measured(
        network.graph,
        facts,
        find_sites(network.graph),
        samples.inputs,
        dict.fromkeys(names, BITS),
        labels=samples.labels,
    )


def allocation(problem, losses, average):
    """Return the allocation problem of least summed loss under an average width."""
    sizes = [problem.facts.decision(name).n_elements for name in problem.weights]
    limit = math.floor(average * sum(sizes))
    size = Constraint("weight_bits", tuple(tuple(n * b for b in BITS) for n in sizes), limit)
    rows = tuple(tuple(float(losses[name, b]) for b in BITS) for name in problem.weights)
    return Problem(problem.weights, tuple(BITS for _ in sizes), rows, (size,))


def table_losses(table):
    return {(name, bits): entry.value for name, row in table.entries.items() for bits, entry in row.items()}


def forward_losses(problem):
    """Return the losses of `gram` and of `kl` from the same forward passes."""
    gram, kl, outputs = [], [], PerturbedOutputs(problem)
    for chunk in range(len(problem.batches)):
        reference, perturbed = outputs(chunk)
        u = root_transposed_times(reference, perturbed - reference, problem.loss)
        gram.append(0.5 * u.square().sum(-1).numpy())
        kl.append(divergence(reference, perturbed, problem.loss).numpy())
    return [dict(zip(problem.index, np.concatenate(rows, axis=1).mean(1), strict=True)) for rows in (gram, kl)]


def judged_blends(network, blends, pool, seed):
    """Return samples of which every third, those that `refine` holds back, is an image of the pool, not a blend.

    Drawn by uncertainty: proposals come from blends, and must hold on real images that the network is unsure about.
    """
    outputs = Outputs(measured(network, pool)).float
    p = torch.cat(outputs).softmax(1)
    n = len(blends) // 2
    drawn = draw((1.0 - p.square().sum(1)).numpy(), n, np.random.default_rng(seed)).indices
    return np.stack([blends[:n], blends[n : 2 * n], pool[drawn]], axis=1).reshape(3 * n, *pool.shape[1:])


def score(losses):
    """Return the mean of the logarithms of the mean losses on blends and on images: both count alike."""
    held = np.arange(len(losses)) % 3 == 2
    return math.log(losses[~held].mean()) + math.log(losses[held].mean())


def one_seed(network, seed, work, averages):
    """Measure every method; rows are written as they come."""
    path = work / f"{network.name}_{seed}.json"
    done = json.loads(path.read_text()) if path.exists() else {"tables": {}, "plans": {}, "seconds": {}}

    def keep():
        path.write_text(json.dumps(done))

    def timed(what, make):
        if what not in done["tables"]:
            begin = time.process_time()
            for name, losses in make().items():
                done["tables"][name] = [[n, b, float(v)] for (n, b), v in losses.items()]
            done["seconds"][what] = time.process_time() - begin
            keep()

    order = np.random.default_rng(seed).permutation(len(network.train_x))
    plain, rest = order[: network.n_table], order[network.n_table :]
    x, y = network.train_x[plain], network.train_y[plain]
    problem, labelled = measured(network, x), measured(network, x, y)
    few = measured(network, x[: network.n_eigen])
    blends = blend(network.train_x[rest[: network.n_blends + network.n_refine]], seed=seed)
    pool = network.train_x[rest[network.n_blends + network.n_refine :][: network.n_pool]]
    timed("trace", lambda: {"trace": table_losses(METHODS["trace"](problem))})
    timed("eigenvalue", lambda: {"eigenvalue": table_losses(METHODS["eigenvalue"](few))})
    timed("fisher", lambda: {"fisher": table_losses(METHODS["fisher"](labelled))})
    timed("gram", lambda: dict(zip(("gram", "kl"), forward_losses(problem), strict=True)))
    timed(
        "kl_blends",
        lambda: dict(
            zip(
                ("gram_blends", "kl_blends"), forward_losses(measured(network, blends[: network.n_blends])), strict=True
            )
        ),
    )
    tables = {name: {(n, b): v for n, b, v in rows} for name, rows in done["tables"].items()}
    on_test = measurement = None
    for average in averages:
        plans = done["plans"].setdefault(str(average), {})
        for name, losses in tables.items():
            if name not in plans:
                choice = solve(allocation(problem, losses, average)).choice
                plans[name] = {"bits": [BITS[o] for o in choice]}
        if "refined" not in plans:
            begin = time.process_time()
            if measurement is None:
                measurement = PlanLoss(
                    measured(network, judged_blends(network, blends[network.n_blends :], pool, seed))
                )
            starts = {name: tuple(BITS.index(b) for b in plans[name]["bits"]) for name in STARTS}
            named = {name: dict(zip(problem.weights, plans[name]["bits"], strict=True)) for name in STARTS}
            start = min(STARTS, key=lambda name: score(measurement(named[name])))
            found = refine(allocation(problem, tables[start], average), starts[start], measurement)
            plans["refined"] = {
                "bits": [BITS[o] for o in found.choice],
                "start": start,
                "before": found.before,
                "after": found.after,
                "n_measured": found.n_measured,
                "reason": found.reason,
                "cpu_s": time.process_time() - begin,
            }
            keep()
        known = {tuple(p["bits"]): (p["kl"], p["accuracy"]) for p in plans.values() if "kl" in p}
        for plan in plans.values():
            if "kl" in plan:
                continue
            if tuple(plan["bits"]) not in known:
                on_test = on_test or OnTest(network)
                known[tuple(plan["bits"])] = on_test(dict(zip(problem.weights, plan["bits"], strict=True)))
            plan["kl"], plan["accuracy"] = known[tuple(plan["bits"])]
            keep()
        print(
            network.name,
            seed,
            average,
            {k: round(p["kl"] / plans[BASELINE]["kl"], 3) for k, p in plans.items()},
            flush=True,
        )
    return done


class OnTest:
    """KL and accuracy on test images, chunk by chunk: the tensors of one chunk at a time."""

    def __init__(self, network):
        self.problem = measured(network, network.test_x)
        self.labels = network.test_y
        self.measurement = Outputs(self.problem)

    def __call__(self, bits):
        return self.measurement(bits, self.labels)


class Outputs:
    """Whole forward passes of a plan; unlike `PlanLoss` keeps no tensors."""

    def __init__(self, problem):
        from dyadiq.curvature.perturb import Network, quantized_weight

        self.problem, self.network = problem, Network(problem)
        self.weights = {
            (n, b): torch.from_numpy(quantized_weight(problem, n, b)).float() for n in problem.weights for b in BITS
        }
        self.float = [self.run(batch, {}) for batch in problem.batches]

    def run(self, batch, changed):
        from dyadiq.ir.execute import run_graph

        with torch.no_grad():
            params = {name: self.network.parameter(name) for name in self.problem.graph.params} | changed
            return run_graph(self.problem.graph, batch, params)[0].to(torch.float64)

    def __call__(self, bits, labels):
        changed = {n: self.weights[n, b] for n, b in bits.items()}
        outputs = [self.run(batch, changed) for batch in self.problem.batches]
        kl = torch.cat([divergence(a, b, "cross_entropy") for a, b in zip(self.float, outputs, strict=True)])
        right = torch.cat(outputs).argmax(1).numpy() == labels
        return float(kl.mean()), float(right.mean())


def summary(runs):
    """Return geometric means of KL ratios to the baseline, per network and average, and the worst cell."""
    rows, ratios = [], {}
    for name, seeds in runs.items():
        for average in next(iter(seeds.values()))["plans"]:
            row = {"network": name, "average_bits": float(average)}
            for method in next(iter(seeds.values()))["plans"][average]:
                cells = [s["plans"][average] for s in seeds.values()]
                values = [c[method]["kl"] / c[BASELINE]["kl"] for c in cells]
                ratios.setdefault(method, []).extend(values)
                row[method] = {
                    "kl": float(np.mean([c[method]["kl"] for c in cells])),
                    "ratios": values,
                    "accuracy": float(np.mean([c[method]["accuracy"] for c in cells])),
                }
            rows.append(row)
    overall = {
        method: {"geometric_mean": math.exp(np.mean(np.log(values))), "worst": max(values), "n": len(values)}
        for method, values in ratios.items()
    }
    return {"overall": overall, "rows": rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--averages", type=float, nargs="+", default=list(AVERAGES))
    parser.add_argument("--work", type=Path, default=Path("runs/allocation_quality"))
    parser.add_argument("--only-measure", action="store_true", help="write no results file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    runs = {}
    for name in arguments.networks:
        network = NETWORKS[name]()
        runs[name] = {str(s): one_seed(network, s, arguments.work, arguments.averages) for s in arguments.seeds}
    result = summary(runs)
    print(json.dumps(result["overall"], indent=1))
    if not arguments.only_measure:
        RESULTS.write_text(json.dumps({"environment": environment(), **result, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
