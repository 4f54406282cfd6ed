"""Seconds of one training step of quantized ResNet-20, beside float. Run: python benchmarks/qat_step.py

Forward and backward of 64 CIFAR-sized images on one thread, 4-bit weights and activations: the float network with
batch norms frozen, the QuantModule with batch norms frozen and live, in float32 and bfloat16. Rounds are interleaved
and the least processor time of each is taken, so that ratios mean something on a busy machine. Random images and
weights: time does not depend on them. Results in results/qat_step.json.
"""

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from environment import environment
from recipe_runs import write_results

import dyadiq as dq
from dyadiq.core.plan import uniform_plan
from dyadiq.cost.facts import network_facts
from dyadiq.ir.passes import canonicalize
from dyadiq.zoo import build_model

BATCH = 64


def step_seconds(network, x, y, narrow):
    """Return the processor seconds of one step."""
    started = time.process_time()
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        logits = network(x)
    F.cross_entropy(logits.float(), y).backward()
    return time.process_time() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "qat_step.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(BATCH, 3, 32, 32, generator=generator), torch.arange(BATCH) % 10
    model = build_model("cifar_resnet20").eval()
    graph = dq.capture(model, x[:2])
    plan = uniform_plan(network_facts(canonicalize(graph)), 4, 4)
    frozen, live = (dq.quantize(graph, plan, [x], freeze_bn=freeze).train() for freeze in (True, False))
    networks = {"float": model, "frozen": frozen, "live": live}
    cases = [(name, narrow) for narrow in (False, True) for name in networks]
    seconds = {case: [] for case in cases}
    for _ in range(args.rounds + 1):
        for name, narrow in cases:
            seconds[name, narrow].append(step_seconds(networks[name], x, y, narrow))
    base = min(seconds["float", False][1:])
    rows = [
        {
            "network": name,
            "precision": "bfloat16" if narrow else "float32",
            "seconds": sorted(seconds[name, narrow][1:]),  # the first round warms up
            "ratio_to_float": min(seconds[name, narrow][1:]) / base,
        }
        for name, narrow in cases
    ]
    write_results(args.out, {"schema": "dyadiq.benchmark.qat-step/1", "environment": environment(), "rows": rows})
    print("| network | precision | least seconds of a step | times float32 float |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['network']} | {row['precision']} | {row['seconds'][0]:.3f} | {row['ratio_to_float']:.2f} |")


if __name__ == "__main__":
    main()
