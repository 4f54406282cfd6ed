"""Pieces that several networks of the zoo are built of.

Used by the files of networks only.
"""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor, nn

__all__ = ["initialize_", "pad_same", "scaled_width"]


def initialize_(model: nn.Module) -> nn.Module:
    """Initialise convolutions and linear layers so that the signal neither dies nor grows, biases with zeros."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def scaled_width(n_channels: int, width: float, multiple: int = 8) -> int:
    """Return ``width * n_channels`` as a multiple, rounded, and never below nine tenths of it.

    Example:
        >>> scaled_width(32, 1.0), scaled_width(24, 0.5), scaled_width(32, 0.1)
        (32, 16, 8)
    """
    wanted = n_channels * width
    rounded = max(multiple, int(wanted + multiple / 2) // multiple * multiple)
    return rounded if rounded >= 0.9 * wanted else rounded + multiple


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Pad as TensorFlow's ``SAME`` does: ``ceil(size / stride)`` windows, what is odd at the bottom and right."""
    sides: list[int] = []
    for size in (int(x.shape[3]), int(x.shape[2])):
        total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
        sides += [total // 2, total - total // 2]
    return F.pad(x, sides) if any(sides) else x
