"""Prices of budgets from the linear relaxation, and what they prove: reduced costs and a bound for any restriction.

Used by `solve` (options that cannot be in a better plan go), `k_best` and `marginal`; for problems without pair costs.

For any prices y >= 0, ``L(y) = sum_d min_o (loss + y cost) - y (limit - fixed)`` bounds every feasible plan from below,
and taking option o of decision d adds its reduced cost ``loss + y cost - min`` to that bound. The best y is the dual of
the linear relaxation; a float error in y costs tightness, never truth (the sums themselves carry a margin).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array

from dyadiq.allocation.knapsack import Knapsack
from dyadiq.allocation.native_output import native_stdout_to_stderr
from dyadiq.allocation.problem import Problem

__all__ = ["Relaxation", "relax"]

_MARGIN = 1e-10  # of the sizes that enter a bound


@dataclass(frozen=True)
class Relaxation:
    """Prices with the bound they prove.

    Attributes:
        prices: Loss per unit of each constraint's cost, >= 0.
        bound: No feasible plan has a smaller loss (margin for rounding taken off).
        excess: Per decision and option, what taking it adds to the bound.
    """

    prices: tuple[float, ...]
    bound: float
    excess: tuple[tuple[float, ...], ...]


def relax(problem: Problem) -> Relaxation:
    """Return the prices of the linear relaxation and their bound; zero prices if it has no solution.

    Example:
        >>> from dyadiq.allocation.problem import Constraint
        >>> size = Constraint("size", ((20, 40), (8, 16)), limit=50)
        >>> found = relax(Problem(("a", "b"), ((4, 8), (4, 8)), ((0.5, 0.0), (0.25, 0.0)), (size,)))
        >>> found.prices, round(found.bound, 6), [tuple(round(v, 6) for v in row) for row in found.excess]
        ((0.025,), 0.15, [(0.0, 0.0), (0.05, 0.0)])
    """
    prices = np.array([Knapsack(problem).price()]) if len(problem.constraints) == 1 else _dual(problem)
    priced = [
        np.array(row, dtype=np.float64)
        + sum(y * np.array(c.unary[d], dtype=np.float64) for y, c in zip(prices, problem.constraints, strict=True))
        for d, row in enumerate(problem.loss)
    ]
    room = [float(y) * (c.limit - c.fixed) for y, c in zip(prices, problem.constraints, strict=True)]
    least = [float(p.min()) for p in priced]
    margin = _MARGIN * (math.fsum(map(abs, least)) + math.fsum(map(abs, room)))
    bound = math.fsum([*least, *(-r for r in room)]) - margin
    excess = tuple(tuple((p - low).tolist()) for p, low in zip(priced, least, strict=True))
    return Relaxation(tuple(prices.tolist()), bound, excess)


def _dual(problem: Problem) -> NDArray[np.float64]:
    sizes = [len(row) for row in problem.loss]
    n = sum(sizes)
    starts = np.cumsum([0, *sizes])
    one_hot: Any = csr_array((np.ones(n), np.arange(n), starts), shape=(len(sizes), n))  # the stubs know arrays only
    cost = np.array([[v for row in c.unary for v in row] for c in problem.constraints], dtype=np.float64)
    limit = np.array([c.limit - c.fixed for c in problem.constraints], dtype=np.float64)
    loss = np.array([v for row in problem.loss for v in row])
    scale = np.maximum(1.0, np.abs(cost).max(axis=1, initial=1.0))
    size = float(np.abs(loss).max(initial=0.0)) or 1.0
    with native_stdout_to_stderr():
        result = linprog(
            loss / size,
            A_ub=cost / scale[:, None],
            b_ub=limit / scale,
            A_eq=one_hot,
            b_eq=np.ones(len(sizes)),
            bounds=(0, None),
        )
    if result.status != 0:
        return np.zeros(len(problem.constraints))
    marginals = np.asarray(result.ineqlin.marginals, dtype=np.float64)
    prices: NDArray[np.float64] = np.maximum(0.0, -marginals * size / scale)
    return prices
