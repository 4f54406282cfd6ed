"""Trained weights of the zoo's networks: where they lie in the data pack, and how their files become state dicts.

Used by `zoo.build_model` and the pipeline. To add weights: one line in `PRETRAINED`; a format of its own is one reader.
Files hold plain arrays; nothing is unpickled. Names and shapes must fit the network's state dict exactly, but for
counters of batch norms, which many files leave out and no result depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from dyadiq.core.data_folder import data_folder
from dyadiq.core.errors import ArtifactError, ConfigError, UnknownNameError
from dyadiq.zoo.pretrained_files import read_npz_state
from dyadiq.zoo.squeezenet import read_squeezenet_state
from dyadiq.zoo.tf_mobilenet import read_tf_quantized

__all__ = ["PRETRAINED", "Weights", "load_pretrained_", "pretrained_file"]


@dataclass(frozen=True, slots=True)
class Weights:
    """Trained weights of one network.

    Attributes:
        file: Path in the data pack.
        read: From the file and the network's state dict (names, shapes) to a state dict.
        source: Where the weights come from, and their licence.
    """

    file: str
    read: Callable[[Path, Mapping[str, Tensor]], dict[str, Tensor]]
    source: str


_CORAL = "google-coral/test_data, Apache-2.0"
_AKAMASTER = "akamaster/pytorch_resnet_cifar10, BSD-2"

PRETRAINED: Mapping[str, Weights] = MappingProxyType(
    {
        "cifar_resnet20": Weights("models/cifar10_resnet20.npz", read_npz_state, _AKAMASTER),
        "cifar_resnet56": Weights("models/cifar10_resnet56.npz", read_npz_state, _AKAMASTER),
        "squeezenet1_1": Weights("models/squeezenet1_1_fp16.npz", read_squeezenet_state, "forresti/SqueezeNet, BSD-2"),
        "tf_mobilenet_v1": Weights("models/mobilenet_v1_0.5_160_quant.npz", read_tf_quantized, _CORAL),
        "tf_mobilenet_v2": Weights("models/mobilenet_v2_1.0_224_quant.npz", read_tf_quantized, _CORAL),
    }
)


def pretrained_file(name: str, data_dir: str | Path | None = None) -> Path:
    """Return the file of a network's trained weights.

    Raises:
        UnknownNameError: There are none for this network.

    Example:
        >>> pretrained_file("cifar_resnet20", "pack").as_posix()
        'pack/models/cifar10_resnet20.npz'
    """
    if name not in PRETRAINED:
        raise UnknownNameError("trained weights of model", name, PRETRAINED)
    return data_folder(data_dir) / PRETRAINED[name].file


def load_pretrained_(model: nn.Module, name: str, data_dir: str | Path | None = None) -> nn.Module:
    """Load the trained weights of a network of this name, and return it.

    Raises:
        UnknownNameError: There are none for this network.
        ConfigError: They do not fit the model, as when it was built with other arguments.
        DataError: The file is missing, or lacks an array.
        ArtifactError: The file is damaged, or holds NaN or infinity.
    """
    file = pretrained_file(name, data_dir)
    own = model.state_dict()
    state = PRETRAINED[name].read(file, own)
    wrong = [
        f"{n} {list(state[n].shape)}, expected {list(own[n].shape)}" for n in state if state[n].shape != own[n].shape
    ]
    if wrong:
        raise ConfigError(f"{file} does not fit the model {name!r} as it was built: {'; '.join(wrong)}.")
    bad = [n for n, t in state.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if bad:
        raise ArtifactError(f"{file}: {', '.join(map(repr, bad))} hold NaN or infinity. Fetch the file again.")
    model.load_state_dict(own | state, strict=True)
    return model
