"""Networks of the zoo at full size with their trained weights: float and integer accuracy, and equality.

    python benchmarks/zoo_networks.py [NAME ...] [--bits B] [--seeds S ...] [--test N] [--verify N] [--threads N]

Post-training, activations of 8 bits, ranges by squared error on the calibration images. Weights of 8 bits, or of B
bits on average: the forward Gram of GPTQ-rounded candidates of 2 to 8 bits, exact allocation; weights rounded by GPTQ
either way. SqueezeNet, which has no batch norm, and large activations that are few but matter: ranges by the extremes,
channels smoothed, GPTQ with more damping; chosen on validation images of seed 0 and on PASCAL VOC's. Accuracy on test
images that nothing was chosen on; a seed draws the split. Every network is also compared integer for integer with
`exact` and `onnx` on a few test images. Writes benchmarks/results/zoo_networks.json, one entry a network, width and
seed; a run adds to what is there. Deterministic but for the seconds.
The ImageNet sample looks like training images: its accuracy is no validation accuracy.
"""

import argparse
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from environment import environment

import dyadiq as dq
from dyadiq.core.facts import QuantConfig
from dyadiq.core.plan import uniform_plan
from dyadiq.cost.facts import network_facts
from dyadiq.ir.passes import canonicalize
from dyadiq.pipeline.evaluate import evaluate_program
from dyadiq.quant.candidates import rounded_candidates
from dyadiq.quant.reconstruct import reconstruct_
from dyadiq.quant.reconstruction import ReconstructConfig
from dyadiq.rounding import RoundingConfig
from dyadiq.train import evaluate
from dyadiq.zoo import build_model, load_dataset

RESULTS = Path(__file__).parent / "results/zoo_networks.json"
WIDTHS, N_SENSITIVITY = (2, 3, 4, 5, 6, 8), 64


@dataclass(frozen=True)
class Case:
    """A network with trained weights and its data."""

    data: str
    options: dict = field(default_factory=dict)
    scheme: str = "symmetric"
    ranges: str = "mse"
    smooth: bool = False
    damping: float = RoundingConfig().damping


CIFAR = {"n_train": 512, "n_validation": 500}
CASES = {
    "cifar_resnet20": Case("cifar10", CIFAR),
    "cifar_resnet56": Case("cifar10", CIFAR),
    "squeezenet1_1": Case("imagenet_sample", {"preparation": "caffe"}, ranges="minmax", smooth=True, damping=0.3),
    "tf_mobilenet_v1": Case("imagenet_sample", {"preparation": "tensorflow", "size": 160}, "asymmetric"),
    "tf_mobilenet_v2": Case("imagenet_sample", {"preparation": "tensorflow"}, "asymmetric"),
}


def smoothed(graph, facts, batches, config):
    """Return the graph with the channels of activations given alike ranges."""
    module = dq.quantize(graph, uniform_plan(facts, 8, 8), batches, config=config)
    reconstruct_(module, batches, ["smooth"])
    return module.folded_graph()


def average_plan(graph, batches, bits, config, rounding, seed):
    """Return the plan of an average width."""
    candidates = rounded_candidates(graph, batches, WIDTHS, config=config, rounding=rounding, seed=seed)
    table = dq.analyze(
        graph,
        batches,
        bits=WIDTHS,
        activation_bits=(8,),
        config=config,
        seed=seed,
        max_samples=N_SENSITIVITY,
        candidates=candidates,
    )
    budget = {"weight_bits": f"{100 * bits / 32}%"}
    return dq.allocate(table, budget, bits=WIDTHS, activation_bits=(8,), front_points=0)


def measure(name, bits, seed, n_test, n_verify):
    case = CASES[name]
    data = load_dataset(case.data, seed=seed, **case.options)
    test = data.test if n_test is None else data.test.take(n_test)
    model = build_model(name, pretrained=True).eval()
    start = time.perf_counter()
    graph = dq.capture(model, torch.from_numpy(data.train.x[:2]))
    config = QuantConfig()
    config = replace(config, activation=replace(config.activation, scheme=case.scheme, range_method=case.ranges))
    facts = network_facts(canonicalize(graph), config)
    batches = [data.train.x[i : i + 64] for i in range(0, len(data.train), 64)]
    rounding = RoundingConfig(damping=case.damping)
    if case.smooth:
        graph = smoothed(graph, facts, batches, config)
    plan = uniform_plan(facts, 8, 8) if bits == 8 else average_plan(graph, batches, bits, config, rounding, seed)
    module = dq.quantize(graph, plan, batches, config=config)
    reconstruct_(module, batches, ["gptq"], config=ReconstructConfig(rounding=rounding), seed=seed)
    program = dq.lower(module)
    seconds = time.perf_counter() - start
    results = dq.verify(program, test.x[:n_verify], against=["exact", "onnx"])
    sizes = {d.name: d.n_elements for d in facts.decisions if d.kind == "weight"}
    row = {
        "network": name,
        "seed": seed,
        "data": {"name": data.name, "options": case.options, "sha256": data.sha256},
        "scheme": case.scheme,
        "ranges": case.ranges,
        "methods": ["smooth", "gptq"] if case.smooth else ["gptq"],
        "damping": case.damping,
        "n_calibration": len(data.train),
        "n_test": len(test),
        "mean_weight_bits": sum(plan.bits[k] * n for k, n in sizes.items()) / sum(sizes.values()),
        "float_accuracy": evaluate(model, test, batch_size=32).accuracy,
        "integer_accuracy": evaluate_program(program, test),
        "verify": {k: {"compared": r.compared, "mismatches": r.mismatches} for k, r in results.items()},
        "quantize_seconds": round(seconds, 1),
        "operators": sorted({node.op for node in program.graph.nodes}),
        "kind": "measured",
    }
    return row | {"drop_points": round(100 * (row["float_accuracy"] - row["integer_accuracy"]), 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--bits", type=float, default=8, help="average width of weights; 8: uniform")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--test", type=int, help="test images (default: all)")
    parser.add_argument("--verify", type=int, default=4, help="test images to compare executors on")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.names:
        for seed in arguments.seeds:
            row = measure(name, arguments.bits, seed, arguments.test, arguments.verify)
            document = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"networks": {}}
            document["networks"][f"{name} W{arguments.bits:g}A8 seed {seed}"] = row | {"environment": environment()}
            RESULTS.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
            shown = (name, seed, row["n_test"], f"{row['float_accuracy']:.4f}", f"{row['integer_accuracy']:.4f}")
            print(*shown, {k: v["mismatches"] for k, v in row["verify"].items()}, flush=True)
            assert not any(v["mismatches"] for v in row["verify"].values())


if __name__ == "__main__":
    np.set_printoptions(precision=4)
    main()
