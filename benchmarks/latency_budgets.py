"""Networks under budgets of time: plans that `allocate` chooses on measured times, and what they take and answer.

    python benchmarks/latency_budgets.py [--networks NAME ...] [--budgets FRACTION ...] [--json PATH] [--table]

Weights of 4 or 8 bits, activations of 6 or 8, sensitivities by the forward Gram of 32 images, times of layers measured
on this machine's engine with the fastest algorithm of each. A budget is a fraction of what the table says of W8A8. Each
plan is calibrated on 64 images and compiled with measured algorithms; its time and that of W8A8 are taken in turns, one
image in one thread, least of 30 rounds. Accuracy on images of the ImageNet sample that nothing was chosen on, by the
engine, whose integers were compared with the reference on two of them; ResNet-18 has random weights, for its times.

Writes benchmarks/results/latency_budgets.json, one entry a network; a run adds to what is there.
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
from dyadiq.allocation import allocate
from dyadiq.core.plan import uniform_plan
from dyadiq.engine import EngineProgram, write_engine_file
from dyadiq.engine.costs import ENGINE_COSTS
from dyadiq.engine.measure import compile_measured, time_wholes
from dyadiq.ir.passes import canonicalize
from dyadiq.zoo import PRETRAINED, build_model, load_dataset

RESULTS = Path(__file__).parents[1] / "benchmarks/results/latency_budgets.json"
NETWORKS = {"squeezenet1_1": "caffe", "resnet18": "torchvision"}  # and how images are prepared for it
BITS, ACTIVATION_BITS = (4, 8), (6, 8)
N_TEST, ROUNDS = 400, 30


def programs(network, budgets, folder):
    """The table of times, and name, plan, predicted time and compiled program of W8A8 and of every budget."""
    preparation = NETWORKS[network]
    data = load_dataset("imagenet_sample", n_test=N_TEST, preparation=preparation)
    model = build_model(network, pretrained=network in PRETRAINED).eval()
    graph = dq.capture(model, torch.from_numpy(data.train.x[:1]))
    table = dq.analyze(graph, [data.train.x[i : i + 8] for i in range(0, 32, 8)], bits=(4, 6, 8), method="gram")
    times = ENGINE_COSTS["latency_us"](canonicalize(graph), table.facts, BITS, ACTIVATION_BITS, algorithms="measured")
    full = uniform_plan(table.facts, 8, 8)
    plans = {"W8A8": full}
    for budget in budgets:
        limit = budget * times.total(full.bits) / 1000
        plans[f"{budget:g}"] = allocate(
            table, {"latency_us": limit}, bits=BITS, activation_bits=ACTIVATION_BITS, costs={"latency_us": times},
            front_points=0,
        )  # fmt: skip
    found = {}
    for name, plan in plans.items():
        program = dq.lower(dq.quantize(graph, plan, [data.train.x[i : i + 16] for i in range(0, 64, 16)]))
        path = folder / f"{name}.dyqe"
        compiled = compile_measured(program)
        write_engine_file(compiled, path)
        engine, feed = EngineProgram(path), {program.graph.inputs[0]: data.test.x[:2]}
        expected = dq.run_reference(program, feed)
        assert all(np.array_equal(engine.run(feed)[key], expected[key]) for key in expected)
        (codes,) = engine.run({program.graph.inputs[0]: data.test.x}).values()
        found[name] = {
            "predicted_us": times.total(plan.bits) / 1000,
            "weights_of_4": sum(plan.bits[layer.weight] == 4 for layer in table.facts.layers),
            "layers": len(table.facts.layers),
            "activations_of_6": sum(plan.bits[d.name] == 6 for d in table.facts.decisions if d.kind == "activation"),
            "loss": plan.certificate.objective if plan.certificate else None,
            "gap": plan.certificate.gap if plan.certificate else None,
            "accuracy": float((codes.argmax(axis=1) == data.test.y).mean()) if network in PRETRAINED else None,
            "file_bytes": path.stat().st_size,
            "compiled": compiled,
        }
    return times, found


def measure(network, budgets, folder):
    start = time.perf_counter()
    times, found = programs(network, budgets, folder)
    wholes = time_wholes([row.pop("compiled") for row in found.values()], rounds=ROUNDS)
    for row, whole_us in zip(found.values(), wholes, strict=True):
        row["measured_us"] = whole_us
    return {
        "plans": found,
        "measurement": dict(times.measurement),
        "n_test": N_TEST,
        "seconds": round(time.perf_counter() - start),
        "environment": environment(),
    }


def table(results):
    lines = [
        "| network, budget | predicted | measured | of W8A8 | weights of 4 bits | accuracy | file |",
        "|---|---|---|---|---|---|---|",
    ]
    for network, entry in results.items():
        full = entry["plans"]["W8A8"]["measured_us"]
        for name, row in entry["plans"].items():
            budget = "none: W8A8" if name == "W8A8" else f"{name} of W8A8"
            accuracy = "random weights" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f} %"
            lines.append(
                f"| {network}, {budget} | {row['predicted_us']:,.0f} µs | {row['measured_us']:,.0f} µs | "
                f"{row['measured_us'] / full:.2f} | {row['weights_of_4']} of {row['layers']} layers | {accuracy} | "
                f"{row['file_bytes'] / 1e6:.2f} MB |"
            )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=tuple(NETWORKS), choices=tuple(NETWORKS))
    parser.add_argument("--budgets", type=float, nargs="+", default=(0.9, 0.8))
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table of the results, measure nothing")
    arguments = parser.parse_args()
    results = json.loads(arguments.json.read_text()) if arguments.json.is_file() else {}
    for network in () if arguments.table else arguments.networks:
        with tempfile.TemporaryDirectory() as folder:
            results[network] = measure(network, arguments.budgets, Path(folder))
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
