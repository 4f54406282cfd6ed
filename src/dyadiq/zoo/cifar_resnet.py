"""ResNet-20, 32, 44 and 56 for 32x32 images, with shortcuts that have no parameters (option A).

Used through the registry in `zoo`. Ordinary `nn.Module`: knows nothing of quantization. State-dict names are those of
the checkpoints that most people have (``conv1``, ``bn1``, ``layer1.0.conv1``, ..., ``linear``).
Source: He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor, nn

__all__ = ["CifarResNet", "cifar_resnet20", "cifar_resnet32", "cifar_resnet44", "cifar_resnet56"]


class CifarBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: the input, or every second position of it with zero channels around."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        """Build the block; it halves the image where ``stride`` is 2."""
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.stride, self.n_new = stride, n_out - n_in

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation, ``[N, n_out, H / stride, W / stride]``."""
        shortcut = x
        if self.stride != 1 or self.n_new:
            before = self.n_new // 2
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.n_new - before))
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + shortcut)


class CifarResNet(nn.Module):
    """Stem, three stages of ``n_blocks`` blocks at 32x32, 16x16 and 8x8, mean over positions, linear.

    Shapes:
        x ``[N, 3, 32, 32]`` to logits ``[N, n_classes]``; other even sizes work too.
    """

    def __init__(self, n_blocks: int, *, width: int = 16, n_classes: int = 10) -> None:
        """Build a network of ``6 n_blocks + 2`` layers with ``width`` channels in its first stage."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(n_blocks, width, width, stride=1)
        self.layer2 = _stage(n_blocks, width, 2 * width, stride=2)
        self.layer3 = _stage(n_blocks, 2 * width, 4 * width, stride=2)
        self.linear = nn.Linear(4 * width, n_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def _stage(n_blocks: int, n_in: int, n_out: int, stride: int) -> nn.Sequential:
    first = CifarBlock(n_in, n_out, stride)
    return nn.Sequential(first, *(CifarBlock(n_out, n_out, 1) for _ in range(n_blocks - 1)))


def cifar_resnet20(*, width: int = 16, n_classes: int = 10) -> CifarResNet:
    """Return ResNet-20.

    Example:
        >>> sum(p.numel() for p in cifar_resnet20().parameters())
        269722
    """
    return CifarResNet(3, width=width, n_classes=n_classes)


def cifar_resnet32(*, width: int = 16, n_classes: int = 10) -> CifarResNet:
    """Return ResNet-32."""
    return CifarResNet(5, width=width, n_classes=n_classes)


def cifar_resnet44(*, width: int = 16, n_classes: int = 10) -> CifarResNet:
    """Return ResNet-44."""
    return CifarResNet(7, width=width, n_classes=n_classes)


def cifar_resnet56(*, width: int = 16, n_classes: int = 10) -> CifarResNet:
    """Return ResNet-56."""
    return CifarResNet(9, width=width, n_classes=n_classes)
