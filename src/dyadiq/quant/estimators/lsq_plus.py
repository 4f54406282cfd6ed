"""LSQ+: asymmetric activations learn their offset beside their step.

    result = clip(floor((x - offset) / step + 1/2), qmin, qmax) * step + offset
    d(result)/d(step)   = code - (x - offset) / step  inside,  the end code  outside
    d(result)/d(offset) = 0                           inside,  1             outside,    both times 1 / sqrt(n qmax)

Integers need a zero point that is a code, so the offset used is ``-zero_point * step`` with the zero point rounded,
straight-through; zero stays representable. Weights and symmetric activations have no offset: LSQ.
Source: Bhalgat et al. 2020, "LSQ+: Improving low-bit quantization through learnable offsets", eq. (4) to (6).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dyadiq.core.affine import AffineParams
from dyadiq.quant.estimators.base import Estimator
from dyadiq.quant.estimators.lsq import LsqActivationQuantizer, LsqWeightQuantizer

__all__ = ["LSQ_PLUS", "LsqPlusActivationQuantizer"]


class LsqPlusActivationQuantizer(LsqActivationQuantizer):
    """LSQ+ for activations.

    Attributes:
        offset: Parameter ``[1]``, the real value of code 0; None where the format is symmetric or nothing is learned.
    """

    def __init__(self, params: AffineParams, *, learn_scale: bool) -> None:
        """Start at the calibrated zero point."""
        super().__init__(params, learn_scale=learn_scale)
        learned = learn_scale and self.fmt.scheme == "asymmetric" and not self.qtype.bipolar
        self.offset = nn.Parameter(-self.zero_point * self.scale) if learned else None

    def current_zero_point(self) -> Tensor:
        """Return the code of 0.0 now, int64."""
        if self.offset is None:
            return self.zero_point
        codes = torch.floor(-self.offset.detach() / self.current_scale().detach() + 0.5)
        return codes.clamp(self.qtype.qmin, self.qtype.qmax).long()

    def forward(self, x: Tensor) -> Tensor:
        """Return the fake-quantized activation."""
        if self.offset is None or self.grid is not None or not self.enabled:
            return super().forward(x)
        step, zero_point = self._step(x), self.current_zero_point().reshape(())
        share = self._gradient_scale(x[0].numel())
        low, high = self.qtype.qmin, self.qtype.qmax
        return _OFFSET(x, step, self.offset.to(step.dtype).reshape(()), zero_point, low, high, share)


class _Offset(torch.autograd.Function):
    """The formula of the head of this file, with the zero point given."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, step: Tensor, offset: Tensor, zero_point: Tensor, low: int, high: int, scale: float
    ) -> Tensor:
        ratio = x.to(step.dtype) / step
        codes = torch.floor(ratio + 0.5) + zero_point
        clipped = codes.clamp(low, high)
        ctx.save_for_backward(clipped == codes, clipped, ratio + zero_point)
        ctx.scale = scale
        return ((clipped - zero_point) * step).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inside, codes, ratio = ctx.saved_tensors
        for_x = torch.where(inside, gradient, 0.0)
        wide = gradient.to(codes.dtype)
        for_step = (wide * torch.where(inside, codes - ratio, codes)).sum() * ctx.scale
        for_offset = (wide * ~inside).sum() * ctx.scale
        return for_x, for_step, for_offset, None, None, None, None


_OFFSET: Callable[..., Tensor] = _Offset.apply

LSQ_PLUS = Estimator("lsq+", "Bhalgat et al. 2020, LSQ+", LsqWeightQuantizer, LsqPlusActivationQuantizer)
