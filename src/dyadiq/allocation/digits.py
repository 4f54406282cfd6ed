"""Signed digits for single weights: the fewest adders for an error, or the least error for so many adders.

Used by `train.sparsify`. Thousands of weights with a few options each: a multiple-choice knapsack so fine-grained that
its Lagrangian solution is within one weight's step of the optimum, and says how far at most.

    minimise  sum_i error[n_i, i]    subject to  sum_i n_i cost_i <= budget

For a multiplier m >= 0 each weight takes ``argmin_n error[n, i] + m n cost_i``; m is found by bisection. Duality gives
``bound = sum_i min_n (error[n, i] + m n cost_i) - m budget <= optimum``. Source: Everett 1963.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ConfigError

__all__ = ["DigitChoice", "allocate_digits"]

_STEPS = 100  # bisections of the multiplier's logarithm
_SPAN = 1e-60  # from the smallest multiplier tried to the largest


@dataclass(frozen=True)
class DigitChoice:
    """What was chosen, and its certificate.

    Attributes:
        digits: Digits of every weight.
        error: Sum of errors.
        cost: ``sum digits * cost``, at most the budget.
        bound: No choice within the budget has a smaller error.
        price: What a unit of cost was worth, in errors; 0 where the budget does not bind.
    """

    digits: NDArray[np.int64]
    error: float
    cost: float
    bound: float
    price: float


def allocate_digits(errors: NDArray[np.float64], cost: NDArray[np.float64], budget: float) -> DigitChoice:
    """Return the digits of every weight.

    Args:
        errors: ``[options, weights]``, of 0, 1, ... digits; finite.
        cost: ``[weights]``, of one digit; positive.
        budget: Most ``sum digits * cost``.

    Raises:
        ConfigError: Shapes differ, or the budget is negative.

    Example:
        >>> choice = allocate_digits(np.array([[9.0, 1.0], [1.0, 0.5], [0.0, 0.0]]), np.ones(2), 1.0)
        >>> choice.digits.tolist(), choice.error, choice.cost
        ([1, 0], 2.0, 1.0)
    """
    if errors.ndim != 2 or errors.shape[1:] != cost.shape:
        raise ConfigError(f"digits: errors {list(errors.shape)} do not fit costs {list(cost.shape)}.")
    if not budget >= 0:
        raise ConfigError(f"digits: the budget must not be negative, got {budget}.")
    n = np.arange(len(errors), dtype=np.float64)[:, None]
    if _spent(errors.argmin(0), cost) <= budget:
        return _choice(errors, cost, budget, 0.0)
    # Above `high` nothing is worth a digit.
    high = float(((errors[0] - errors.min(0)) / cost).max()) * 2
    low = high * _SPAN
    for _ in range(_STEPS):
        middle = math.sqrt(low) * math.sqrt(high)
        if _spent((errors + middle * n * cost).argmin(0), cost) <= budget:
            high = middle
        else:
            low = middle
    return _choice(errors, cost, budget, high)


def _spent(digits: NDArray[np.int64], cost: NDArray[np.float64]) -> float:
    return float((digits * cost).sum())


def _choice(errors: NDArray[np.float64], cost: NDArray[np.float64], budget: float, multiplier: float) -> DigitChoice:
    penalized = errors + multiplier * np.arange(len(errors))[:, None] * cost
    digits = penalized.argmin(0)
    error = float(np.take_along_axis(errors, digits[None], 0).sum())
    bound = float(penalized.min(0).sum()) - multiplier * budget
    return DigitChoice(digits, error, _spent(digits, cost), min(bound, error), multiplier)
