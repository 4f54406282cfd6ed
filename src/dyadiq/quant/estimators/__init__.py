"""Training estimators, by name: how gradients pass the rounding, and what of a quantizer is learned.

To add one: a file with an `Estimator` (quantizer classes that override `current_scale` or `forward`, or a transform of
weights) and one line in `ESTIMATORS`; `tests/unit/quant/test_estimators.py` runs over the registry. Whatever is
learned must come out of `current_scale`, `current_zero_point` and the transform: lowering reads these and nothing else,
so the integers are those that were trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dyadiq.core.errors import UnknownNameError
from dyadiq.quant.estimators.base import Estimator
from dyadiq.quant.estimators.dorefa import DOREFA
from dyadiq.quant.estimators.log_lsq import LOG_LSQ
from dyadiq.quant.estimators.lsq import LSQ
from dyadiq.quant.estimators.lsq_plus import LSQ_PLUS
from dyadiq.quant.estimators.pact import PACT
from dyadiq.quant.estimators.straight_through import STRAIGHT_THROUGH

__all__ = ["DEFAULT", "ESTIMATORS", "Estimator", "find_estimator"]

DEFAULT = LOG_LSQ

ESTIMATORS: Mapping[str, Estimator] = MappingProxyType(
    {estimator.name: estimator for estimator in (LOG_LSQ, LSQ, LSQ_PLUS, PACT, DOREFA, STRAIGHT_THROUGH)}
)


def find_estimator(name: str) -> Estimator:
    """Return an estimator by name.

    Raises:
        UnknownNameError: There is none.

    Example:
        >>> find_estimator("lsq").source
        'Esser et al. 2020, LSQ'
    """
    if name not in ESTIMATORS:
        raise UnknownNameError("estimator", name, ESTIMATORS)
    return ESTIMATORS[name]
