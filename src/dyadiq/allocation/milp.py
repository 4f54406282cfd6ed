"""Several budgets, or pair costs that do not merge: mixed-integer programming by HiGHS, re-checked in exact integers.

Used by `allocate.solve`. One binary per decision and option, one-hot; a pair cost gets ``z[i, j]`` with
``sum_j z[i, j] = x_a[i]`` and ``sum_i z[i, j] = x_b[j]``, so with binary x exactly ``z[i, j] = x_a[i] x_b[j]``.

A solver in floating point may return a plan that breaks a budget inside its tolerance. Guards: costs are integers
divided by their gcd, so the right-hand side sits half a unit above the limit, as far from allowed as from forbidden
totals; every answer is re-checked by `Constraint.total`; one that fails is forbidden by a cut and the search goes on.
Losses are rescaled, and options too lossy to be in any better plan removed, so that HiGHS's absolute tolerances
(1e-6) are about 1e-12 of the plan's loss. A last polish in exact arithmetic takes single changes that still help.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from dyadiq.allocation.local import cheapest_choice, improve
from dyadiq.allocation.native_output import native_stdout_to_stderr
from dyadiq.allocation.problem import Choice, Constraint, Problem, Solution
from dyadiq.core.errors import InfeasibleError

__all__ = ["solve_milp"]

_MAX_CUTS = 100
_TIME_LIMIT_S = 120.0
_OBJECTIVE_SCALE = 1e6
_ROW_SCALE = 2**20
_BOUND_ACCURACY = 1e-9
_OPTIMAL, _LIMIT_REACHED, _INFEASIBLE = 0, 1, 2

Row = dict[int, float]


def solve_milp(problem: Problem) -> Solution | None:
    """Return a choice that HiGHS proves optimal, or None if it proves that nothing is feasible.

    The bound is HiGHS's, in float64: a gap below 1e-9 of the loss above the unconstrained optimum counts as closed. If
    the time limit (120 s) stops the search, the method says so and the gap stays open.

    Raises:
        InfeasibleError: HiGHS neither found a plan nor proved that there is none.

    Example:
        >>> size = Constraint("size", ((20, 40), (8, 16)), limit=50)
        >>> ops = Constraint("ops", ((1, 2), (1, 2)), limit=3)
        >>> problem = Problem(("a", "b"), ((4, 8), (4, 8)), ((0.5, 0.0), (0.25, 0.0)), (size, ops))
        >>> solve_milp(problem).choice
        (1, 0)
    """
    start = cheapest_choice(problem)
    best = improve(problem, start) if problem.is_feasible(start) else None
    model = _Model(problem, best)
    rejected: list[Choice] = []
    method = "HiGHS mixed-integer program, gap 0; re-checked in integers"
    while True:
        status, candidate, bound = model.solve(rejected)
        if status > _INFEASIBLE or (status == _LIMIT_REACHED and candidate is None and best is None):
            raise InfeasibleError(
                f"HiGHS found no plan for the budgets on {', '.join(c.name for c in problem.constraints)} within "
                f"{_TIME_LIMIT_S:.0f} s and did not prove that there is none. Loosen a budget or give fewer candidates."
            )
        if status == _INFEASIBLE:
            # Every plan that HiGHS accepts was cut off, and all of those break a budget.
            return _certified(problem, best, None, method)
        if candidate is not None and problem.is_feasible(candidate):
            candidate = improve(problem, candidate)
            if best is None or problem.objective(candidate) < problem.objective(best):
                best = candidate
        if status == _OPTIMAL and candidate is not None and not problem.is_feasible(candidate):
            rejected.append(candidate)
            if len(rejected) < _MAX_CUTS:
                continue
            method += f"; stopped after {_MAX_CUTS} answers broke a budget inside the solver's tolerance"
        elif status == _LIMIT_REACHED:
            method += f"; stopped at the time limit of {_TIME_LIMIT_S:.0f} s"
        elif rejected:
            method += f" ({len(rejected)} answers broke a budget inside the solver's tolerance and were cut off)"
        return _certified(problem, best, bound, method)


def _certified(problem: Problem, best: Choice | None, bound: float | None, method: str) -> Solution | None:
    if best is None:
        return None
    objective = problem.objective(best)
    noise = _BOUND_ACCURACY * (objective - math.fsum(map(min, problem.loss)))
    lower = objective if bound is None or objective - bound <= noise else bound
    return Solution(best, objective, lower, method)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where the variables are: first column of each decision, and of each pair of decisions that share a cost."""

    decision: tuple[int, ...]
    pair: dict[tuple[int, int], int]
    total: int


