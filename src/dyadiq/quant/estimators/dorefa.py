"""DoReFa's estimator: weights pass through tanh before they are quantized; ranges stay as calibrated.

    w' = max|w| * tanh(w) / max|tanh(w)|       then quantized straight-through, clipped

The paper's weights are in [-1, 1], and the batch norm behind them restores the size; here the factor ``max|w|`` keeps
the size that a trained network has. The paper's grid has no code for zero, so the grid is that of the format instead.
The transform acts on the model's own weights, before batch norms are folded; it is applied when lowering, and written
back into the weights when another estimator takes over. Gradients are not quantized.
Source: Zhou et al. 2016, "DoReFa-Net", eq. (9), section 2.3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dyadiq.core.affine import AffineParams
from dyadiq.quant.estimators.base import Estimator
from dyadiq.quant.fake_quant import ActivationQuantizer, WeightQuantizer

__all__ = ["DOREFA", "FixedActivationQuantizer", "FixedWeightQuantizer", "bounded_weight"]


class FixedWeightQuantizer(WeightQuantizer):
    """Quantizes a weight with the calibrated scale; straight-through, clipped."""

    def __init__(self, params: AffineParams, *, learn_scale: bool) -> None:
        """Take over calibrated parameters; nothing is learned."""
        super().__init__(params, learn_scale=False)


class FixedActivationQuantizer(ActivationQuantizer):
    """Quantizes an activation with the calibrated scale; straight-through, clipped."""

    def __init__(self, params: AffineParams, *, learn_scale: bool) -> None:
        """Take over calibrated parameters; nothing is learned."""
        super().__init__(params, learn_scale=False)


def bounded_weight(weight: Tensor) -> Tensor:
    """Return ``max|w| * tanh(w) / max|tanh(w)|``; zeros stay zeros.

    Example:
        >>> bounded_weight(torch.tensor([0.0, 1.0, -2.0]))
        tensor([ 0.0000,  1.5800, -2.0000])
    """
    bounded = torch.tanh(weight)
    top = bounded.abs().max()
    return weight if bool(top == 0) else weight.abs().max() * bounded / top


DOREFA = Estimator(
    "dorefa", "Zhou et al. 2016, DoReFa-Net", FixedWeightQuantizer, FixedActivationQuantizer, bounded_weight
)
