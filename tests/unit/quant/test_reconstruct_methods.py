"""Every method of the registry on its own: what it promises, exactly where it can be said exactly."""

import numpy as np
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
from dyadiq.quant.blocks import find_blocks
from dyadiq.quant.equalize import find_pairs
from dyadiq.quant.fold import fold
from dyadiq.quant.learned_rounding import SoftRounding
from dyadiq.quant.quantize import quantize
from dyadiq.quant.reconstruct import METHODS, reconstruct_
from dyadiq.quant.reconstruction import ReconstructConfig, Reconstruction
from dyadiq.quant.walk import Walk, read_inputs
from dyadiq.quant.write_back import check_codes, own_layers
from trainable import MODELS, captured, randomize_batchnorm_, samples_of

FAST = ReconstructConfig(iterations=60)
EQUAL = {"rtol": 1e-4, "atol": 1e-4}  # float32 sums in another order


class Chain(nn.Module):
    """Channels of very different ranges: convolution, depthwise, 1x1, pooled and flattened to a linear layer."""

    shape = (3, 6, 6)

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.point, self.pool, self.head = nn.Conv2d(8, 4, 1), nn.MaxPool2d(2), nn.Linear(36, 5)

    def forward(self, x):
        x = torch.relu(self.norm2(self.depthwise(torch.relu(self.norm(self.stem(x))))))
        return self.head(torch.flatten(self.pool(torch.relu(self.point(x))), 1))


def chain(bits=4, granularity="tensor"):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Chain().eval()
    randomize_batchnorm_(model)
    with torch.no_grad():
        model.norm.weight.mul_(torch.logspace(-1.5, 1.5, 8))
        model.norm.bias.mul_(torch.logspace(-1.5, 1.5, 8))
        model.norm2.bias[2] = 9.0  # above three deviations: absorbed
        model.norm2.weight[2] = 0.5
    graph = capture(model, (torch.zeros(1, *Chain.shape),))
    config = QuantConfig(Format(8, signed=True, narrow=True, granularity=granularity), Format(8))
    x = samples_of(Chain, 128)
    plan = uniform_plan(network_facts(canonicalize(graph), config), bits, 8)
    return quantize(graph, plan, [x], config=config).eval(), x


def quantized(name, bits=3):
    model, graph = captured(name)
    x = samples_of(model, 128)
    plan = uniform_plan(network_facts(canonicalize(graph), QuantConfig()), bits, 8)
    return quantize(graph, plan, [x]).eval(), x


def outputs(module, x, mode="fake"):
    with torch.no_grad():
        return module.set_mode_(mode)(x)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("equalize", "batch_norm")])
def test_outputs_come_closer_to_the_float_network(method):
    module, x = quantized("residual")
    wanted = outputs(module, x, "float")
    before = (outputs(module, x) - wanted).square().mean()
    reconstruct_(module, [x], [method], config=FAST)
    assert (outputs(module, x) - wanted).square().mean() < before
    quants = module.weight_quants()
    for layer in own_layers(module)[0].values():
        assert check_codes(module, layer, quants[layer.weight].codes) == 0


def test_equalized_network_computes_the_same_with_less_different_ranges():
    module, x = chain()
    wanted = outputs(module, x, "float")
    fake_error = (outputs(module, x) - wanted).square().mean()
    assert [(p.first.node.name, p.second.node.name, p.repeat) for p in find_pairs(module)] == [
        ("stem", "depthwise", 1), ("depthwise", "point", 1), ("point", "head", 9)]  # fmt: skip

    def spread():
        tensors = {n: t.detach() for n, t in module.model_tensors().items()}
        ranges = fold(module.layers["stem"], tensors)[0].flatten(1).abs().amax(1)
        return float(ranges.max() / ranges.min())

    before = spread()
    absorbed = module.model_tensors()["norm2.bias"][2].item()
    result = reconstruct_(module, [x], ["equalize"])
    assert not result.notes
    torch.testing.assert_close(outputs(module, x, "float"), wanted, rtol=1e-3, atol=1e-3)
    assert spread() < before / 3
    assert (outputs(module, x) - wanted).square().mean() < 0.75 * fake_error
    weight = module.model_tensors()["norm2.weight"][2].item()
    assert module.model_tensors()["norm2.bias"][2].item() / weight < absorbed / 0.5  # more than factors moved


def test_equalize_alone_changes_nothing_in_a_residual_network_but_inside_its_blocks():
    module, x = quantized("residual", bits=8)
    wanted = outputs(module, x, "float")
    pairs = [(p.first.node.name, p.second.node.name) for p in find_pairs(module)]
    assert pairs == [("layer1.0.conv1", "layer1.0.conv2"), ("layer1.1.conv1", "layer1.1.conv2")]
    reconstruct_(module, [x], ["equalize"])
    torch.testing.assert_close(outputs(module, x, "float"), wanted, **EQUAL)


def test_equalize_comes_first_and_says_when_there_is_nothing_to_do():
    module, x = chain()
    with pytest.raises(ConfigError, match="Put 'equalize' first"):
        reconstruct_(module, [x], ["gptq", "equalize"])
    module, x = quantized("features")
    before = {n: t.clone() for n, t in module.state_dict().items()}
    assert reconstruct_(module, [x], ["equalize"]).notes == ("equalize: no two layers in a chain; nothing to do.",)
    assert all(torch.equal(before[n], t) for n, t in module.state_dict().items())


