"""What lower precision hurts: sensitivity of the loss to each decision, with its standard error.

To add a method: one file with a function `Problem -> SensitivityTable`, and one line in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from dyadiq.core.tables import SensitivityTable
from dyadiq.curvature.analyze import analyze
from dyadiq.curvature.data_splits import data_splits
from dyadiq.curvature.eigenvalue import eigenvalue
from dyadiq.curvature.fisher import fisher
from dyadiq.curvature.gram import gram
from dyadiq.curvature.hessian_trace import hessian_trace, hessian_xtrace
from dyadiq.curvature.kl import kl
from dyadiq.curvature.loss import loss
from dyadiq.curvature.problem import Problem
from dyadiq.curvature.sampled_trace import sampled_trace
from dyadiq.curvature.squared_error import squared_error
from dyadiq.curvature.trace import trace

__all__ = ["LABELLED_METHODS", "METHODS", "Method", "Problem", "analyze"]

Method = Callable[[Problem], SensitivityTable]

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "data_splits": data_splits,
        "eigenvalue": eigenvalue,
        "fisher": fisher,
        "gram": gram,
        "hessian_trace": hessian_trace,
        "hessian_xtrace": hessian_xtrace,
        "kl": kl,
        "loss": loss,
        "sampled_trace": sampled_trace,
        "squared_error": squared_error,
        "trace": trace,
    }
)

LABELLED_METHODS = frozenset({"fisher", "hessian_trace", "hessian_xtrace", "loss"})
"""Methods that compare with labels: their batches are ``(inputs, labels)``."""
