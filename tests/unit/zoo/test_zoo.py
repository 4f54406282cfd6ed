"""The registries: names, seeds, arguments, and their errors."""

import sys
import types

import pytest
import torch
from torch import nn

from dyadiq.core.errors import ConfigError, UnknownNameError
from dyadiq.zoo import DATASETS, MODELS, build_model, load_dataset

SHAPES = {
    "digits_cnn": (2, 1, 8, 8),
    "digits_resnet": (2, 1, 8, 8),
    "jet_tagger": (2, 16),
    **{f"cifar_resnet{depth}": (2, 3, 8, 8) for depth in (20, 32, 44, 56)},
}  # the others: test_networks.py


@pytest.mark.parametrize("name", SHAPES)
def test_models_return_finite_logits(name):
    model = build_model(name).eval()
    logits = model(torch.ones(SHAPES[name]))
    assert logits.ndim == 2
    assert bool(logits.isfinite().all())


@pytest.mark.parametrize("name", SHAPES)
def test_weights_depend_on_the_seed_alone(name):
    state = torch.get_rng_state()
    a, b, c = (build_model(name, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


def test_digits_resnet_has_the_usual_names_and_a_modest_size():
    model = build_model("digits_resnet")
    names = set(model.state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "layer2.0.downsample.0.weight"} <= names
    assert 20_000 <= sum(p.numel() for p in model.parameters()) <= 80_000


def test_jet_tagger_has_batch_norm_only_when_asked():
    assert "bn1.weight" not in build_model("jet_tagger").state_dict()
    assert build_model("jet_tagger", batch_norm=True).bn3.weight.shape == (32,)


def test_build_model_takes_the_path_of_a_function():
    model = build_model("dyadiq.zoo.digits:digits_resnet", width=4, n_classes=3)
    assert model.fc.out_features == 3


def test_unknown_model_is_refused_with_a_near_name():
    with pytest.raises(UnknownNameError, match=r"unknown model 'digits_resne'; did you mean 'digits_resnet'\?"):
        build_model("digits_resne")


def test_unknown_dataset_is_refused_with_a_near_name():
    with pytest.raises(UnknownNameError, match=r"unknown data set 'jet'; did you mean 'jets'\?"):
        load_dataset("jet")


def test_model_argument_is_refused_when_the_factory_lacks_it():
    with pytest.raises(ConfigError, match=r"model 'digits_resnet': .*'depth'.*It takes \(width"):
        build_model("digits_resnet", depth=3)


def test_dataset_option_is_refused_when_the_loader_lacks_it():
    with pytest.raises(ConfigError, match=r"data set 'digits': .*'n_train'"):
        load_dataset("digits", n_train=5)


def test_path_is_refused_when_the_module_is_missing():
    with pytest.raises(ConfigError, match=r"cannot import 'no_such_package'.*package\.module:function"):
        build_model("no_such_package:net")


def test_path_is_refused_when_the_function_is_missing():
    with pytest.raises(UnknownNameError, match=r"function of module 'dyadiq\.zoo\.jets': 'jet_tager'; did you mean"):
        build_model("dyadiq.zoo.jets:jet_tager")


def test_path_is_refused_when_the_result_is_no_module(monkeypatch):
    module = types.ModuleType("planted_models")
    module.make = lambda: 3
    monkeypatch.setitem(sys.modules, "planted_models", module)
    with pytest.raises(ConfigError, match=r"returned int, expected a torch\.nn\.Module"):
        build_model("planted_models:make")


def test_registries_hold_functions_only():
    assert all(callable(entry) for entry in (*MODELS.values(), *DATASETS.values()))
    assert not any(isinstance(entry, nn.Module) for entry in MODELS.values())
