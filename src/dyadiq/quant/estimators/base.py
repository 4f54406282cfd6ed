"""What a training estimator is, and how a module is given one.

Used through the registry in `quant.estimators`, which opens with the guide for a new one. Knows no training loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dyadiq.quant.fake_quant import ActivationQuantizer, Quantizer, WeightQuantizer

if TYPE_CHECKING:
    from dyadiq.quant.module import QuantModule

__all__ = ["Estimator", "replace_quantizers_", "trained_range"]

_SMALLEST = 2.0**-10  # of the calibrated range: what a learned one may shrink to


@dataclass(frozen=True)
class Estimator:
    """How gradients pass a quantizer, and which ranges are learned.

    Attributes:
        name: In the registry and in recipes.
        source: Where it was published.
        weight: Class of the quantizers of weights.
        activation: Class of the quantizers of activations.
        transform: What stands for a weight in the forward pass, before batch norms are folded into it; None: itself.
        penalized: The learned ranges that a penalty pulls towards zero.
    """

    name: str
    source: str
    weight: type[WeightQuantizer]
    activation: type[ActivationQuantizer]
    transform: Callable[[Tensor], Tensor] | None = None
    penalized: Callable[[Iterable[Quantizer]], list[Tensor]] = lambda _: []

    @property
    def about(self) -> str:
        """Say where it comes from, for lists."""
        return self.source


def replace_quantizers_(module: QuantModule, estimator: Estimator) -> None:
    """Put quantizers of an estimator in the place of a module's own; scales, zero points, limits and grids stay."""
    for name, old in module.quantizers_by_name().items():
        kind: type[Quantizer] = estimator.weight if isinstance(old, WeightQuantizer) else estimator.activation
        new = kind(old.affine_params(), learn_scale=module.learn_scales)
        new.to(device=old.scale.device, dtype=old.scale.dtype).train(old.training)
        new.enabled = old.enabled
        if isinstance(old, WeightQuantizer) and isinstance(new, WeightQuantizer):
            new.limit_digits_(old.max_digits)
        if isinstance(old, ActivationQuantizer) and isinstance(new, ActivationQuantizer):
            new.set_grid_(old.channel_grid())
        module.replace_quantizer_(name, new)


def trained_range(parameter: Tensor, start: Tensor, *, pow2: bool) -> Tensor:
    """Return a learned range: positive, and a power of two where the format asks; straight-through in both.

    Example:
        >>> start = torch.tensor([1.0])
        >>> [float(trained_range(torch.tensor([v]), start, pow2=True)) for v in (3.0, -1.0)]
        [4.0, 0.0009765625]
    """
    value = torch.maximum(parameter.detach(), start * _SMALLEST)
    if pow2:
        value = torch.exp2(torch.floor(torch.log2(value) + 0.5))
    result: Tensor = _Instead.apply(parameter, value)  # type: ignore[no-untyped-call]
    return result


class _Instead(torch.autograd.Function):
    """A value in the place of a parameter that gets its gradient."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
