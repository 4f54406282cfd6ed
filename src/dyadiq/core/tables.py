"""The two tables that allocation joins: what lower precision hurts, and what it saves.

`SensitivityTable` comes from `analyze`, `CostTable` from `cost`; both are read by `allocate` and the report.
Plain numbers by decision name and bits; no torch, no graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ConfigError
from dyadiq.core.facts import NetworkFacts

__all__ = [
    "CostKind",
    "CostTable",
    "Interactions",
    "PairCost",
    "SampleLosses",
    "Sensitivity",
    "SensitivityTable",
    "Spectrum",
]

CostKind = Literal["exact", "measured", "simulated", "estimated", "modelled", "published"]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Expected loss increase of one decision at one width, with its standard error."""

    value: float
    stderr: float


@dataclass(frozen=True)
class Interactions:
    """Cross terms: ``loss(x) ~ 1/2 * sum_{ij selected} matrix[i, j]``; index is (decision, bits)."""

    index: tuple[tuple[str, int], ...]
    matrix: NDArray[np.float64]


@dataclass(frozen=True)
class SampleLosses:
    """The losses of every sample, whose means the entries are: what a bootstrap draws from.

    Attributes:
        index: (decision, bits) of every row.
        losses: ``[len(index), N]``.

    Example:
        >>> samples = SampleLosses((("w", 4),), np.array([[1.0, 3.0]]))
        >>> samples.replicas(3, seed=1)
        array([[2., 1., 3.]])
    """

    index: tuple[tuple[str, int], ...]
    losses: NDArray[np.float64]

    def replicas(self, n: int, seed: int) -> NDArray[np.float64]:
        """Return the means over ``n`` samples of the samples, drawn with replacement: ``[len(index), n]``.

        One draw of samples gives a column, so that what samples have in common stays.
        """
        n_samples = self.losses.shape[1]
        counts = np.random.default_rng(seed).multinomial(n_samples, np.full(n_samples, 1.0 / n_samples), size=n)
        means: NDArray[np.float64] = self.losses @ (counts.T / n_samples)
        return means


@dataclass(frozen=True)
class Spectrum:
    """The eigenvalues of one weight's curvature as points with weights that sum to 1.

    Attributes:
        points: ``[starts, steps]``.
        weights: The same; a point stands for ``weight * n`` eigenvalues.
        n: Eigenvalues there are: elements of the weight.
    """

    points: NDArray[np.float64]
    weights: NDArray[np.float64]
    n: int

    @property
    def trace(self) -> Sensitivity:
        """The sum of the eigenvalues, with its standard error over the starts (0 for a single one)."""
        of_starts = self.n * len(self.points) * (self.points * self.weights).sum(axis=1)
        spread = float(of_starts.std(ddof=1)) / len(of_starts) ** 0.5 if len(of_starts) > 1 else 0.0
        return Sensitivity(float(of_starts.mean()), spread)

    def n_above(self, eigenvalue: float) -> float:
        """Return about how many eigenvalues are larger.

        Example:
            >>> Spectrum(np.array([[1.0, 4.0]]), np.array([[0.75, 0.25]]), 8).n_above(2.0)
            2.0
        """
        return self.n * float(self.weights[self.points > eigenvalue].sum())


