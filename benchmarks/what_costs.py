"""What 8 bits cost a network of `zoo_networks.py`: weights, activations, and what each way of rounding leaves.

Run: python benchmarks/what_costs.py [NETWORK] [--ways WAY ...]    (--table: results/what_costs.json as Markdown)

W8A8; KL(float || quantized) in nats an image on the validation images of seed 0, which no accuracy is measured on for
that seed, all quantizers on, those of weights alone, those of activations alone. A way is methods joined by "+", a
colon, and the damping of GPTQ; "nearest" has none. Fake-quantized; ranges as `zoo_networks.py` has them; deterministic.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from activation_ranges import divergence
from environment import environment
from zoo_networks import CASES

import dyadiq as dq
from dyadiq.core.facts import QuantConfig
from dyadiq.quant.fake_quant import WeightQuantizer
from dyadiq.quant.reconstruct import reconstruct_
from dyadiq.quant.reconstruction import ReconstructConfig
from dyadiq.rounding import RoundingConfig
from dyadiq.zoo import build_model, load_dataset

RESULTS = Path(__file__).parent / "results/what_costs.json"
WAYS = ("nearest", "gptq:0.01", "smooth+gptq:0.01", "smooth+gptq:0.3")


def measure(network, ways):
    case = CASES[network]
    data = load_dataset(case.data, seed=0, **case.options)
    model = build_model(network, pretrained=True).eval()
    graph = dq.capture(model, torch.from_numpy(data.train.x[:2]))
    config = QuantConfig()
    config = replace(config, activation=replace(config.activation, scheme=case.scheme, range_method=case.ranges))
    plan = dq.uniform_plan(dq.network_facts(dq.canonicalize(graph), config), 8, 8)
    batches, images = list(torch.from_numpy(data.train.x).split(64)), torch.from_numpy(data.validation.x)
    with torch.no_grad():
        wanted = torch.cat([model(x) for x in images.split(24)]).double().log_softmax(1)
    for way in ways:
        module = dq.quantize(graph, plan, batches, config=config).eval().set_mode_("fake")
        methods, _, damping = way.partition(":")
        if methods != "nearest":
            rounding = RoundingConfig(damping=float(damping))
            reconstruct_(module, batches, methods.split("+"), config=ReconstructConfig(rounding=rounding))
        row = {"network": network, "way": way, "n_images": len(images), "all": divergence(module, images, wanted)}
        quantizers = module.quantizers_by_name().values()
        for name, weights in (("weights", True), ("activations", False)):
            for quantizer in quantizers:
                quantizer.enabled = isinstance(quantizer, WeightQuantizer) == weights
            row[name] = divergence(module, images, wanted)
        yield row


def table(document):
    """Return Markdown."""
    lines = ["| network | way | all | weights alone | activations alone |", "|---|---|---|---|---|"]
    for row in document["rows"]:
        values = " | ".join(f"{row[name]:.4f}" for name in ("all", "weights", "activations"))
        lines.append(f"| {row['network']} | {row['way']} | {values} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", nargs="?", default="squeezenet1_1", choices=CASES)
    parser.add_argument("--ways", nargs="+", default=WAYS)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.table:
        document = {"environment": environment(), "rows": []}
        for row in measure(arguments.network, arguments.ways):
            document["rows"].append(row)
            RESULTS.write_text(json.dumps(document, indent=1) + "\n")
            print(row, flush=True)
    print(table(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
