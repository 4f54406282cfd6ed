"""Networks of the zoo at full size with their trained weights: float and W8A8 integer accuracy, and equality.

    python benchmarks/zoo_networks.py [NAME ...] [--test N] [--verify N] [--threads N]

Post-training, uniform W8A8, ranges by squared error on the calibration images; accuracy on test images that nothing was
chosen on. Every network is also compared integer for integer with `exact` and `onnx` on a few test images.
Writes benchmarks/results/zoo_networks.json, one entry a network; a run adds to what is there. Deterministic but for
the seconds. The ImageNet sample looks like training images: its accuracy is no validation accuracy.
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
from dyadiq.train import evaluate
from dyadiq.zoo import build_model, load_dataset

RESULTS = Path(__file__).parent / "results/zoo_networks.json"


@dataclass(frozen=True)
class Case:
    """A network with trained weights and its data."""

    data: str
    options: dict = field(default_factory=dict)
    scheme: str = "symmetric"


CIFAR = {"n_train": 512, "n_validation": 500}
CASES = {
    "cifar_resnet20": Case("cifar10", CIFAR),
    "cifar_resnet56": Case("cifar10", CIFAR),
    "squeezenet1_1": Case("imagenet_sample", {"preparation": "caffe"}),
    "tf_mobilenet_v1": Case("imagenet_sample", {"preparation": "tensorflow", "size": 160}, "asymmetric"),
    "tf_mobilenet_v2": Case("imagenet_sample", {"preparation": "tensorflow"}, "asymmetric"),
}


def measure(name, n_test, n_verify):
    case = CASES[name]
    data = load_dataset(case.data, **case.options)
    test = data.test if n_test is None else data.test.take(n_test)
    model = build_model(name, pretrained=True).eval()
    start = time.perf_counter()
    graph = dq.capture(model, torch.from_numpy(data.train.x[:2]))
    config = QuantConfig()
    config = replace(config, activation=replace(config.activation, scheme=case.scheme))
    plan = uniform_plan(network_facts(canonicalize(graph), config), 8, 8)
    batches = [data.train.x[i : i + 64] for i in range(0, len(data.train), 64)]
    program = dq.lower(dq.quantize(graph, plan, batches, config=config))
    seconds = time.perf_counter() - start
    results = dq.verify(program, test.x[:n_verify], against=["exact", "onnx"])
    row = {
        "data": {"name": data.name, "options": case.options, "sha256": data.sha256},
        "scheme": case.scheme,
        "n_calibration": len(data.train),
        "n_test": len(test),
        "float_accuracy": evaluate(model, test).accuracy,
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
    parser.add_argument("--test", type=int, help="test images (default: all)")
    parser.add_argument("--verify", type=int, default=4, help="test images to compare executors on")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    document = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"networks": {}}
    for name in arguments.names:
        row = measure(name, arguments.test, arguments.verify)
        document["networks"][name] = row | {"environment": environment()}
        RESULTS.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
        shown = (name, row["n_test"], f"{row['float_accuracy']:.4f}", f"{row['integer_accuracy']:.4f}")
        print(*shown, {k: v["mismatches"] for k, v in row["verify"].items()}, flush=True)
        assert not any(v["mismatches"] for v in row["verify"].values())


if __name__ == "__main__":
    np.set_printoptions(precision=4)
    main()
