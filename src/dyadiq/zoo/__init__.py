"""The networks and data sets of the recipes, by name.

Used by recipes and examples. A new model or data set is one file here and one line in `MODELS` or `DATASETS`.
A model is also reachable by the path of any function that returns an `nn.Module`, ``package.module:function``, and by
that of an ONNX file, ``net.onnx``.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from dyadiq.core.errors import ConfigError, UnknownNameError
from dyadiq.zoo.cifar_data import load_cifar10_dataset
from dyadiq.zoo.cifar_resnet import cifar_resnet20, cifar_resnet32, cifar_resnet44, cifar_resnet56
from dyadiq.zoo.data import Dataset, Split
from dyadiq.zoo.digits import digits_resnet
from dyadiq.zoo.digits_cnn import digits_cnn
from dyadiq.zoo.digits_data import load_digits_dataset
from dyadiq.zoo.imagenet_data import load_imagenet_sample_dataset
from dyadiq.zoo.inception_v3 import inception_v3
from dyadiq.zoo.jets import jet_tagger
from dyadiq.zoo.jets_data import load_jets_dataset
from dyadiq.zoo.mobilenet_v2 import mobilenet_v2
from dyadiq.zoo.npz_data import load_npz_dataset
from dyadiq.zoo.onnx_model import is_onnx_name, onnx_model
from dyadiq.zoo.pretrained import PRETRAINED, load_pretrained_, pretrained_file
from dyadiq.zoo.resnet import resnet18, resnet50
from dyadiq.zoo.squeezenet import squeezenet1_0, squeezenet1_1
from dyadiq.zoo.squeezenext import squeezenext23
from dyadiq.zoo.tf_mobilenet import tf_mobilenet_v1, tf_mobilenet_v2
from dyadiq.zoo.tiny_imagenet_data import load_tiny_imagenet_dataset

__all__ = [
    "DATASETS",
    "MODELS",
    "PRETRAINED",
    "Dataset",
    "Split",
    "build_model",
    "load_dataset",
    "load_pretrained_",
    "pretrained_file",
]

MODELS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "cifar_resnet20": cifar_resnet20,
        "cifar_resnet32": cifar_resnet32,
        "cifar_resnet44": cifar_resnet44,
        "cifar_resnet56": cifar_resnet56,
        "digits_cnn": digits_cnn,
        "digits_resnet": digits_resnet,
        "inception_v3": inception_v3,
        "jet_tagger": jet_tagger,
        "mobilenet_v2": mobilenet_v2,
        "resnet18": resnet18,
        "resnet50": resnet50,
        "squeezenet1_0": squeezenet1_0,
        "squeezenet1_1": squeezenet1_1,
        "squeezenext23": squeezenext23,
        "tf_mobilenet_v1": tf_mobilenet_v1,
        "tf_mobilenet_v2": tf_mobilenet_v2,
    }
)

DATASETS: Mapping[str, Callable[..., Dataset]] = MappingProxyType(
    {
        "cifar10": load_cifar10_dataset,
        "digits": load_digits_dataset,
        "imagenet_sample": load_imagenet_sample_dataset,
        "jets": load_jets_dataset,
        "npz": load_npz_dataset,
        "tiny_imagenet": load_tiny_imagenet_dataset,
    }
)


def build_model(
    name: str,
    *,
    seed: int = 0,
    pretrained: bool = False,
    data_dir: str | Path | None = None,
    **arguments: Any,
) -> nn.Module:
    """Return a model, freshly initialised or with trained weights; the global random state is left as it was.

    Args:
        name: A name in `MODELS`, ``package.module:function``, or the path of an ONNX file.
        seed: Seed of the initial weights.
        pretrained: Load the weights that `PRETRAINED` has for this name.
        data_dir: Folder of the data pack, for trained weights.
        **arguments: Passed to the factory.

    Raises:
        UnknownNameError: No such model, no such function in the module, or no trained weights of this model.
        ConfigError: The module cannot be imported, the arguments do not fit, the result is no `nn.Module`, or trained
            weights do not fit it.
        DataError: The file of trained weights is missing, or lacks an array.
        ArtifactError: That file, or the ONNX file, is damaged.
        CaptureError: The ONNX file holds what a graph cannot; all of it is listed.
        MissingDependencyError: It is an ONNX file, and the package onnx is not installed.

    Example:
        >>> a, b = build_model("digits_resnet", seed=1, width=4), build_model("digits_resnet", seed=1, width=4)
        >>> torch.equal(a.conv1.weight, b.conv1.weight)
        True
    """
    factory = _factory(name)
    _check_arguments("model", name, factory, arguments)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = factory(**arguments)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model {name!r}: the function returned {type(model).__name__}, expected a torch.nn.Module.")
    return load_pretrained_(model, name, data_dir) if pretrained else model


def load_dataset(name: str, *, seed: int = 0, data_dir: str | Path | None = None, **options: Any) -> Dataset:
    """Return a checked data set.

    Args:
        name: A name in `DATASETS`.
        seed: Seed of the splits.
        data_dir: Folder of the data; ``$DYADIQ_DATA`` or ``../shared/data`` for the data pack if not given.
        **options: Options of the loader.

    Raises:
        UnknownNameError: No such data set.
        ConfigError: An option the loader does not have.
        DataError: Missing file, NaN, a missing class (see the loaders).
        ArtifactError: A corrupt file.
        MissingDependencyError: The data set needs a package that is not installed.

    Example:
        >>> load_dataset("digits").classes[:3]
        ('0', '1', '2')
    """
    loader = _look_up("data set", name, DATASETS)
    _check_arguments("data set", name, loader, {"seed": seed, "data_dir": data_dir, **options})
    dataset: Dataset = loader(seed=seed, data_dir=data_dir, **options)
    return dataset


def _look_up(kind: str, name: str, registry: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    if name not in registry:
        raise UnknownNameError(kind, name, registry)
    return registry[name]


def _factory(name: str) -> Callable[..., Any]:
    if is_onnx_name(name):
        return partial(onnx_model, name)
    return _import_factory(name) if ":" in name else _look_up("model", name, MODELS)


def _import_factory(path: str) -> Callable[..., Any]:
    module_name, _, function_name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as err:
        raise ConfigError(
            f"model {path!r}: cannot import {module_name!r} ({err}). Expected 'package.module:function', with the "
            "package installed or in the current folder."
        ) from err
    members = vars(module)
    if not callable(members.get(function_name)):
        known = [n for n, member in members.items() if callable(member) and not n.startswith("_")]
        raise UnknownNameError(f"function of module {module_name!r}:", function_name, known)
    return members[function_name]  # type: ignore[no-any-return]


def _check_arguments(kind: str, name: str, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    signature = inspect.signature(factory)
    try:
        signature.bind(**arguments)
    except TypeError as err:
        raise ConfigError(f"{kind} {name!r}: {err}. It takes {signature}.") from err
