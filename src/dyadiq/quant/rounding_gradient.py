"""Rounding with gradients: what `core.affine` does to values, straight-through.

Used by the quantizers (`quant.fake_quant`, `quant.estimators`) and `quant.module`; knows no graph and no parameters.
Values agree with `core.affine` in float64; in float32 a value within one rounding error of a tie may take the
neighbouring code. Values in half precision are rounded in float32.

Gradients: 1 inside the range and 0 outside for values; for the step, LSQ: ``code - x/step`` inside, the end code
outside. Sources: Bengio et al. 2013 (straight-through); Esser et al. 2020, LSQ, eq. (3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dyadiq.core.qtype import QType
from dyadiq.quant.fused_rounding import fusable, fused_round, fused_round_backward

__all__ = ["fake_quantize", "quantize_between", "round_to_grid"]


def fake_quantize(
    x: Tensor, step: Tensor, zero_point: Tensor | int, qtype: QType, *, gradient_scale: float = 1.0
) -> Tensor:
    """Return ``(clip(floor(x / step + 1/2) + zero_point) - zero_point) * step``, differentiable in x and step.

    Args:
        x: Values.
        step: Positive, broadcastable against ``x``.
        zero_point: Code of 0.0, likewise.
        qtype: Code type; bipolar gives ``+step`` where ``x >= 0``, else ``-step``, with range ``|x| <= 2 step``.
        gradient_scale: Multiplies the gradient of ``step``.

    Example:
        >>> x = torch.tensor([0.3, 9.0], requires_grad=True)
        >>> fake_quantize(x, torch.tensor(0.5), 0, QType(4, signed=True)).sum().backward()
        >>> fake_quantize(x, torch.tensor(0.5), 0, QType(4, signed=True)).tolist(), x.grad
        ([0.5, 3.5], tensor([1., 0.]))
    """
    if qtype.bipolar:
        return _BIPOLAR(x, step, gradient_scale)
    # Not in half precision, which has too few bits for the ends of 16-bit codes.
    offset = zero_point if isinstance(zero_point, int) else zero_point.to(torch.promote_types(x.dtype, torch.float32))
    return _UNIFORM(x, step, qtype.qmin - offset, qtype.qmax - offset, gradient_scale)


def round_to_grid(x: Tensor, step: Tensor, *, gradient_scale: float = 1.0) -> Tensor:
    """Return ``floor(x / step + 1/2) * step``, without clipping; straight-through in x, LSQ in step.

    Example:
        >>> round_to_grid(torch.tensor([0.75, -0.75]), torch.tensor(0.5))
        tensor([ 1.0000, -0.5000])
    """
    return _UNIFORM(x, step, -math.inf, math.inf, gradient_scale)


def quantize_between(x: Tensor, step: Tensor, low: Tensor, high: Tensor, gradient_scale: float) -> Tensor:
    """Return ``clip(floor(x / step + 1/2), low, high) * step``: ends and steps may differ between channels.

    Example:
        >>> low, high = torch.tensor([0.0, -1.0]), torch.tensor([1.0, 1.0])
        >>> quantize_between(torch.tensor([-9.0, -9.0]), torch.tensor([1.0, 0.5]), low, high, 1.0)
        tensor([ 0.0000, -0.5000])
    """
    return _UNIFORM(x, step, low, high, gradient_scale)


class _Uniform(torch.autograd.Function):
    """``clip(floor(x / step + 1/2), low, high) * step``.

    Keeps x and the result only, which the layers before and after keep anyway. Works in place, or in one native pass
    where that can be: a pass over an activation costs a tenth of the convolution that reads it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: Tensor | float, high: Tensor | float, scale: float) -> Tensor:
        ctx.fused = fusable(x, step, low, high)
        if ctx.fused:
            result = fused_round(x, step, low, high)
        else:
            codes = torch.div(_wide(x), step).add_(0.5).floor_().clamp_(low, high)  # type: ignore[arg-type]
            result = codes.mul_(step).to(x.dtype)
        ctx.save_for_backward(x, step, result if step.requires_grad else None)
        ctx.low, ctx.high, ctx.scale = low, high, scale
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, step, result = ctx.saved_tensors
        unbounded = isinstance(ctx.low, float) and math.isinf(ctx.low)
        low, high = (ctx.low - 0.5) * step, (ctx.high + 0.5) * step  # infinite where unbounded
        if ctx.fused and ctx.needs_input_grad[1]:
            inside, total = fused_round_backward(gradient, x, result, _below(low), high.item())
            for_step = step.new_full(step.shape, total) / step * ctx.scale
            return gradient if unbounded else inside, for_step, None, None, None
        for_x = gradient if unbounded else _inside(gradient, x, low, high)
        for_step = None
        if ctx.needs_input_grad[1]:
            # d(result)/d(step): (result - x) / step inside, the end code, result / step, outside.
            if step.numel() == 1:
                dot = _dot(gradient, result - x) if unbounded else _dot(gradient, result) - _dot(for_x, x)
                for_step = dot.reshape(step.shape) / step * ctx.scale
            else:
                for_step = (gradient * result - for_x * x).sum_to_size(step.shape) / step * ctx.scale
        return for_x, for_step, None, None, None


class _Bipolar(torch.autograd.Function):
    """``+step`` where ``x >= 0``, else ``-step``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, scale: float) -> Tensor:
        ratio = x / step
        codes = torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
        inside = ratio.abs() <= 2
        ctx.save_for_backward(inside, torch.where(inside, codes - ratio, codes) if step.requires_grad else None)
        ctx.step_shape, ctx.scale = step.shape, scale
        return codes * step

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, gradient)[:3]


# torch leaves `Function.apply` untyped.
_UNIFORM: Callable[..., Tensor] = _Uniform.apply
_BIPOLAR: Callable[..., Tensor] = _Bipolar.apply


def _wide(x: Tensor) -> Tensor:
    """Return float64 as it is, all else as float32: half precision has too few bits for codes."""
    return x if x.dtype == torch.float64 else x.float()


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Return ``sum x y`` of two tensors of one shape, without a temporary where images lie channels last."""
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x, y = x.permute(0, 2, 3, 1), y.permute(0, 2, 3, 1)
    return torch.dot(_wide(x.reshape(-1)), _wide(y.reshape(-1)))


def _inside(gradient: Tensor, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the gradient where ``low <= x < high``, else 0."""
    if low.numel() == 1 and x.device.type == "cpu":
        # One pass instead of four.
        result: Tensor = torch.ops.aten.hardtanh_backward(gradient, x, _below(low), high.item())
        return result
    return torch.where((x >= low) & (x < high), gradient, 0.0)


def _below(low: Tensor) -> float:
    """Return the next number below an end: passes that leave out both ends start there."""
    return float(torch.nextafter(low, low.new_tensor(-math.inf)))


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    inside, step_factor = ctx.saved_tensors
    for_x = gradient * inside if ctx.needs_input_grad[0] else None
    for_step = None
    if ctx.needs_input_grad[1]:
        for_step = (gradient * step_factor).sum_to_size(ctx.step_shape) * ctx.scale
    return for_x, for_step, None, None, None
