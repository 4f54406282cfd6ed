"""SqueezeNet 1.0 and 1.1 for ImageNet, under the state-dict names that torchvision made usual.

Used through the registry in `zoo`; torchvision need not be installed. Ordinary `nn.Module`. `read_squeezenet_state`
takes files whose names are those of the original Caffe networks (``conv1``, ``fire2.squeeze``, ..., ``conv10``).
Source: Iandola et al. 2016, arXiv:1602.07360; version 1.1 from the authors' repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dyadiq.zoo.layers import initialize_
from dyadiq.zoo.pretrained_files import read_npz_state

__all__ = ["SqueezeNet", "read_squeezenet_state", "squeezenet1_0", "squeezenet1_1"]

# squeeze and expand channels of a fire module (expand: of each half), or a max pool
_POOL = (0, 0)
_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
_LAYOUTS = {
    "1_0": (*_FIRES[:2], _FIRES[2], _POOL, *_FIRES[3:7], _POOL, _FIRES[7]),
    "1_1": (*_FIRES[:2], _POOL, *_FIRES[2:4], _POOL, *_FIRES[4:]),
}


class Fire(nn.Module):
    """A 1x1 convolution to few channels, then 1x1 and 3x3 convolutions side by side."""

    def __init__(self, n_in: int, n_squeeze: int, n_expand: int) -> None:
        """Build the module; it makes ``2 n_expand`` channels."""
        super().__init__()
        self.squeeze = nn.Conv2d(n_in, n_squeeze, 1)
        self.expand1x1 = nn.Conv2d(n_squeeze, n_expand, 1)
        self.expand3x3 = nn.Conv2d(n_squeeze, n_expand, 3, padding=1)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation."""
        x = self.activation(self.squeeze(x))
        return torch.cat([self.activation(self.expand1x1(x)), self.activation(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """A strided convolution, fire modules with max pools between, a 1x1 convolution to classes, mean over positions.

    Shapes:
        x ``[N, 3, H, W]``, usually 224 x 224 or 227 x 227, to logits ``[N, n_classes]``, which are never negative.
    """

    def __init__(self, version: str, *, width: float = 1.0, n_classes: int = 1000) -> None:
        """Build version ``1_0`` or ``1_1``; ``width`` multiplies its channels."""
        super().__init__()
        stem = (96, 7) if version == "1_0" else (64, 3)
        n_in = max(1, int(stem[0] * width))
        pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        features: list[nn.Module] = [nn.Conv2d(3, n_in, stem[1], stride=2), nn.ReLU(inplace=True), pool]
        for n_squeeze, n_expand in _LAYOUTS[version]:
            if n_squeeze == 0:
                features.append(nn.MaxPool2d(3, stride=2, ceil_mode=True))
                continue
            sizes = max(1, int(n_squeeze * width)), max(1, int(n_expand * width))
            features.append(Fire(n_in, *sizes))
            n_in = 2 * sizes[1]
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5), nn.Conv2d(n_in, n_classes, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)
        )
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return torch.flatten(self.classifier(self.features(x)), 1)


def squeezenet1_0(*, width: float = 1.0, n_classes: int = 1000) -> SqueezeNet:
    """Return SqueezeNet 1.0.

    Example:
        >>> sum(p.numel() for p in squeezenet1_0().parameters())
        1248424
    """
    return SqueezeNet("1_0", width=width, n_classes=n_classes)


def squeezenet1_1(*, width: float = 1.0, n_classes: int = 1000) -> SqueezeNet:
    """Return SqueezeNet 1.1.

    Example:
        >>> sum(p.numel() for p in squeezenet1_1().parameters())
        1235496
    """
    return SqueezeNet("1_1", width=width, n_classes=n_classes)


def read_squeezenet_state(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a file with Caffe's names: ``fire2`` is the first fire module of ``features``.

    Raises:
        DataError: No such file, or a name is missing.
        ArtifactError: The file is damaged.
    """
    fires = sorted({int(name.split(".")[1]) for name in wanted if ".squeeze." in name})
    theirs = {f"features.{index}.": f"fire{i}." for i, index in enumerate(fires, start=2)}
    theirs |= {"features.0.": "conv1.", "classifier.1.": "conv10."}
    names = {}
    for name in wanted:
        prefix = next(p for p in theirs if name.startswith(p))
        names[name] = theirs[prefix] + name.removeprefix(prefix)
    state = read_npz_state(path, {names[name]: value for name, value in wanted.items()})
    return {name: state[their] for name, their in names.items()}
