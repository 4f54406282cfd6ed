import numpy as np
import pytest
import torch

from dyadiq.core.artifact import read_artifact, write_artifact
from dyadiq.core.errors import ArtifactError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.format import Format
from dyadiq.core.plan import uniform_plan
from dyadiq.cost.facts import network_facts
from dyadiq.ir.passes import canonicalize
from dyadiq.quant.quantize import quantize
from dyadiq.quant.store import SCHEMA, load_quant_module, save_quant_module
from trainable import MODELS, captured, samples_of

CONFIGS = {
    "channel": QuantConfig(),
    "group": QuantConfig(Format(8, signed=True, granularity="group", group_size=1), Format(8, "asymmetric")),
}


def quantized(name, config, **options):
    model, graph = captured(name)
    plan = uniform_plan(network_facts(canonicalize(graph), config), 3, 5)
    return quantize(graph, plan, [samples_of(model, 16)], config=config, **options)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("options", [{}, {"learn_scales": False, "freeze_bn": False}])
def test_module_comes_back_the_same_when_it_was_trained(tmp_path, name, config, options):
    qmod = quantized(name, CONFIGS[config], **options)
    with torch.no_grad():
        for parameter in qmod.parameters():
            parameter.add_(0.03)
    digest = save_quant_module(tmp_path / "q.safetensors", qmod)
    back = load_quant_module(tmp_path / "q.safetensors")
    assert len(digest) == 64
    assert list(back.state_dict()) == list(qmod.state_dict())
    assert all(torch.equal(back.state_dict()[k], v) for k, v in qmod.state_dict().items())
    assert (back.plan, back.config) == (qmod.plan, qmod.config)
    assert (back.learn_scales, back.batchnorm_frozen) == (qmod.learn_scales, qmod.batchnorm_frozen)
    x = samples_of(MODELS[name], 8)
    for mode in ("float", "fake", "exact"):
        assert torch.equal(back.set_mode_(mode)(x), qmod.set_mode_(mode).eval()(x))


def test_mode_flags_and_dtype_come_back_when_they_are_not_the_usual_ones(tmp_path):
    qmod = quantized("perceptron", QuantConfig()).double().set_mode_("float")
    qmod.batchnorm_momentum = 0.25
    qmod.quantizers_by_name()["act"].enabled = False
    save_quant_module(tmp_path / "q", qmod)
    back = load_quant_module(tmp_path / "q")
    assert (back.mode, back.batchnorm_momentum, back.training) == ("float", 0.25, False)
    assert next(back.parameters()).dtype == torch.float64
    assert {n: q.enabled for n, q in back.quantizers_by_name().items() if not q.enabled} == {"act": False}


@pytest.mark.parametrize(
    "damage",
    [
        lambda payload, arrays: payload.pop("plan"),
        lambda payload, arrays: payload["quantizers"].pop("fc1.weight"),
        lambda payload, arrays: payload["quantizers"]["x"].update(type="int99x"),
        lambda payload, arrays: payload.update(mode="quick"),
        lambda payload, arrays: arrays.pop("state.fc1.bias"),
        lambda payload, arrays: arrays.update({"state.fc1.bias": np.zeros(3)}),
        lambda payload, arrays: arrays.update({"state.quantizers.x.scale": np.zeros(1)}),
    ],
)
def test_file_is_refused_when_its_content_does_not_fit_together(tmp_path, damage):
    path = tmp_path / "q"
    save_quant_module(path, quantized("perceptron", QuantConfig()))
    payload, arrays = read_artifact(path, SCHEMA)
    damage(payload, arrays)
    write_artifact(path, SCHEMA, payload, arrays)
    with pytest.raises(ArtifactError, match="does not describe a quantized module"):
        load_quant_module(path)


def test_file_is_refused_when_it_holds_something_else(tmp_path):
    write_artifact(tmp_path / "p", "dyadiq.plan/1", {})
    with pytest.raises(ArtifactError, match=r"holds a dyadiq\.plan, expected a dyadiq\.quant-module"):
        load_quant_module(tmp_path / "p")
