"""The allocation problem as plain numbers: options, losses, integer costs and limits.

Made from a SensitivityTable and CostTables; read by every solver and by the brute-force oracle.
Knows no network. Losses are floats and only ever compared; costs are Python ints and decide feasibility exactly.

    minimise  sum_d loss[d][x_d]   subject to   fixed + sum_d unary[d][x_d] + sum_pairs table[x_a][x_b] <= limit

for each constraint, with x_d an index into ``options[d]``. Decisions are kept in the order of their names and
constraints in the order of theirs, so that the answer does not depend on the order of anybody's dictionary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dyadiq.core.errors import ConfigError, QuantError
from dyadiq.core.tables import CostTable, SensitivityTable

__all__ = ["Choice", "Constraint", "Pair", "Problem", "Solution", "build_problem"]

Choice = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """A cost of two decisions together: ``table[option of a][option of b]``."""

    a: int
    b: int
    table: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Constraint:
    """One budget: an integer cost that must not exceed an integer limit.

    Attributes:
        name: Metric.
        unary: Per decision, per option.
        pairs: Costs of two decisions together.
        fixed: What no choice changes.
        limit: Largest allowed total.
    """

    name: str
    unary: tuple[tuple[int, ...], ...]
    limit: int
    pairs: tuple[Pair, ...] = ()
    fixed: int = 0

    def total(self, choice: Sequence[int]) -> int:
        """Return the cost of a choice, in exact integer arithmetic."""
        total = self.fixed + sum(row[o] for row, o in zip(self.unary, choice, strict=True))
        return total + sum(p.table[choice[p.a]][choice[p.b]] for p in self.pairs)


@dataclass(frozen=True, slots=True)
class Problem:
    """Decisions with options and losses, and the constraints that tie them together.

    Attributes:
        names: Decision names.
        options: Candidate widths per decision, ascending.
        loss: Expected loss increase per decision and option; any finite numbers.
        constraints: Budgets.

    Raises:
        ConfigError: Rows do not match the options.
        QuantError: A loss is not finite.

    Example:
        >>> size = Constraint("size", ((20, 40), (8, 16)), limit=50)
        >>> problem = Problem(("a", "b"), ((4, 8), (4, 8)), ((0.5, 0.0), (0.25, 0.0)), (size,))
        >>> problem.objective((1, 0)), problem.is_feasible((1, 0)), problem.is_feasible((1, 1))
        (0.25, True, False)
    """

    names: tuple[str, ...]
    options: tuple[tuple[int, ...], ...]
    loss: tuple[tuple[float, ...], ...]
    constraints: tuple[Constraint, ...]

    def __post_init__(self) -> None:
        """Check that every row has one entry per option and every loss is finite.

        Raises:
            ConfigError: Rows do not match the options.
            QuantError: A loss is not finite.
        """
        shape = [len(o) for o in self.options]
        tables = {"loss": self.loss, **{f"cost {c.name}": c.unary for c in self.constraints}}
        for what, rows in tables.items():
            if [len(row) for row in rows] != shape:
                raise ConfigError(f"allocation problem: {what} has rows of {[len(r) for r in rows]}, expected {shape}.")
        for name, options, row in zip(self.names, self.options, self.loss, strict=True):
            for bits, value in zip(options, row, strict=True):
                if not math.isfinite(value):
                    raise QuantError(
                        f"{name}: the expected loss at {bits} bits is {value}, which cannot be compared. "
                        "Look for NaN or infinite weights, activations or calibration data."
                    )

    def objective(self, choice: Sequence[int]) -> float:
        """Return the predicted loss of a choice; correctly rounded, so independent of order."""
        return math.fsum(row[o] for row, o in zip(self.loss, choice, strict=True))

    def is_feasible(self, choice: Sequence[int]) -> bool:
        """Return whether a choice meets every limit, in exact integer arithmetic."""
        return all(c.total(choice) <= c.limit for c in self.constraints)

    def bits(self, choice: Sequence[int]) -> dict[str, int]:
        """Return decision name to bits."""
        return {n: options[o] for n, options, o in zip(self.names, self.options, choice, strict=True)}

    @property
    def n_candidates(self) -> int:
        """Number of choices, feasible or not."""
        return math.prod(len(o) for o in self.options)


@dataclass(frozen=True, slots=True)
class Solution:
    """A feasible choice with a bound: no feasible choice has a loss below ``lower_bound``."""

    choice: Choice
    objective: float
    lower_bound: float
    method: str


def build_problem(
    table: SensitivityTable,
    costs: Mapping[str, CostTable],
    limits: Mapping[str, int],
    options: Mapping[str, tuple[int, ...]],
) -> Problem:
    """Join sensitivities and costs into one problem.

    Args:
        table: Losses; a decision with a single option may be absent (its loss is a constant).
        costs: Cost tables by metric; must hold every metric of ``limits``.
        limits: Metric to integer limit.
        options: Candidate widths per decision (`cost.candidate_bits`).

    Raises:
        ConfigError: A loss or cost is missing for a candidate; lists every missing one.
        QuantError: A loss is not finite.
    """
    names = tuple(sorted(options))
    loss = _losses(table, names, options)
    constraints = tuple(_constraint(costs[metric], limits[metric], names, options) for metric in sorted(limits))
    return Problem(names, tuple(options[n] for n in names), loss, constraints)


def _losses(
    table: SensitivityTable, names: Sequence[str], options: Mapping[str, tuple[int, ...]]
) -> tuple[tuple[float, ...], ...]:
    rows, missing = [], []
    for name in names:
        row = table.entries.get(name, {})
        fixed = table.facts.decision(name).fixed_bits is not None or (len(options[name]) == 1 and not row)
        absent = [] if fixed else [b for b in options[name] if b not in row]
        if absent:
            measured = ", ".join(map(str, sorted(row))) or "none"
            missing.append(f"{name} at {', '.join(map(str, absent))} bits (measured: {measured})")
        rows.append(tuple(row[b].value if b in row else 0.0 for b in options[name]))
    if missing:
        raise ConfigError(
            f"the sensitivity table ({table.method}) lacks {len(missing)} of {len(names)} decisions at candidate "
            f"widths: {'; '.join(missing)}. Run analyze with these bits, or allocate with measured ones."
        )
    return tuple(rows)


def _constraint(
    cost: CostTable, limit: int, names: Sequence[str], options: Mapping[str, tuple[int, ...]]
) -> Constraint:
    index = {name: i for i, name in enumerate(names)}
    try:
        unary = tuple(
            tuple(cost.unary[n][b] for b in options[n]) if n in cost.unary else (0,) * len(options[n]) for n in names
        )
        pairs = tuple(
            Pair(index[p.a], index[p.b], tuple(tuple(p.table[i, j] for j in options[p.b]) for i in options[p.a]))
            for p in cost.pairs
        )
    except KeyError as err:
        raise ConfigError(
            f"cost {cost.metric!r} has no entry for {err.args[0]!r}. Make it with the same candidate widths."
        ) from err
    return Constraint(cost.metric, unary, limit, tuple(sorted(pairs, key=lambda p: (p.a, p.b))), cost.fixed)
