"""MobileNetV2 for ImageNet, under the state-dict names that torchvision made usual.

Used through the registry in `zoo`; torchvision need not be installed. Ordinary `nn.Module`.
Source: Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", table 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dyadiq.zoo.layers import initialize_, scaled_width

__all__ = ["MOBILENET_V2_STAGES", "MobileNetV2", "mobilenet_v2"]

MOBILENET_V2_STAGES = (
    # expansion, channels, blocks, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _conv(n_in: int, n_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(n_out), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """Expand by a 1x1 convolution, 3x3 depthwise, project by a 1x1 convolution without activation; a shortcut."""

    def __init__(self, n_in: int, n_out: int, stride: int, expansion: int) -> None:
        """Build the block."""
        super().__init__()
        n_mid = n_in * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [_conv(n_in, n_mid)]
        layers += [_conv(n_mid, n_mid, 3, stride, n_mid), nn.Conv2d(n_mid, n_out, 1, bias=False), nn.BatchNorm2d(n_out)]
        self.conv = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation."""
        out: Tensor = self.conv(x)
        return x + out if self.has_shortcut else out


class MobileNetV2(nn.Module):
    """Stem, inverted residuals, a last 1x1 convolution, mean over positions, linear.

    Shapes:
        x ``[N, 3, H, W]``, usually 224 x 224, to logits ``[N, n_classes]``.
    """

    def __init__(self, *, width: float = 1.0, n_classes: int = 1000) -> None:
        """Build the network; ``width`` multiplies its channels."""
        super().__init__()
        n_in = scaled_width(32, width)
        features: list[nn.Module] = [_conv(3, n_in, 3, 2)]
        for expansion, channels, count, stride in MOBILENET_V2_STAGES:
            n_out = scaled_width(channels, width)
            for i in range(count):
                features.append(InvertedResidual(n_in, n_out, stride if i == 0 else 1, expansion))
                n_in = n_out
        n_last = scaled_width(1280, max(1.0, width)) if width >= 1.0 else scaled_width(1280, width)
        features.append(_conv(n_in, n_last))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(n_last, n_classes))
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = nn.functional.adaptive_avg_pool2d(self.features(x), 1)
        logits: Tensor = self.classifier(torch.flatten(x, 1))
        return logits


def mobilenet_v2(*, width: float = 1.0, n_classes: int = 1000) -> MobileNetV2:
    """Return MobileNetV2. Below a width of 1 the last convolution shrinks too, which torchvision's does not.

    Example:
        >>> sum(p.numel() for p in mobilenet_v2().parameters())
        3504872
    """
    return MobileNetV2(width=width, n_classes=n_classes)
