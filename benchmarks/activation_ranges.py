"""Which activation's range costs what: one quantizer on at a time, with its range made smaller and larger.

Run: python benchmarks/activation_ranges.py [NETWORK] [--calibration N] [--images N] [--factors F ...]

Prints, for every activation decision of a network of `zoo_networks.py` in 8 bits (outputs in 16), the divergence
KL(float || quantized) on validation images, nats an image, for every factor on the calibrated scale. Nothing else is
quantized. Outputs come first.
Fake-quantized; deterministic. Calibrated on the first training images of seed 0.
"""

import argparse

import torch
from zoo_networks import CASES

import dyadiq as dq
from dyadiq.quant.fake_quant import ActivationQuantizer
from dyadiq.zoo import build_model, load_dataset


def divergence(module, images, wanted):
    with torch.no_grad():
        got = torch.cat([module(x) for x in images.split(24)]).log_softmax(1)
    return float((wanted.exp() * (wanted - got)).sum(1).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", nargs="?", default="squeezenet1_1", choices=CASES)
    parser.add_argument("--calibration", type=int, default=48)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--factors", type=float, nargs="+", default=[0.5, 1.0, 1.5])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    case = CASES[arguments.network]
    data = load_dataset(case.data, seed=0, **case.options)
    model = build_model(arguments.network, pretrained=True).eval()
    graph = dq.capture(model, torch.from_numpy(data.train.x[:2]))
    plan = dq.uniform_plan(dq.network_facts(dq.canonicalize(graph)), 8, 8)
    calibration = torch.from_numpy(data.train.x[: arguments.calibration]).split(24)
    module = dq.quantize(graph, plan, list(calibration)).eval().set_mode_("fake")
    images = torch.from_numpy(data.validation.x[: arguments.images])
    with torch.no_grad():
        wanted = torch.cat([model(x) for x in images.split(24)]).double().log_softmax(1)
    quantizers = module.quantizers_by_name()
    for quantizer in quantizers.values():
        quantizer.enabled = False
    activations = {n: q for n, q in quantizers.items() if isinstance(q, ActivationQuantizer)}
    for name, quantizer in reversed(activations.items()):
        calibrated, costs = quantizer.scale.detach().clone(), []
        quantizer.enabled = True
        for factor in arguments.factors:
            quantizer.scale.data.copy_(factor * calibrated)
            costs.append(divergence(module, images, wanted))
        quantizer.scale.data.copy_(calibrated)
        quantizer.enabled = False
        print(name, " ".join(f"x{f:g}: {c:.2g}" for f, c in zip(arguments.factors, costs, strict=True)), flush=True)


if __name__ == "__main__":
    main()
