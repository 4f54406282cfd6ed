"""Every network of the zoo: names, trained weights, and the same integers everywhere with mixed bits."""

from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
import torch
from torch import nn

from dyadiq.core.data_folder import data_folder
from dyadiq.core.errors import ArtifactError, DataError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.plan import BitPlan, uniform_plan
from dyadiq.cost.facts import network_facts
from dyadiq.engine import available_isas
from dyadiq.ir.capture import capture
from dyadiq.ir.passes import canonicalize
from dyadiq.quant.lower import lower
from dyadiq.quant.quantize import quantize
from dyadiq.targets.verify import verify
from dyadiq.zoo import MODELS, PRETRAINED, build_model, pretrained_file
from dyadiq.zoo.layers import pad_same, scaled_width

ENGINE = ["engine"] if available_isas() else []  # tests/unit/engine says so where it was not built

# Arguments that make it small, and the shape of an input; odd sizes where the network allows them.
SMALL = {
    "cifar_resnet20": ({"width": 4}, (3, 16, 12)),
    "cifar_resnet32": ({"width": 3}, (3, 9, 11)),
    "cifar_resnet44": ({"width": 2}, (3, 8, 8)),
    "cifar_resnet56": ({"width": 2}, (3, 8, 8)),
    "digits_cnn": ({}, (1, 8, 8)),
    "digits_resnet": ({"width": 4}, (1, 8, 8)),
    "inception_v3": ({"width": 0.04, "n_classes": 7}, (3, 75, 75)),
    "jet_tagger": ({}, (16,)),
    "mobilenet_v2": ({"width": 0.1, "n_classes": 7}, (3, 33, 40)),
    "resnet18": ({"width": 4, "n_classes": 7}, (3, 33, 40)),
    "resnet50": ({"width": 2, "n_classes": 7}, (3, 32, 33)),
    "squeezenet1_0": ({"width": 0.1, "n_classes": 7}, (3, 47, 50)),
    "squeezenet1_1": ({"width": 0.1, "n_classes": 7}, (3, 41, 40)),
    "squeezenext23": ({"width": 0.2, "n_classes": 7}, (3, 39, 41)),
    "tf_mobilenet_v1": ({"width": 0.1, "n_classes": 7}, (3, 33, 40)),
    "tf_mobilenet_v2": ({"width": 0.1, "n_classes": 7}, (3, 40, 33)),
}


def small(name):
    """A small network with batch norms that are no identities, and inputs."""
    arguments, shape = SMALL[name]
    model = build_model(name, seed=1, **arguments).eval()
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for tensor, low in ((module.running_mean, -0.2), (module.running_var, 0.5), (module.bias, -0.2)):
                tensor.data.uniform_(low, low + 0.5, generator=generator)
    return model, np.random.default_rng(3).normal(size=(4, *shape)).astype(np.float32)


def mixed_plan(graph, config):
    """Weights of 2 to 8 bits and activations of 4 to 8, in turn."""
    facts = network_facts(canonicalize(graph), config)
    plan = uniform_plan(facts, 4, 8)
    bits = {"weight": cycle((2, 3, 4, 6, 8)), "activation": cycle((8, 5, 4, 6))}
    chosen = {d.name: d.fixed_bits or next(bits[d.kind]) for d in facts.decisions}
    return BitPlan({name: replace(fmt, bits=chosen[name]) for name, fmt in plan.formats.items()})


@pytest.mark.parametrize("name", MODELS)
def test_network_has_the_same_integers_everywhere(name):
    model, x = small(name)
    graph = capture(model, torch.from_numpy(x[:2]))
    config = QuantConfig()
    if len(name) % 2:  # asymmetric activations for every other network or so
        config = replace(config, activation=replace(config.activation, scheme="asymmetric"))
    program = lower(quantize(graph, mixed_plan(graph, config), [x], config=config))
    results = verify(program, x[:2], against=["exact", "onnx", *ENGINE])
    assert all(row.mismatches == 0 and row.compared >= 10 for row in results.values())
    (output,) = program.graph.outputs
    ops = {node.op for node in program.graph.nodes}
    assert {"conv2d", "linear"} & ops
    assert program.graph.tensors[output].qtype.bits == 16


def test_small_networks_are_those_of_the_registry():
    assert set(SMALL) == set(MODELS)


