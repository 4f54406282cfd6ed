"""Calibration without data beside calibration with it (CIFAR-10), as Markdown. Run: python benchmarks/zero_shot.py

Needs the data pack (DYADIQ_DATA). For every network and seed, three questions:

- time: the whole data-free way (distil, sensitivities of weights and activations, allocate 4 bits on average, ranges,
  lower) on one thread; CPU seconds of this process, because others may share the machine, and wall seconds beside them;
- W8A8: accuracy of the integer program on all test images (in onnxruntime, six times as fast as `run_exact`), ranges
  from distilled inputs and from 256 training images;
- allocation: at five average weight bits, KL from float to the network with quantized weights on test images, bits
  chosen by `gram` on 128 distilled inputs, on 256 training images (the reference; another draw a seed), on 64 of
  these, and on white noise (--sources). Everything else is the same.

One file a network and seed is kept in --work, so an interrupted run goes on. Results: results/zero_shot.json.
Exit code 1 if a goal is missed: 60 CPU seconds on ResNet-20, 0.1 point at W8A8, 1.2 times the KL in the geometric mean.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from environment import environment
from recipe_runs import mean_and_spread, write_results

import dyadiq as dq
from dyadiq.core.affine import dequantize, fit_affine
from dyadiq.core.affine import quantize as quantize_array
from dyadiq.ir.execute import graph_params, run_graph
from dyadiq.ir.reference import named_inputs
from dyadiq.quant.lower import lower
from dyadiq.targets import get_target
from dyadiq.zoo import build_model, load_dataset, load_pretrained_

AVERAGES = (2.5, 3.0, 3.5, 4.0, 5.0)
BITS = (2, 3, 4, 5, 6, 8)
N_TRAIN, N_CALIBRATION, N_FEW = 512, 256, 64
MAX_SECONDS, MAX_DROP, MAX_RATIO = 60.0, 0.001, 1.2
BATCH = 250


class Clock:
    """CPU and wall seconds of named steps."""

    def __init__(self):
        self.cpu, self.wall = {}, {}

    def run(self, name, function):
        cpu, wall = time.process_time(), time.perf_counter()
        result = function()
        self.cpu[name] = time.process_time() - cpu
        self.wall[name] = time.perf_counter() - wall
        return result


def budget(facts, average):
    return {"weight_bits": average * sum(d.n_elements for d in facts.decisions if d.kind == "weight")}


def whole_way(model, example, seed):
    """Return seconds of every step, the distilled inputs, and the size of the 4-bit program's plan."""
    clock = Clock()
    graph = clock.run("capture", lambda: dq.capture(model, example))
    made = clock.run("distil", lambda: dq.distill(graph, seed=seed))
    table = clock.run("analyze", lambda: dq.analyze(graph, made, bits=BITS, activation_bits=(8,), seed=seed))
    limit = budget(table.facts, 4.0)
    plan = clock.run("allocate", lambda: dq.allocate(table, limit, bits=BITS, activation_bits=(8,)))
    module = clock.run("ranges", lambda: dq.quantize(graph, plan, made, seed=seed))
    clock.run("lower", lambda: lower(module))
    return graph, made, {"cpu_s": clock.cpu, "wall_s": clock.wall, "summary": made.summary, "notes": list(made.notes)}


def accuracy(program, split):
    """Return the fraction of right answers of the program in onnxruntime, first compared with `run_exact`."""
    target = get_target("onnx")
    right = 0
    with tempfile.TemporaryDirectory() as folder:
        target.write(program, Path(folder))
        for start in range(0, len(split), BATCH):
            x, y = split.x[start : start + BATCH], split.y[start : start + BATCH]
            (codes,) = target.emulate(Path(folder), named_inputs(program.graph, x)).values()
            if start == 0:
                (exact,) = dq.run_exact(program, x).values()
                assert np.array_equal(codes, exact), "onnxruntime and the exact executor differ"
            right += int((codes.argmax(1) == y).sum())
    return right / len(split)


class Divergence:
    """KL from the float network to the one with quantized weights, on some images; every plan is measured once."""

    def __init__(self, graph, x):
        self.graph = dq.canonicalize(graph)
        self.facts = dq.network_facts(self.graph)
        self.params = graph_params(self.graph)
        self.parts = torch.from_numpy(x).split(BATCH)
        self.weights = [d.name for d in self.facts.decisions if d.kind == "weight"]
        self.reference = self._outputs(self.params).log_softmax(1)
        self.known, self.quantized = {}, {}

    def _outputs(self, params):
        with torch.no_grad():
            return torch.cat([run_graph(self.graph, part, params)[0] for part in self.parts]).double()

    def _weight(self, name, bits):
        if (name, bits) not in self.quantized:
            weight = np.asarray(self.graph.params[name], dtype=np.float64)
            params = fit_affine(weight, self.facts.config.weight.with_bits(bits), name=name)
            values = dequantize(quantize_array(weight, params, name=name), params)
            self.quantized[name, bits] = torch.from_numpy(values).float()
        return self.quantized[name, bits]

    def of(self, bits):
        key = tuple(bits[name] for name in self.weights)
        if key not in self.known:
            changed = {name: self._weight(name, bits[name]) for name in self.weights}
            outputs = self._outputs({**self.params, **changed}).log_softmax(1)
            divergence = (self.reference.exp() * (self.reference - outputs)).sum(1)
            self.known[key] = float(divergence.mean())
        return self.known[key]


