"""Quantized modules of the small models, in the configurations that matter. Used by the tests of `quant.module`."""

from dataclasses import replace

import torch
from torch import nn

from dyadiq.core.facts import QuantConfig
from dyadiq.core.format import Format
from dyadiq.core.plan import uniform_plan
from dyadiq.cost.facts import network_facts
from dyadiq.ir.capture import capture
from dyadiq.ir.passes import canonicalize
from dyadiq.quant.quantize import quantize
from trainable import captured, samples_of

__all__ = ["CONFIGS", "FLOAT_CLOSE", "POW2_CONFIGS", "Plain", "plain", "quantized"]

FLOAT_CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # float32 sums in another order
CONFIGS = {
    "channel": QuantConfig(),
    "tensor": QuantConfig(weight=Format(8, signed=True)),
    "asymmetric": QuantConfig(Format(8, "asymmetric", granularity="channel"), Format(8, "asymmetric")),
    "group": QuantConfig(weight=Format(8, signed=True, granularity="group", group_size=2)),
    "percentile": QuantConfig(
        Format(8, signed=True, granularity="channel", range_method="percentile"), Format(8, range_method="percentile")
    ),
}
POW2_CONFIGS = {
    "channel": QuantConfig(
        Format(8, signed=True, narrow=True, granularity="channel", scale="pow2"), Format(8, scale="pow2")
    ),
    "asymmetric": QuantConfig(
        Format(8, "asymmetric", granularity="channel", scale="pow2"), Format(8, "asymmetric", scale="pow2")
    ),
    "group": QuantConfig(
        Format(8, signed=True, granularity="group", group_size=2, scale="pow2"), Format(8, scale="pow2")
    ),
}


def quantized(name, bits=(8, 8), config=None, n=64, **options):
    model, graph = captured(name)
    config = QuantConfig() if config is None else config
    if name == "joins" and config.weight.granularity == "group":  # its depthwise norm has one weight a channel
        config = replace(config, weight=replace(config.weight, group_size=1))
    plan = uniform_plan(network_facts(canonicalize(graph), config), *bits)
    x = samples_of(model, n)
    return model, quantize(graph, plan, [x[: n // 2], x[n // 2 :]], config=config, **options), x


class Plain(nn.Module):
    """A batch norm without affine parameters, one with a cumulative average, one with a momentum of its own."""

    shape = (3, 4, 4)

    def __init__(self):
        super().__init__()
        self.conv, self.bn1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False, momentum=0.3)
        self.fc, self.bn2 = nn.Linear(16, 5), nn.BatchNorm1d(5, momentum=None)
        self.bn1.num_batches_tracked.fill_(7)

    def forward(self, x):
        return self.bn2(self.fc(torch.flatten(self.bn1(self.conv(x)), 1)))


def plain(**options):
    model = Plain().eval()
    x = samples_of(model, 24)
    graph = capture(model, (x,))
    plan = uniform_plan(network_facts(canonicalize(graph)), 8, 8)
    return model, quantize(graph, plan, [x], **options), x
