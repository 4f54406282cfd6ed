"""PACT: activations learn where they are clipped; weights are DoReFa's.

    result = clip(x, 0, alpha), then rounded to the codes;   step = alpha / qmax
    d(result)/d(alpha) = 1  where x >= alpha,  0  elsewhere;   the loss gets ``range_decay * sum alpha^2``

Rounding errors inside the range do not pull at alpha, as they do in LSQ; the penalty makes it shrink. Signed codes are
clipped at ``qmin / qmax * alpha`` below, which counts in the gradient alike.
Source: Choi et al. 2018, "PACT: Parameterized Clipping Activation for Quantized Neural Networks", eq. (1) to (3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dyadiq.core.affine import AffineParams
from dyadiq.quant.estimators.base import Estimator, trained_range
from dyadiq.quant.estimators.dorefa import FixedWeightQuantizer, bounded_weight
from dyadiq.quant.fake_quant import ActivationQuantizer, Quantizer
from dyadiq.quant.rounding_gradient import fake_quantize, round_to_grid

__all__ = ["PACT", "PactActivationQuantizer"]


class PactActivationQuantizer(ActivationQuantizer):
    """PACT for activations.

    Attributes:
        alpha: Parameter ``[1]``, the largest value; None where nothing is learned.
    """

    def __init__(self, params: AffineParams, *, learn_scale: bool) -> None:
        """Start at the calibrated range."""
        super().__init__(params, learn_scale=False)
        self.alpha = nn.Parameter(self.scale * self._top()) if learn_scale else None

    def _top(self) -> int:
        """Return the largest code above that of zero, or 1 where there is none."""
        return max(1, self.qtype.qmax - int(self.zero_point))

    def current_scale(self) -> Tensor:
        """Return ``alpha / qmax``, ``[1]``."""
        if self.alpha is None:
            return self.scale
        return trained_range(self.alpha / self._top(), self.scale, pow2=self.fmt.scale == "pow2")

    def forward(self, x: Tensor) -> Tensor:
        """Return the fake-quantized activation."""
        if not self.enabled:
            return x
        if self.grid is not None:
            return super().forward(x)
        step = self._step(x)
        if self.qtype.bipolar:
            return fake_quantize(x, step, 0, self.qtype)
        zero_point = int(self.zero_point)
        return _CLIPPED(x, step, self.qtype.qmin - zero_point, self.qtype.qmax - zero_point)

    def round(self, x: Tensor) -> Tensor:
        """Return ``x`` on this quantizer's grid but not clipped; no gradient for alpha."""
        return round_to_grid(x, self._step(x).detach()) if self.enabled else x


class _Clipped(torch.autograd.Function):
    """``clip(floor(x / step + 1/2), low, high) * step``; the step's gradient is that of the ends alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
        wide = x.to(step.dtype)
        ctx.save_for_backward(wide < low * step, wide >= high * step)
        ctx.low, ctx.high = low, high
        return torch.floor(wide / step + 0.5).clamp_(low, high).mul_(step).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        below, above = ctx.saved_tensors
        total = (gradient * below).sum(dtype=torch.float64) * ctx.low
        total = total + (gradient * above).sum(dtype=torch.float64) * ctx.high
        return torch.where(below | above, 0.0, gradient), total, None, None


_CLIPPED: Callable[..., Tensor] = _Clipped.apply


def _alphas(quantizers: Iterable[Quantizer]) -> list[Tensor]:
    found = [q.alpha for q in quantizers if isinstance(q, PactActivationQuantizer)]
    return [alpha for alpha in found if alpha is not None]


PACT = Estimator(
    "pact", "Choi et al. 2018, PACT", FixedWeightQuantizer, PactActivationQuantizer, bounded_weight, _alphas
)