class _Model:
    """The linear program, built once; cuts are added per solve."""

    def __init__(self, problem: Problem, start: Choice | None) -> None:
        self._problem = problem
        self._columns = _lay_out(problem)
        self._least = [min(row) for row in problem.loss]
        self._base = math.fsum(self._least)
        # No option that alone adds more than a known plan adds in all can be in a better plan.
        largest = math.fsum(max(row) - low for row, low in zip(problem.loss, self._least, strict=True))
        spread = largest if start is None else problem.objective(start) - self._base
        self._allowed = [
            [value - low <= spread * (1 + 1e-9) for value in row]
            for row, low in zip(problem.loss, self._least, strict=True)
        ]
        self._scale = _OBJECTIVE_SCALE / spread if spread > 1e-200 else 1.0
        self._rows, self._low, self._high = _structure(problem, self._columns)
        for constraint in problem.constraints:
            row, limit = _budget_row(constraint, self._columns)
            self._add(row, -np.inf, limit)

    def solve(self, rejected: list[Choice]) -> tuple[int, Choice | None, float | None]:
        """Return HiGHS's status, its choice, and a lower bound on the loss."""
        first = self._columns.decision
        rows, low, high = list(self._rows), list(self._low), list(self._high)
        for cut in rejected:
            rows.append({first[d] + o: 1.0 for d, o in enumerate(cut)})
            low.append(-np.inf)
            high.append(len(cut) - 1.0)
        cost, upper = np.zeros(self._columns.total), np.ones(self._columns.total)
        integrality = np.zeros(self._columns.total, dtype=np.int64)
        for d, row in enumerate(self._problem.loss):
            for o, value in enumerate(row):
                allowed = self._allowed[d][o]
                cost[first[d] + o] = (value - self._least[d]) * self._scale if allowed else 0.0
                upper[first[d] + o] = float(allowed)
                integrality[first[d] + o] = 1
        for presolve in (True, False):  # presolve may end in "infeasible or unbounded"; without it the answer is clear
            with native_stdout_to_stderr():
                result = milp(
                    c=cost,
                    integrality=integrality,
                    bounds=Bounds(np.zeros(self._columns.total), upper),
                    constraints=LinearConstraint(_sparse(rows, self._columns.total), np.array(low), np.array(high)),
                    options={"mip_rel_gap": 0.0, "time_limit": _TIME_LIMIT_S, "disp": False, "presolve": presolve},
                )
            if result.status <= _INFEASIBLE:
                break
        choice: Choice | None = None
        if result.x is not None:
            choice = tuple(
                int(np.argmax(result.x[at : at + len(options)]))
                for at, options in zip(first, self._problem.options, strict=True)
            )
        dual = result.mip_dual_bound
        bound = None if dual is None or not math.isfinite(dual) else self._base + dual / self._scale
        return int(result.status), choice, self._base if bound is None else bound

    def _add(self, row: Row, low: float, high: float) -> None:
        self._rows.append(row)
        self._low.append(low)
        self._high.append(high)


def _lay_out(problem: Problem) -> _Columns:
    total, decision = 0, []
    for options in problem.options:
        decision.append(total)
        total += len(options)
    pair: dict[tuple[int, int], int] = {}
    for constraint in problem.constraints:
        for p in constraint.pairs:
            if (p.a, p.b) not in pair:
                pair[p.a, p.b] = total
                total += len(problem.options[p.a]) * len(problem.options[p.b])
    return _Columns(tuple(decision), pair, total)


def _structure(problem: Problem, columns: _Columns) -> tuple[list[Row], list[float], list[float]]:
    """Return the one-hot rows and the rows that tie pair variables to their decisions."""
    rows: list[Row] = []
    values: list[float] = []
    for at, options in zip(columns.decision, problem.options, strict=True):
        rows.append({at + o: 1.0 for o in range(len(options))})
        values.append(1.0)
    for (a, b), at in columns.pair.items():
        n_a, n_b = len(problem.options[a]), len(problem.options[b])
        for i in range(n_a):
            rows.append({**{at + i * n_b + j: 1.0 for j in range(n_b)}, columns.decision[a] + i: -1.0})
        for j in range(n_b):
            rows.append({**{at + i * n_b + j: 1.0 for i in range(n_a)}, columns.decision[b] + j: -1.0})
        values += [0.0] * (n_a + n_b)
    return rows, list(values), list(values)


def _budget_row(constraint: Constraint, columns: _Columns) -> tuple[Row, float]:
    """Return the row of one budget, scaled to moderate numbers, and its right-hand side.

    Costs above each row's cheapest option, in units of their gcd: totals are integers, so a limit half a unit higher
    admits exactly the same plans and keeps a full half unit from the solver's tolerance.
    """
    counts: dict[int, int] = {}
    room = constraint.limit - constraint.fixed
    for at, row in zip(columns.decision, constraint.unary, strict=True):
        room -= min(row)
        for o, value in enumerate(row):
            counts[at + o] = value - min(row)
    for pair in constraint.pairs:
        at, width = columns.pair[pair.a, pair.b], len(pair.table[0])
        low = min(min(line) for line in pair.table)
        room -= low
        for i, line in enumerate(pair.table):
            for j, value in enumerate(line):
                column = at + i * width + j
                counts[column] = counts.get(column, 0) + value - low
    unit = math.gcd(*counts.values()) or 1
    limit = room // unit
    scale = max(1, abs(limit) // _ROW_SCALE)
    return {c: v // unit / scale for c, v in counts.items() if v}, (limit + 0.5) / scale


def _sparse(rows: list[Row], width: int) -> csr_array:
    starts = np.cumsum([0, *(len(row) for row in rows)])
    columns = np.array([c for row in rows for c in row], dtype=np.int64)
    values = np.array([v for row in rows for v in row.values()], dtype=np.float64)
    return csr_array((values, columns, starts), shape=(len(rows), width))