def allocations(graph, made, data, seed, n_images, names):
    """Return KL at every average width, by what the sensitivities were measured on."""
    noise = np.random.default_rng(seed).normal(size=made.images.shape).astype(np.float32)
    sources = {
        "distilled": list(made),
        "training": [data.train.x[:N_CALIBRATION]],
        "few": [data.train.x[:N_FEW]],
        "noise": [noise],
    }
    measure = Divergence(graph, data.test.x[:n_images])
    found = {}
    for name in ("training", *names):
        batches = sources[name]
        table = dq.analyze(graph, batches, bits=BITS, activation_bits=(8,), seed=seed)
        plans = {
            average: dq.allocate(
                table, budget(table.facts, average), bits=BITS, activation_bits=(8,), front_points=0
            ).bits
            for average in AVERAGES
        }
        found[name] = {str(average): measure.of(bits) for average, bits in plans.items()}
    return found


def geometric(row, name):
    """Return the geometric mean of KL over that of the reference, over average widths."""
    logs = [math.log(row["kl"][name][a] / row["kl"]["training"][a]) for a in row["kl"][name]]
    return math.exp(sum(logs) / len(logs))


def measure(network, seed, n_images, n_accuracy, sources):
    data = load_dataset("cifar10", seed=seed, n_train=N_TRAIN, n_validation=100)
    model = build_model(network)
    load_pretrained_(model, network)
    graph, made, timing = whole_way(model.eval(), torch.from_numpy(data.train.x[:2]), seed)
    test = data.test.take(n_accuracy)
    with torch.no_grad():
        outputs = torch.cat([model(x) for x in torch.from_numpy(test.x).split(BATCH)])
    row = {"network": network, "seed": seed, "n_test": len(test), "n_kl": n_images, **timing}
    row["float"] = float((outputs.argmax(1).numpy() == test.y).mean())
    plan = dq.uniform_plan(dq.network_facts(dq.canonicalize(graph)), 8, 8)
    for name, batches in (("distilled", made), ("training", [data.train.x[:N_CALIBRATION]])):
        row[f"w8a8_{name}"] = accuracy(lower(dq.quantize(graph, plan, batches, seed=seed)), test)
    row["kl"] = allocations(graph, made, data, seed, n_images, sources)
    row["ratio"] = {name: geometric(row, name) for name in sources}
    return row


def tables(rows):
    lines = [
        "| network | seed | distil, s | analyze, s | whole way, CPU s | float % | W8A8 distilled % | W8A8 training % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cpu, points = row["cpu_s"], [100 * row[k] for k in ("float", "w8a8_distilled", "w8a8_training")]
        lines.append(
            f"| {row['network']} | {row['seed']} | {cpu['distil']:.1f} | {cpu['analyze']:.1f} | "
            f"{sum(cpu.values()):.1f} | " + " | ".join(f"{value:.2f}" for value in points) + " |"
        )
    head = " | ".join(f"{a:g}" for a in AVERAGES)
    lines += ["", f"| network | seed | measured on | {head} | over training |", "|---" * (4 + len(AVERAGES)) + "|"]
    for row in rows:
        for name, kl in row["kl"].items():
            values = " | ".join(f"{kl[str(a)]:.4f}" for a in AVERAGES)
            ratio = f"{row['ratio'][name]:.2f}" if name in row["ratio"] else "1"
            lines.append(f"| {row['network']} | {row['seed']} | {name} | {values} | {ratio} |")
    return "\n".join(lines)


def verdicts(rows):
    """Return what is reached, per network, and every goal that is missed."""
    found, problems = {}, []
    for network in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == network]
        ratio = {name: mean_and_spread(row["ratio"][name] for row in own) for name in own[0]["ratio"]}
        pooled = math.exp(sum(math.log(row["ratio"]["distilled"]) for row in own) / len(own))
        worst = max(
            math.exp(np.mean([math.log(row["kl"]["distilled"][a] / row["kl"]["training"][a]) for row in own]))
            for a in own[0]["kl"]["distilled"]
        )
        drop = mean_and_spread(row["float"] - row["w8a8_distilled"] for row in own)
        seconds = mean_and_spread(sum(row["cpu_s"].values()) for row in own)
        found[network] = {"cpu_s": seconds, "w8a8_drop": drop, "ratio": ratio}
        found[network] |= {"ratio_geometric_mean": pooled, "ratio_at_the_worst_width": worst}
        if network == "cifar_resnet20" and seconds["mean"] > MAX_SECONDS:
            problems.append(f"{network}: {seconds['mean']:.1f} CPU seconds, goal {MAX_SECONDS}")
        if drop["mean"] > MAX_DROP:
            problems.append(f"{network}: W8A8 loses {100 * drop['mean']:.2f} points, goal {100 * MAX_DROP}")
        if pooled > MAX_RATIO:
            problems.append(f"{network}: {pooled:.2f} times the KL of training images, goal {MAX_RATIO}")
    return found, problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["cifar_resnet20", "cifar_resnet56"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--n-kl", type=int, default=2000, help="test images the divergence is measured on")
    parser.add_argument("--n-accuracy", type=int, default=8000, help="test images of the accuracies")
    parser.add_argument("--sources", nargs="+", choices=["distilled", "few", "noise"], default=["distilled", "noise"])
    parser.add_argument("--work", type=Path, default=Path("runs/zero_shot"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "zero_shot.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = environment()
    rows = []
    for network in args.networks:
        for seed in args.seeds:
            file = args.work / f"{network}-{seed}-{args.n_kl}-{args.n_accuracy}.json"
            if not file.is_file():
                write_results(
                    file,
                    {"environment": environment(), **measure(network, seed, args.n_kl, args.n_accuracy, args.sources)},
                )
            rows.append(json.loads(file.read_text()))
            print(tables(rows[-1:]), file=sys.stderr, flush=True)
    found, problems = verdicts(rows)
    document = {"schema": "dyadiq.benchmark.zero-shot/1", "environment": start, "problems": problems}
    write_results(args.out, document | {"reached": found, "rows": rows})
    print(tables(rows))
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
