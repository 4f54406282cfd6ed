"""Per-layer Hessian traces of ResNet-20 on one batch: PyHessian's loop over layers beside the exact Gauss-Newton trace.

    DYADIQ_DATA=... python benchmarks/curvature_vs_pyhessian.py

Needs pyhessian 0.1 (pip install --no-deps pyhessian).

PyHessian knows whole models only, so that the loop freezes all but one weight, builds its `hessian` object and draws
its probes; what is timed is its own `trace`, less what a call without probes costs. From the spread of the probes of a
layer follows how many it takes for a standard error of 2 % of the trace; the exact trace (method `trace`) has none.
Batch norms are folded for both. In this network both are the trace of the same matrix, since it is piecewise linear
(tests/unit/curvature/test_trace.py): the mean of the probes is stored beside the exact number.

All times are CPU seconds of one thread (a busy machine does not change them much). A seed draws the batch.
"""

import argparse
import gc
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from environment import environment

import dyadiq as dq
from dyadiq.curvature import analyze
from dyadiq.zoo import build_model, load_dataset
from dyadiq.zoo.pretrained import load_pretrained_

RESULTS = Path(__file__).parent / "results" / "curvature_vs_pyhessian.json"
TARGET = 0.02


def folded(model):
    """Return the model with its batch norms folded into its convolutions, as the graph has them."""
    names = {name: type(module) for name, module in model.named_modules()}
    for name, kind in names.items():
        if kind is torch.nn.BatchNorm2d:
            parent_name, _, own = name.rpartition(".")
            parent = model.get_submodule(parent_name)
            conv = own.replace("bn", "conv")
            fused = torch.nn.utils.fusion.fuse_conv_bn_eval(parent.get_submodule(conv), parent.get_submodule(own))
            setattr(parent, conv, fused)
            setattr(parent, own, torch.nn.Identity())
    return model


def peer(model, name, x, y, n_probes):
    """Return PyHessian's probes of one weight, and the CPU seconds of one probe and of the set-up."""
    from pyhessian import hessian

    for key, parameter in model.named_parameters():
        parameter.requires_grad_(key == name)
    begin = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It warns of the reference cycle that it leaves.
        found = hessian(model, torch.nn.CrossEntropyLoss(), data=(x, y), cuda=False)
        ready = time.process_time()
        probes = found.trace(maxIter=n_probes, tol=0.0)
    end = time.process_time()
    model.zero_grad(set_to_none=True)
    del found
    gc.collect()
    return [float(p) for p in probes], (end - ready) / n_probes, ready - begin


def one_seed(seed, n_images, n_probes, train):
    order = np.random.default_rng(seed).permutation(len(train.x))[:n_images]
    x, y = torch.from_numpy(train.x[order]), torch.from_numpy(train.y[order])
    model = load_pretrained_(build_model("cifar_resnet20"), "cifar_resnet20").eval()
    graph = dq.capture(model, (x[:1],))
    model = folded(model)
    analyze(graph, [x[:8]], "trace", bits=(8,), activation_bits=())  # Warm up.
    begin = time.process_time()
    table = analyze(graph, [x], "trace", bits=(8,), activation_bits=())
    exact_s = time.process_time() - begin
    torch.manual_seed(seed)  # PyHessian draws from the global generator.
    layers = []
    for decision in table.facts.decisions:
        if decision.kind != "weight":
            continue
        probes, probe_s, setup_s = peer(model, decision.name, x, y, n_probes)
        mean, spread = float(np.mean(probes)), float(np.std(probes, ddof=1))
        needed = (spread / abs(mean) / TARGET) ** 2
        layers.append(
            {
                "name": decision.name,
                "exact": table.curvature[decision.name].value * decision.n_elements,
                "probes_mean": mean,
                "probes_std": spread,
                "probe_s": probe_s,
                "setup_s": setup_s,
                "probes_for_target": needed,
                "peer_s": setup_s + needed * probe_s,
            }
        )
        print(seed, decision.name, f"{probe_s:.3f} s a probe, {needed:.0f} probes", flush=True)
    one_round = sum(layer["probe_s"] for layer in layers)
    needed = [layer["probes_for_target"] for layer in layers]
    total = sum(layer["peer_s"] for layer in layers)
    return {
        "seed": seed,
        "exact_s": exact_s,
        "peer_total_s": total,
        "ratio_total": total / exact_s,
        "ratio_if_all_were_the_median_layer": float(np.median(needed)) * one_round / exact_s,
        "ratio_if_all_were_the_worst_layer": max(needed) * one_round / exact_s,
        "layers": layers,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--probes", type=int, default=14)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train = load_dataset("cifar10", n_train=2000, n_validation=1000).train
    runs = []
    for seed in arguments.seeds:
        runs.append(one_seed(seed, arguments.images, arguments.probes, train))
        ratios = [run["ratio_total"] for run in runs]
        print({k: v for k, v in runs[-1].items() if k != "layers"}, flush=True)
        summary = {
            "images": arguments.images,
            "probes": arguments.probes,
            "target_relative_stderr": TARGET,
            "ratio_mean": float(np.mean(ratios)),
            "ratio_std": float(np.std(ratios, ddof=1)) if len(ratios) > 1 else None,
        }
        RESULTS.write_text(json.dumps({"environment": environment(), **summary, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
