"""Quantized tensors as lowering takes them: codes and scales of a weight, type and scale of an activation.

Made by `quant.module` and `ir.probe`; read by `lower`. No torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.channel_grid import ChannelGrid
from dyadiq.core.errors import QuantError
from dyadiq.core.qtype import QType
from dyadiq.ir.activation import Limits

__all__ = ["ActivationQuant", "WeightQuant", "clip_bounds", "limit_code"]


@dataclass(frozen=True, slots=True)
class WeightQuant:
    """A quantized weight: ``real = (codes - zero_point) * group_factor * scale``.

    Attributes:
        codes: int64, the weight's own shape.
        qtype: Code type.
        scale: float64 ``[O]`` or ``[1]``.
        zero_point: int64 ``[O]`` or ``[1]``.
        group_factor: int64 ``[O, G]`` for scales per group, else None.
    """

    codes: NDArray[np.int64]
    qtype: QType
    scale: NDArray[np.float64]
    zero_point: NDArray[np.int64]
    group_factor: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class ActivationQuant:
    """A quantized activation: ``real = (code - zero_point) * scale``.

    ``symmetric`` says that the zero point is 0 by format, not by chance; the structure of a program depends
    on formats only, never on values, so that its size is known before it is calibrated.
    """

    qtype: QType
    scale: float
    zero_point: int = 0
    symmetric: bool = True
    grid: ChannelGrid | None = None


def limit_code(limit: float | None, scale: float) -> int | None:
    """Return the code, zero point 0, of a limit of real values."""
    return None if limit is None else math.floor(limit / scale + 0.5)


def clip_bounds(tensor: str, act: ActivationQuant, limits: Limits | None) -> dict[str, int]:
    """Return the clip bounds of a tensor's codes: those of its type, or of its activation where they are tighter.

    Raises:
        QuantError: The codes are bipolar, and there are limits.
    """
    bottom, top = act.qtype.qmin, act.qtype.qmax
    if limits is not None:
        if act.qtype.bipolar:
            raise QuantError(
                f"{tensor}: bipolar codes cannot hold what a relu or clamp keeps. Use 1 bit unsigned, or more bits."
            )
        low, high = (limit_code(limit, act.scale) for limit in limits)
        codes = (bottom if low is None else low + act.zero_point, top if high is None else high + act.zero_point)
        bottom, top = (min(max(code, act.qtype.qmin), act.qtype.qmax) for code in codes)
    return {"clip_min": bottom, "clip_max": top}
