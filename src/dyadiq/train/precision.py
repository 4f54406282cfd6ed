"""The precision of the dot products of training: float32, or bfloat16 for speed.

Used by `loop` and `batches`. In bfloat16 only convolutions and matrix products are narrow (torch.autocast); weights,
optimizer, codes and loss stay in float32. Codes of 8 bits and fewer times a scale keep all of their bits but those of
the scale, so that what is trained is the network that is lowered, up to 2^-9 of every value. Accuracy is measured on
integers as ever. On processors with bfloat16 instructions a quantized step takes about 0.8 of the time.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch

__all__ = ["PrecisionName", "autocast"]

PrecisionName: TypeAlias = Literal["float32", "bfloat16"]


def autocast(device: torch.device, precision: PrecisionName) -> torch.autocast:
    """Return the context in which a forward pass runs.

    Example:
        >>> with autocast(torch.device("cpu"), "bfloat16"):
        ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
        torch.bfloat16
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
