"""The default: LSQ's gradient, with the scale learned as ``scale * 2^log2_gain``.

Steps of an optimizer are relative, so one rate suits scales of any size, and a scale stays positive. The arithmetic is
in `quant.fake_quant`. Sources: Esser et al. 2020, LSQ; Jain et al. 2020, TQT (the log domain, power-of-two scales).
"""

from __future__ import annotations

from dyadiq.quant.estimators.base import Estimator
from dyadiq.quant.fake_quant import ActivationQuantizer, WeightQuantizer

__all__ = ["LOG_LSQ"]

LOG_LSQ = Estimator("log_lsq", "Esser et al. 2020, LSQ; Jain et al. 2020, TQT", WeightQuantizer, ActivationQuantizer)
