"""Rounding in one pass over memory, by the native module: a third of the time of a training step.

Used by `rounding_gradient`, whose torch expressions define the result. Applies on a CPU where one step and one range
hold for the whole tensor. Values and their gradients are those of torch to the last bit; the gradient of the step is
a sum in another order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dyadiq.core.native import native_module

__all__ = ["fusable", "fused_round", "fused_round_backward"]


def fusable(x: Tensor, step: Tensor, low: Tensor | float, high: Tensor | float) -> bool:
    """Return whether one pass can round ``x``: there is a native module, and the same grid for all values."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and step.dtype == torch.float32
        and all(not isinstance(v, Tensor) or v.numel() == 1 for v in (step, low, high))
        and _layout(x) is not None
        and native_module() is not None
    )


def fused_round(x: Tensor, step: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Return ``clip(floor(x / step + 1/2), low, high) * step`` with the layout of ``x``."""
    result = torch.empty_like(x)
    native_module().round_values(_flat(x), _flat(result), step.item(), float(low), float(high))
    return result


def fused_round_backward(
    gradient: Tensor, x: Tensor, result: Tensor, first: float, last: float
) -> tuple[Tensor, float]:
    """Return ``for_x``, the gradient where ``first < x < last``, else 0; and ``sum(gradient * result - for_x * x)``."""
    layout = _layout(x)
    assert layout is not None  # `fusable` said so
    gradient, result = (t.to(x.dtype).contiguous(memory_format=layout) for t in (gradient, result))
    for_x = torch.empty_like(x)
    total: float = native_module().round_gradients(_flat(gradient), _flat(x), _flat(result), _flat(for_x), first, last)
    return for_x, total


def _layout(x: Tensor) -> torch.memory_format | None:
    """Return how values follow each other in memory without gaps, or None."""
    if x.is_contiguous():
        return torch.contiguous_format
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return None


def _flat(x: Tensor) -> object:
    """Return the memory of a dense tensor as a flat array, bfloat16 as its bits."""
    x = x.detach()
    flat = (x if x.is_contiguous() else x.permute(0, 2, 3, 1)).reshape(-1)
    return (flat.view(torch.uint16) if flat.dtype == torch.bfloat16 else flat).numpy()
