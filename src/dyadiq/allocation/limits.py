"""Budgets as people write them to integer limits by metric.

Used by `allocate` and `stability`. ``bits`` is the average width of weights: ``{"bits": 4}`` limits the metric
``weight_bits`` to four times the number of weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

from dyadiq.core.errors import ConfigError, UnknownNameError
from dyadiq.core.facts import NetworkFacts
from dyadiq.core.tables import CostTable
from dyadiq.core.units import parse_budget

__all__ = ["AVERAGE_BITS", "parse_limits"]

AVERAGE_BITS = "bits"
_TOTAL_BITS = "weight_bits"


def parse_limits(
    budget: Mapping[str, float | str], known: Mapping[str, CostTable], facts: NetworkFacts
) -> dict[str, int]:
    """Return the integer limit of every budgeted metric, rounded down: what is asked for is never exceeded.

    Raises:
        ConfigError: No mapping, empty, a bad amount, or both ``bits`` and ``weight_bits``.
        UnknownNameError: A metric without a cost table.

    Example:
        >>> from dyadiq.core.facts import Decision
        >>> from dyadiq.cost import cost_tables
        >>> facts = NetworkFacts((Decision("w", "weight", (10, 10)),), ())
        >>> parse_limits({"bits": 3.5}, cost_tables(facts, [2, 4]), facts)
        {'weight_bits': 350}
    """
    if not isinstance(budget, Mapping):
        raise ConfigError(
            f"the budget must say what is limited, as a mapping of metric to limit; got {budget!r}. "
            "Give for example {'size': '25%'}."
        )
    if not budget:
        raise ConfigError("the budget is empty. Give at least one, for example {'size': '25%'}.")
    if AVERAGE_BITS in budget and _TOTAL_BITS in budget:
        raise ConfigError(
            f"the budgets {AVERAGE_BITS!r} (average width of weights) and {_TOTAL_BITS!r} (bits of all weights) limit "
            "the same thing. Give one of them."
        )
    limits = {}
    for metric, value in budget.items():
        if metric == AVERAGE_BITS and metric not in known:
            n_weights = sum(d.n_elements for d in facts.decisions if d.kind == "weight")
            limits[_TOTAL_BITS] = math.floor(_average(value) * n_weights)
            continue
        if metric not in known:
            raise UnknownNameError("cost metric", metric, [*known, AVERAGE_BITS])
        cost = known[metric]
        limits[metric] = parse_budget(
            value, metric=metric, unit=cost.unit, reference=cost.reference, plain_unit=cost.plain_unit
        )
    return limits


def _average(value: float | str) -> Fraction:
    """Return a plain positive number exactly as it is written in decimals.

    Raises:
        ConfigError: Anything else.
    """
    try:
        average = Fraction(0) if isinstance(value, bool) else Fraction(str(value).strip())
    except (ValueError, ZeroDivisionError):
        average = Fraction(0)
    if average <= 0:
        raise ConfigError(f"budget {AVERAGE_BITS}: expected an average width of weights above zero, got {value!r}.")
    return average
