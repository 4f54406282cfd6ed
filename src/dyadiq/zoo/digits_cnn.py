"""DigitsCNN: two strided convolutions and a linear layer for 8x8 grey images, small enough to unroll as logic.

Used by ``recipes/digits_fpga.toml`` through the registry in `zoo`. An ordinary `nn.Module`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["DigitsCNN", "digits_cnn"]


class DigitsCNN(nn.Module):
    """Convolutions to 4x4 and 2x2 positions, each with batch norm and ReLU, then linear.

    Shapes:
        x ``[N, 1, 8, 8]`` to logits ``[N, n_classes]``.
    """

    def __init__(self, width: int = 8, n_classes: int = 10) -> None:
        """Build the network with ``width`` channels after the first convolution and twice as many after the second."""
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.relu2 = nn.ReLU()
        self.fc = nn.Linear(8 * width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        logits: Tensor = self.fc(torch.flatten(x, 1))
        return logits


def digits_cnn(width: int = 8, n_classes: int = 10) -> DigitsCNN:
    """Return a `DigitsCNN`.

    Example:
        >>> digits_cnn()(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    return DigitsCNN(width, n_classes)
