"""Programs of small networks with their data, lowered from torch: what targets for small machines are compared on."""

from functools import cache

import numpy as np
import torch

import dyadiq as dq
from dyadiq.core.plan import uniform_plan
from dyadiq.cost.facts import network_facts
from dyadiq.ir.passes import canonicalize
from dyadiq.zoo import build_model, load_dataset

__all__ = ["NETWORKS", "embedded"]

NETWORKS = ("digits", "jets", "cnn")


@cache
def embedded(name):
    """A program of a network with random weights, and samples by input name: digits are real ones."""
    torch.manual_seed(0)
    if name == "digits":
        model, x = build_model("digits_resnet", width=8), load_dataset("digits").test.x[:24]
    elif name == "jets":
        model, x = build_model("jet_tagger"), np.random.default_rng(0).normal(size=(24, 16)).astype(np.float32)
    else:
        model, x = (
            build_model("cifar_resnet20"),
            np.random.default_rng(1).normal(size=(2, 3, 32, 32)).astype(np.float32),
        )
    x = np.asarray(x, dtype=np.float32)
    graph = dq.capture(model.eval(), torch.from_numpy(x[:1]))
    bits = {"digits": (4, 6), "jets": (6, 8), "cnn": (8, 8)}[name]
    program = dq.lower(dq.quantize(graph, uniform_plan(network_facts(canonicalize(graph)), *bits), [x]))
    return program, {program.graph.inputs[0]: x}
