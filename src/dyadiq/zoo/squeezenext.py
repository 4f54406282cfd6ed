"""1.0-SqNxt-23: SqueezeNext with 23 modules for ImageNet, under the state-dict names of the pytorchcv collection.

Used through the registry in `zoo`; pytorchcv need not be installed. Ordinary `nn.Module`.
Source: Gholami et al. 2018, "SqueezeNext: Hardware-Aware Neural Network Design", figure 2 and table 1.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from dyadiq.zoo.layers import initialize_

__all__ = ["SqueezeNext", "squeezenext23"]

_STAGES = ((6, 32), (6, 64), (8, 128), (1, 256))  # modules, channels


class ConvBlock(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: tuple[int, int] = (1, 1),
        stride: int = 1,
        padding: tuple[int, int] = (0, 0),
    ) -> None:
        """Build the block."""
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=padding)
        self.bn = nn.BatchNorm2d(n_out)
        self.activ = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation."""
        activation: Tensor = self.activ(self.bn(self.conv(x)))
        return activation


class SqueezeNextUnit(nn.Module):
    """Two 1x1 convolutions to fewer channels, 1x3, 3x1, a 1x1 convolution to all channels; a shortcut around."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        """Build the unit; its shortcut has a convolution where the shape changes."""
        super().__init__()
        reduction = 1 if stride == 2 else 4 if n_in > n_out else 2
        n_mid = max(2, n_in // reduction)
        self.conv1 = ConvBlock(n_in, n_mid, stride=stride)
        self.conv2 = ConvBlock(n_mid, n_mid // 2)
        self.conv3 = ConvBlock(n_mid // 2, n_mid, (1, 3), padding=(0, 1))
        self.conv4 = ConvBlock(n_mid, n_mid, (3, 1), padding=(1, 0))
        self.conv5 = ConvBlock(n_mid, n_out)
        self.has_identity_conv = stride == 2 or n_in > n_out
        if self.has_identity_conv:
            self.identity_conv = ConvBlock(n_in, n_out, stride=stride)
        self.activ = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation."""
        shortcut = self.identity_conv(x) if self.has_identity_conv else x
        x = self.conv5(self.conv4(self.conv3(self.conv2(self.conv1(x)))))
        joined: Tensor = self.activ(x + shortcut)
        return joined


class SqueezeNextStem(nn.Module):
    """7x7 convolution with stride, max pool."""

    def __init__(self, n_out: int) -> None:
        """Build the stem."""
        super().__init__()
        self.conv = ConvBlock(3, n_out, (7, 7), stride=2, padding=(1, 1))
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation."""
        pooled: Tensor = self.pool(self.conv(x))
        return pooled


class SqueezeNext(nn.Module):
    """Stem, four stages, a 1x1 convolution, mean over positions, linear.

    Shapes:
        x ``[N, 3, H, W]``, usually 227 x 227, to logits ``[N, n_classes]``.
    """

    def __init__(self, *, width: float = 1.0, n_classes: int = 1000) -> None:
        """Build the network; ``width`` multiplies its channels."""
        super().__init__()
        n_in = int(64 * width)
        parts: OrderedDict[str, nn.Module] = OrderedDict(init_block=SqueezeNextStem(n_in))
        for i, (count, channels) in enumerate(_STAGES):
            units: OrderedDict[str, nn.Module] = OrderedDict()
            for j in range(count):
                n_out = int(channels * width)
                units[f"unit{j + 1}"] = SqueezeNextUnit(n_in, n_out, 2 if j == 0 and i > 0 else 1)
                n_in = n_out
            parts[f"stage{i + 1}"] = nn.Sequential(units)
        parts["final_block"] = ConvBlock(n_in, int(128 * width))
        parts["final_pool"] = nn.AdaptiveAvgPool2d(1)
        self.features = nn.Sequential(parts)
        self.output = nn.Linear(int(128 * width), n_classes)
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.output(torch.flatten(self.features(x), 1))
        return logits


def squeezenext23(*, width: float = 1.0, n_classes: int = 1000) -> SqueezeNext:
    """Return 1.0-SqNxt-23, or another width of it.

    Example:
        >>> sum(p.numel() for p in squeezenext23().parameters())
        724056
    """
    return SqueezeNext(width=width, n_classes=n_classes)