@dataclass(frozen=True)
class SensitivityTable:
    """Expected loss increase per decision and bits.

    Attributes:
        method: ``gram``, ``trace``, ``squared_error``, ...
        unit: ``nats`` (KL to the float model) or ``squared error``.
        entries: Decision name to bits to `Sensitivity`. Fixed decisions may be absent.
        facts: The network the table belongs to.
        n_samples: Calibration samples used; 0 for data-free methods.
        seed: Seed of the random parts; None if there are none.
        curvature: Decision name to mean trace per element with its standard error, where the method has it.
        interactions: Cross terms, where the method has them.
        samples: Losses of every sample, where the method has them.
        spectra: Spectrum of every weight's curvature, where it was asked for.
        notes: Anything degraded, skipped or assumed.
    """

    method: str
    unit: str
    entries: Mapping[str, Mapping[int, Sensitivity]]
    facts: NetworkFacts
    n_samples: int = 0
    seed: int | None = None
    curvature: Mapping[str, Sensitivity] = field(default_factory=dict)
    interactions: Interactions | None = None
    samples: SampleLosses | None = None
    spectra: Mapping[str, Spectrum] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def value(self, decision: str, bits: int) -> float:
        """Return the expected loss increase; zero for a decision the table does not hold.

        Raises:
            ConfigError: The decision is known, the width is not.
        """
        row = self.entries.get(decision)
        if row is None:
            return 0.0
        if bits not in row:
            raise ConfigError(
                f"sensitivity of {decision!r} was not measured at {bits} bits; "
                f"measured: {', '.join(map(str, sorted(row)))}. Run analyze with these bits."
            )
        return row[bits].value


@dataclass(frozen=True, slots=True)
class PairCost:
    """A cost that depends on two decisions at once (BOPs: weight bits and activation bits).

    ``table[(bits_a, bits_b)]`` in the integer unit of its CostTable.
    """

    a: str
    b: str
    table: Mapping[tuple[int, int], int]


@dataclass(frozen=True)
class CostTable:
    """A cost metric as integers: ``total = fixed + sum unary + sum pairs``.

    Attributes:
        metric: ``size``, ``bops``, ``macs_bops``, ``energy``, ``avg_bits``, ``latency``, ...
        unit: Unit of one count (``byte``, ``bop``, ``fJ``).
        kind: How the numbers were obtained.
        definition: One sentence with the formula.
        unary: Decision name to bits to cost.
        pairs: Costs of two decisions together.
        fixed: Cost that no decision changes.
        reference: The float32 network's cost in the same unit, the 100 % of relative budgets.
        plain_unit: What plain numbers of a budget are in, where it is not the unit: ``us`` for nanoseconds.
        measurement: What a measured table rests on: machine, versions, and its error against whole networks.
    """

    metric: str
    unit: str
    kind: CostKind
    definition: str
    unary: Mapping[str, Mapping[int, int]]
    pairs: tuple[PairCost, ...] = ()
    fixed: int = 0
    reference: int | None = None
    plain_unit: str = ""
    measurement: Mapping[str, Any] = field(default_factory=dict)

    def total(self, bits: Mapping[str, int]) -> int:
        """Return the cost of a choice, in exact integer arithmetic.

        Raises:
            ConfigError: The choice misses a decision, or a width is not in the table.
        """
        total = self.fixed
        try:
            for name, row in self.unary.items():
                total += row[bits[name]]
            for pair in self.pairs:
                total += pair.table[bits[pair.a], bits[pair.b]]
        except KeyError as err:
            raise ConfigError(f"cost {self.metric!r} has no entry for {err.args[0]!r}.") from err
        return total

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object (keys of mappings as strings)."""
        return {
            "metric": self.metric,
            "unit": self.unit,
            "kind": self.kind,
            "definition": self.definition,
            "unary": {n: {str(b): v for b, v in row.items()} for n, row in self.unary.items()},
            "pairs": [{"a": p.a, "b": p.b, "table": [[i, j, v] for (i, j), v in p.table.items()]} for p in self.pairs],
            "fixed": self.fixed,
            "reference": self.reference,
            "plain_unit": self.plain_unit,
            "measurement": dict(self.measurement),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CostTable:
        """Read a JSON object back."""
        return cls(
            metric=data["metric"],
            unit=data["unit"],
            kind=data["kind"],
            definition=data["definition"],
            unary={n: {int(b): v for b, v in row.items()} for n, row in data["unary"].items()},
            pairs=tuple(PairCost(p["a"], p["b"], {(i, j): v for i, j, v in p["table"]}) for p in data["pairs"]),
            fixed=data["fixed"],
            reference=data["reference"],
            plain_unit=data.get("plain_unit", ""),
            measurement=data.get("measurement", {}),
        )
