"""ResNet-18 and ResNet-50 for ImageNet, under the state-dict names that torchvision made usual.

Used through the registry in `zoo`; torchvision need not be installed. Ordinary `nn.Module`.
Source: He et al. 2016, "Deep Residual Learning for Image Recognition"; the stride of a bottleneck block is in its 3x3
convolution ("ResNet v1.5"), as in the checkpoints of these names.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dyadiq.zoo.layers import initialize_

__all__ = ["ResNet", "resnet18", "resnet50"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, n_in: int, n_mid: int, stride: int, downsample: nn.Module | None) -> None:
        """Build the block."""
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_mid, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_mid)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(n_mid, n_mid, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_mid)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        joined: Tensor = self.relu(self.bn2(self.conv2(out)) + shortcut)
        return joined


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution beside a shortcut; four times as many channels come out as are in between."""

    expansion = 4

    def __init__(self, n_in: int, n_mid: int, stride: int, downsample: nn.Module | None) -> None:
        """Build the block."""
        super().__init__()
        n_out = n_mid * self.expansion
        self.conv1 = nn.Conv2d(n_in, n_mid, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_mid)
        self.conv2 = nn.Conv2d(n_mid, n_mid, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_mid)
        self.conv3 = nn.Conv2d(n_mid, n_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        joined: Tensor = self.relu(self.bn3(self.conv3(out)) + shortcut)
        return joined


class ResNet(nn.Module):
    """Stem, four stages of blocks, mean over positions, linear.

    Shapes:
        x ``[N, 3, H, W]``, usually 224 x 224, to logits ``[N, n_classes]``.
    """

    def __init__(
        self, block: type[BasicBlock | Bottleneck], n_blocks: Sequence[int], *, width: int = 64, n_classes: int = 1000
    ) -> None:
        """Build a network with ``width`` channels after the stem."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        n_in = width
        for i, count in enumerate(n_blocks):
            n_mid = width << i
            self.add_module(f"layer{i + 1}", _stage(block, n_in, n_mid, count, stride=1 if i == 0 else 2))
            n_in = n_mid * block.expansion
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(n_in, n_classes)
        self.n_stages = len(n_blocks)
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for i in range(self.n_stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def _stage(block: type[BasicBlock | Bottleneck], n_in: int, n_mid: int, count: int, stride: int) -> nn.Sequential:
    n_out = n_mid * block.expansion
    downsample = None
    if stride != 1 or n_in != n_out:
        downsample = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False), nn.BatchNorm2d(n_out))
    first = block(n_in, n_mid, stride, downsample)
    return nn.Sequential(first, *(block(n_out, n_mid, 1, None) for _ in range(count - 1)))


def resnet18(*, width: int = 64, n_classes: int = 1000) -> ResNet:
    """Return ResNet-18."""
    return ResNet(BasicBlock, (2, 2, 2, 2), width=width, n_classes=n_classes)


def resnet50(*, width: int = 64, n_classes: int = 1000) -> ResNet:
    """Return ResNet-50."""
    return ResNet(Bottleneck, (3, 4, 6, 3), width=width, n_classes=n_classes)