def test_means_of_every_channel_are_those_of_the_float_network_after_bias_correction():
    module, x = chain(bits=3, granularity="channel")
    reference = {n: t.detach().clone() for n, t in module.model_tensors().items()}

    def gaps():
        found = {}
        walk = Walk(module, read_inputs(module, [x]), reference)
        for node in walk:
            if node.name in module.layers:
                values, real = (torch.cat(c).transpose(0, 1).flatten(1).mean(1) for c in walk.pre_activations(node))
                found[node.name] = float((values - real).abs().max())
        return found

    before = gaps()
    reconstruct_(module, [x], ["bias_correction"])
    steps = {n: float(q.scale.max()) for n, q in module.quantizers_by_name().items()}
    for name, gap in gaps().items():
        layer = module.layers[name]
        grid = steps[layer.weight] * steps[module.sites.decision_of[layer.node.inputs[0]]]
        assert gap <= grid + 1e-4  # the bias is rounded
        assert before[name] > 1e-3


def channel_moments(chunks):
    values = torch.cat(chunks).double().transpose(0, 1).flatten(1)
    return values.mean(1), values.std(1)


def test_batch_norm_gives_outputs_the_moments_of_the_float_network_and_codes_stay():
    module, x = chain(bits=3, granularity="channel")
    codes = {n: q.codes for n, q in module.weight_quants().items()}
    reference = {n: t.detach().clone() for n, t in module.model_tensors().items()}

    def gaps():
        """Of means, in grids of biases, and of deviations, a pair a layer."""
        steps = {n: float(q.scale.max()) for n, q in module.quantizers_by_name().items()}
        walk, found = Walk(module, read_inputs(module, [x]), reference), []
        for node in walk:
            if node.name in module.layers and module.layers[node.name].norms:
                grid = steps[module.layers[node.name].weight] * steps[module.sites.decision_of[node.inputs[0]]]
                pairs = zip(*map(channel_moments, walk.pre_activations(node)), strict=True)
                means, deviations = (float((own - wanted).abs().max()) for own, wanted in pairs)
                found.append([means / grid, deviations])
        return np.array(found)

    before = gaps()
    assert before.shape == (2, 2)
    reconstruct_(module, [x], ["batch_norm"])
    after = {n: q.codes for n, q in module.weight_quants().items()}
    assert all(np.mean(codes[n] != after[n]) < 0.01 for n in codes)
    assert (gaps()[:, 0] <= 1).all()  # biases are rounded
    assert (gaps()[:, 1] < 0.25 * before[:, 1]).all()


def test_batch_norm_keeps_statistics_of_training_where_rounding_changed_little():
    module, x = chain(bits=8, granularity="channel")
    before = module.model_tensors()["norm.running_var"].detach().clone()
    reconstruct_(module, [x / 2], ["batch_norm"])  # a quarter of the variance of training
    torch.testing.assert_close(module.model_tensors()["norm.running_var"], before, rtol=0.02, atol=1e-3)


def test_batch_norm_is_refused_where_scales_cannot_follow():
    module, x = chain(granularity="tensor")
    with pytest.raises(ConfigError, match=r"batch_norm: stem\.weight: a channel's scale must take"):
        reconstruct_(module, [x], ["batch_norm"])


@pytest.mark.parametrize("method", ["adaround", "brecq", "qdrop"])
def test_every_part_errs_no_more_than_before_and_one_errs_less(method):
    module, x = chain(bits=3, granularity="channel")
    errors = reconstruct_(module, [x], [method], config=FAST).errors
    assert set(errors) == {f"{name}.weight" for name in ("stem", "depthwise", "point", "head")}
    assert all(after <= before for before, after in errors.values())
    assert any(after < 0.9 * before for before, after in errors.values())


@pytest.mark.parametrize("name", MODELS)
def test_soft_rounding_starts_at_the_codes_there_are(name):
    module, x = quantized(name)
    job = Reconstruction(module, read_inputs(module, [x]), {n: t.detach() for n, t in module.model_tensors().items()})
    quants = module.weight_quants()
    for layer in own_layers(module)[0].values():
        soft, quant = SoftRounding(job, layer), quants[layer.weight]
        codes = (soft.hard_weight() / soft.step).round().numpy()
        assert np.array_equal(codes, quant.codes)
        inside = (soft.floor > soft.low) & (soft.floor < soft.high - 1)
        wanted = fold(layer, job.reference)[0]
        gap = ((soft.weight().detach() - wanted) / soft.step.float()).abs()[inside]
        assert not inside.any() or float(gap.max()) < 0.02  # between codes, it is the float weight


def test_a_part_that_does_not_improve_is_put_back():
    module, x = quantized("perceptron", bits=8)
    before = {n: t.clone() for n, t in module.state_dict().items()}
    config = ReconstructConfig(iterations=1, learning_rate=50.0)  # far from anything useful
    reconstruct_(module, [x], ["adaround"], config=config)
    assert all(torch.equal(before[n], t) for n, t in module.state_dict().items())


def test_blocks_are_cut_between_joins_and_hold_every_node_once():
    for name in MODELS:
        graph = canonicalize(captured(name)[1])
        blocks = find_blocks(graph)
        assert [node.name for block in blocks for node in block] == [node.name for node in graph.nodes]
    names = [[node.name for node in block] for block in find_blocks(canonicalize(captured("residual")[1]))]
    assert names[0] == ["conv1"]
    assert {"layer1.0.conv1", "layer1.0.conv2", "layer1.0.down.0"} <= set(names[1])
    assert len(names) == 4
