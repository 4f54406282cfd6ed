"""What lower precision hurts: sensitivity of the loss to each decision, with its standard error.

To add a method: one file with a function `Problem -> SensitivityTable`, and one line in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from dyadiq.core.tables import SensitivityTable
from dyadiq.curvature.analyze import analyze
from dyadiq.curvature.gram import gram
from dyadiq.curvature.kl import kl
from dyadiq.curvature.problem import Problem
from dyadiq.curvature.squared_error import squared_error
from dyadiq.curvature.trace import trace

__all__ = ["METHODS", "Method", "Problem", "analyze"]

Method = Callable[[Problem], SensitivityTable]

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "gram": gram,
        "kl": kl,
        "squared_error": squared_error,
        "trace": trace,
    }
)
