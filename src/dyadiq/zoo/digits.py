"""DigitsResNet: a residual CNN for 8x8 grey images, small enough to train in seconds on a CPU.

Used by ``recipes/digits.toml`` through the registry in `zoo`. An ordinary `nn.Module`: it knows nothing of
quantization. It holds each operator of the spine: convolution, batch norm, ReLU, a residual add with and without
a downsampling branch, max and average pooling, linear.

Source: the basic block of He et al. 2016 (Fig. 5, option B shortcuts); state-dict names as usual for it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["BasicBlock", "DigitsResNet", "digits_resnet"]


class BasicBlock(nn.Module):
    """``relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))`` with 3x3 convolutions.

    Shapes:
        x ``[N, I, H, W]`` to ``[N, O, H/stride, W/stride]``.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        """Build the block; the shortcut is a 1x1 convolution where shapes change."""
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        joined: Tensor = self.relu2(out + shortcut)
        return joined


class DigitsResNet(nn.Module):
    """Stem, three residual blocks at 8x8, 4x4 and 2x2, pooling, linear.

    Shapes:
        x ``[N, 1, 8, 8]`` to logits ``[N, n_classes]``.
    """

    def __init__(self, width: int = 16, n_classes: int = 10) -> None:
        """Build the network with ``width`` channels in the stem and twice as many after the first block."""
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(BasicBlock(width, width))
        self.layer2 = nn.Sequential(BasicBlock(width, 2 * width, stride=2))
        self.maxpool = nn.MaxPool2d(2)
        self.layer3 = nn.Sequential(BasicBlock(2 * width, 2 * width))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.maxpool(x)
        x = self.layer3(x)
        x = self.avgpool(x)
        logits: Tensor = self.fc(torch.flatten(x, 1))
        return logits


def digits_resnet(width: int = 16, n_classes: int = 10) -> DigitsResNet:
    """Return a `DigitsResNet`.

    Example:
        >>> digits_resnet(width=4)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    return DigitsResNet(width, n_classes)
