"""LSQ: the step size itself is the parameter, with the gradient of the paper.

    d(result)/d(step) = code - x / step  inside,  the end code  outside,   times 1 / sqrt(n qmax)

Against `log_lsq`, the default, only the domain of the parameter differs: steps of an optimizer are absolute here, so
a small step size needs a small rate (``scale_rate_frac``), above all with Adam. A step cannot fall below 2^-10 of the
calibrated one. Source: Esser et al. 2020, "Learned Step Size Quantization", eq. (3) and section 2.2.
"""

from __future__ import annotations

from torch import Tensor, nn

from dyadiq.core.affine import AffineParams
from dyadiq.quant.estimators.base import Estimator, trained_range
from dyadiq.quant.fake_quant import ActivationQuantizer, Quantizer, WeightQuantizer

__all__ = ["LSQ", "LsqActivationQuantizer", "LsqWeightQuantizer"]


class _LearnedStep(Quantizer):
    """A quantizer whose step is the parameter ``step``, started at the calibrated scale."""

    def __init__(self, params: AffineParams, *, learn_scale: bool) -> None:
        super().__init__(params, learn_scale=False)
        self.step = nn.Parameter(self.scale.clone()) if learn_scale else None

    def current_scale(self) -> Tensor:
        """Return the learned step, ``[1]`` or ``[O]``."""
        if self.step is None:
            return self.scale
        return trained_range(self.step, self.scale, pow2=self.fmt.scale == "pow2")

    def extra_repr(self) -> str:
        """Say the code type and whether the step is learned."""
        return f"{self.qtype}, learn_scale={self.step is not None}"


class LsqWeightQuantizer(_LearnedStep, WeightQuantizer):
    """LSQ for weights."""


class LsqActivationQuantizer(_LearnedStep, ActivationQuantizer):
    """LSQ for activations."""


LSQ = Estimator("lsq", "Esser et al. 2020, LSQ", LsqWeightQuantizer, LsqActivationQuantizer)
