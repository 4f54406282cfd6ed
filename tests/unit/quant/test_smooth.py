"""Channels smoothed through concats and to several readers: the same function, alike ranges, and what stays."""

import pytest
import torch
from torch import nn

from dyadiq.core.errors import ConfigError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.format import Format
from dyadiq.core.plan import uniform_plan
from dyadiq.cost.facts import network_facts
from dyadiq.ir.capture import capture
from dyadiq.ir.passes import canonicalize
from dyadiq.quant.quantize import quantize
from dyadiq.quant.reconstruct import reconstruct_
from dyadiq.quant.smooth import follow_channels
from trainable import captured, samples_of

CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # float32 sums in another order


class Fires(nn.Module):
    """A stem of very different channels, read by two convolutions whose concat is pooled, flattened and read again."""

    shape = (3, 6, 6)

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.one, self.three = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 6, 3, padding=1, groups=2)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(90, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.cat([torch.relu(self.one(x)), torch.relu(self.three(x))], 1)
        return self.head(torch.flatten(self.pool(x), 1))


def fires(bits=8):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Fires().eval()
        with torch.no_grad():
            model.norm.weight.copy_(torch.logspace(-2, 2, 8))
            model.one.weight.mul_(torch.logspace(2, -2, 8).reshape(1, 8, 1, 1))
            model.three.weight[:3].mul_(torch.logspace(2, 0, 4).reshape(1, 4, 1, 1))
            model.three.weight[3:].mul_(torch.logspace(0, -2, 4).reshape(1, 4, 1, 1))
    config = QuantConfig(
        Format(8, signed=True, narrow=True, granularity="channel"), Format(8, range_method="minmax"), input_bits=16
    )
    graph = capture(model, (torch.zeros(1, *Fires.shape),))
    x = samples_of(Fires, 64)
    plan = uniform_plan(network_facts(canonicalize(graph), config), 16, bits)
    return quantize(graph, plan, [x], config=config).eval(), x


def outputs(module, x, mode):
    with torch.no_grad():
        return module.set_mode_(mode)(x)


def test_channels_are_followed_through_concat_pool_flatten_and_to_every_reader():
    made, read = follow_channels(fires()[0])
    stem, one, three = (made[name].tolist() for name in ("stem", "one", "three"))
    assert (stem, one, three) == (list(range(1, 9)), list(range(9, 13)), list(range(13, 19)))
    assert read["one"].tolist() == read["three"].tolist() == stem
    assert read["head"].tolist() == [number for number in one + three for _ in range(9)]
    assert set(made) == {"stem", "one", "three"}  # not the head, which the network answers with
    assert set(read) == {"one", "three", "head"}  # not the stem, which reads the network's input


def test_smoothed_network_computes_the_same_with_less_error_of_activations():
    module, x = fires()
    wanted, before = outputs(module, x, "float"), outputs(module, x, "fake")
    scale = float(module.quantizers_by_name()["relu"].scale)
    assert not reconstruct_(module, [x], ["smooth"]).notes
    torch.testing.assert_close(outputs(module, x, "float"), wanted, **CLOSE)
    assert float(module.quantizers_by_name()["relu"].scale) != scale  # calibrated again
    after = outputs(module, x, "fake")
    assert (after - wanted).square().mean() < 0.25 * (before - wanted).square().mean()


def test_channels_that_an_add_reads_stay():
    model, graph = captured("residual")
    x = samples_of(model, 32)
    module = quantize(graph, uniform_plan(network_facts(canonicalize(graph)), 8, 8), [x]).eval()
    made, read = follow_channels(module)
    assert set(made) == {"conv1", "layer1.0.conv1", "layer1.1.conv1"}  # convolutions alone read the stem
    assert set(read) == {"layer1.0.conv1", "layer1.0.down.0", "layer1.0.conv2", "layer1.1.conv2"}
    wanted = outputs(module, x, "float")
    reconstruct_(module, [x], ["smooth"])
    torch.testing.assert_close(outputs(module, x, "float"), wanted, **CLOSE)


def test_a_channel_that_is_never_seen_is_read_as_before():
    module, x = fires()
    tensors = module.model_tensors()
    with torch.no_grad():
        tensors["norm.weight"][3], tensors["norm.bias"][3] = 0.0, -1.0
        tensors["one.bias"].zero_()
        tensors["one.weight"][:, :3] = tensors["one.weight"][:, 4:] = 0.0  # so that its column alone is the weight
    wanted, before = outputs(module, x, "float"), tensors["one.weight"][:, 3].clone()
    reconstruct_(module, [x], ["smooth"])
    assert torch.isfinite(module.model_tensors()["one.weight"]).all()
    torch.testing.assert_close(module.model_tensors()["one.weight"][:, 3], before)
    torch.testing.assert_close(outputs(module, x, "float"), wanted, **CLOSE)


def test_smooth_comes_first_and_says_when_there_is_nothing_to_do():
    module, x = fires()
    with pytest.raises(ConfigError, match="smooth: the weights were changed by a method before it"):
        reconstruct_(module, [x], ["gptq", "smooth"])
    model, graph = captured("features")
    plan = uniform_plan(network_facts(canonicalize(graph)), 8, 8)
    module = quantize(graph, plan, [samples_of(model, 16)]).eval()
    notes = reconstruct_(module, [samples_of(model, 16)], ["smooth"]).notes
    assert notes == ("smooth: no channel is free between two layers; nothing to do.",)
