"""Straight-through with clipping: gradients are 1 inside the range and 0 outside; ranges stay as calibrated.

Source: Bengio, Leonard and Courville 2013; clipping as in Hubara et al. 2016, "Quantized Neural Networks", eq. (6).
"""

from __future__ import annotations

from dyadiq.quant.estimators.base import Estimator
from dyadiq.quant.estimators.dorefa import FixedActivationQuantizer, FixedWeightQuantizer

__all__ = ["STRAIGHT_THROUGH"]

STRAIGHT_THROUGH = Estimator(
    "straight_through", "Bengio et al. 2013; Hubara et al. 2016", FixedWeightQuantizer, FixedActivationQuantizer
)