@pytest.mark.parametrize(
    ("name", "keys", "n_parameters"),
    [
        ("resnet18", ("conv1.weight", "layer2.0.downsample.1.running_var", "layer4.1.bn2.bias", "fc.bias"), 11_689_512),
        ("resnet50", ("layer1.0.downsample.0.weight", "layer3.5.conv3.weight", "fc.weight"), 25_557_032),
        ("mobilenet_v2", ("features.0.1.bias", "features.17.conv.2.weight", "classifier.1.weight"), 3_504_872),
        ("inception_v3", ("Mixed_6c.branch7x7dbl_5.bn.running_mean", "AuxLogits.fc.weight", "fc.bias"), 27_161_264),
        ("squeezenet1_0", ("features.12.expand3x3.bias", "features.0.weight", "classifier.1.bias"), 1_248_424),
        ("squeezenet1_1", ("features.12.expand3x3.bias", "features.3.squeeze.weight"), 1_235_496),
        ("squeezenext23", ("features.stage4.unit1.identity_conv.bn.weight", "output.bias"), 724_056),
    ],
)
def test_networks_have_the_usual_names_and_sizes(name, keys, n_parameters):
    with torch.device("meta"):
        model = MODELS[name]()
    assert set(keys) <= set(model.state_dict())
    assert sum(p.numel() for p in model.parameters()) == n_parameters


@pytest.mark.parametrize("size", [7, 8, 15, 16, 17])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding_is_that_of_tensorflow(size, stride):
    padded = pad_same(torch.ones(1, 1, size, size), 3, stride)[0, 0]
    assert (padded.shape[0] - 3) // stride + 1 == -(-size // stride)
    before = int((padded.sum(1) == 0).nonzero()[0]) == 0 if bool((padded.sum(1) == 0).any()) else False
    assert before == (stride == 1 or size % 2 == 1)  # an even image is padded at the bottom and right alone


def test_widths_stay_multiples():
    assert [scaled_width(n, 0.35) for n in (16, 24, 96, 1280)] == [8, 8, 32, 448]


@pytest.mark.parametrize("name", PRETRAINED)
def test_trained_weights_fit_their_network(name):
    if not pretrained_file(name).is_file():
        pytest.skip(f"the data pack (DYADIQ_DATA) has no {pretrained_file(name).name}")
    model, fresh = build_model(name, pretrained=True), build_model(name)
    pairs = zip(model.state_dict().items(), fresh.state_dict().values(), strict=True)
    weights = [(a, b) for (key, a), b in pairs if key.endswith("weight") and a.ndim == 4]
    assert all(not torch.equal(a, b) and bool(a.isfinite().all()) for a, b in weights)


def test_quantized_weights_become_real(tmp_path):
    (tmp_path / "models").mkdir()
    model = build_model("tf_mobilenet_v1", width=0.1, n_classes=3)
    arrays = {}
    for key, value in model.state_dict().items():
        layer, _, kind = key.partition(".")
        if kind == "weight":
            arrays[f"{layer}.weight_q"] = np.full(value.shape, 7, np.uint8)
            arrays[f"{layer}.weight_scale"] = np.array([0.5], np.float32)
            arrays[f"{layer}.weight_zero"] = np.array([10], np.int32)
        else:
            arrays[f"{layer}.bias"] = np.ones(value.shape, np.float32)
    file = tmp_path / "models/mobilenet_v1_0.5_160_quant.npz"
    np.savez(file, **arrays)
    loaded = build_model("tf_mobilenet_v1", pretrained=True, data_dir=tmp_path, width=0.1, n_classes=3)
    assert bool((loaded.l03.weight == -1.5).all())
    assert bool((loaded.l03.bias == 1).all())
    del arrays["l05.weight_zero"]
    np.savez(file, **arrays)
    with pytest.raises(DataError, match=r"no array named 'l05\.weight_zero'"):
        build_model("tf_mobilenet_v1", pretrained=True, data_dir=tmp_path, width=0.1, n_classes=3)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ArtifactError, match="cannot be read as"):
        build_model("tf_mobilenet_v1", pretrained=True, data_dir=tmp_path, width=0.1, n_classes=3)


def test_caffe_names_are_those_of_the_fire_modules(tmp_path):
    file = data_folder() / "models/squeezenet1_1_fp16.npz"
    if not file.is_file():
        pytest.skip("the data pack (DYADIQ_DATA) has no squeezenet1_1_fp16.npz")
    model, arrays = build_model("squeezenet1_1", pretrained=True), np.load(file)
    for theirs, ours in (
        ("conv1", "features.0"),
        ("fire5.expand3x3", "features.7.expand3x3"),
        ("conv10", "classifier.1"),
    ):
        assert np.array_equal(arrays[f"{theirs}.weight"], model.get_parameter(f"{ours}.weight").detach().numpy())
