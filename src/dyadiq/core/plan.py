"""The choice: a format for every decision, with the certificate that says how good it is.

Made by `allocate` or by a person; read by `quantize`, cost and report. Plain data, JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from dyadiq.core.errors import ConfigError
from dyadiq.core.facts import Decision, NetworkFacts
from dyadiq.core.format import Format

__all__ = [
    "Alternative",
    "BitPlan",
    "BudgetUse",
    "Certificate",
    "Marginal",
    "ParetoPoint",
    "PlanRefinement",
    "Stability",
    "Swap",
    "uniform_plan",
]


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """One budget and how much of it the plan uses, as integers in the cost's unit."""

    metric: str
    unit: str
    limit: int
    used: int
    binding: bool


@dataclass(frozen=True, slots=True)
class Swap:
    """A single change of the plan that was not taken: what it would gain and cost.

    ``loss_delta`` < 0 improves; ``cost_delta`` in the unit of the binding budget.
    """

    decision: str
    from_bits: int
    to_bits: int
    loss_delta: float
    cost_delta: int


@dataclass(frozen=True, slots=True)
class Certificate:
    """Proof of the plan's quality.

    Attributes:
        objective: Predicted loss increase of the plan.
        lower_bound: No feasible plan can be below this.
        gap: ``objective - lower_bound``, >= 0; 0 means proven optimal.
        method: Solver and how the bound was obtained.
        n_candidates: Number of plans the bound covers, as text for people: exact with commas (``9,765,625``), or
            ``about 10^14`` where it is huge.
        next_best: The cheapest single swap that would lower the loss but breaks the budget.
    """

    objective: float
    lower_bound: float
    gap: float
    method: str
    n_candidates: str
    next_best: Swap | None = None


@dataclass(frozen=True, slots=True)
class ParetoPoint:
    """One point of the front: cost, predicted loss, bits; ``label`` for uniform and chosen points.

    No plan of at most this cost is more than ``gap`` below this loss (0: proven optimal); uniform points prove nothing.
    """

    cost: int
    objective: float
    bits: Mapping[str, int]
    label: str = ""
    gap: float = 0.0


@dataclass(frozen=True, slots=True)
class Marginal:
    """What more of one budget would buy, the other budgets unchanged.

    Attributes:
        metric: The budget.
        unit: Of ``step`` and ``next_step``.
        price: Loss saved per unit where the linear relaxation breaks off.
        step: A round amount more: 1000 bytes, or 1 % of the limit.
        step_loss_delta: Change of the optimal loss with that much more, <= 0; solved exactly.
        next_step: The least amount more that buys anything; None where nothing would, or where it was not looked for
            (several budgets).
        next_loss_delta: Change of the optimal loss with ``next_step`` more.
    """

    metric: str
    unit: str
    price: float
    step: int
    step_loss_delta: float
    next_step: int | None = None
    next_loss_delta: float = 0.0


@dataclass(frozen=True, slots=True)
class Alternative:
    """One of the next best plans within the same budgets.

    Attributes:
        objective: Predicted loss.
        costs: Budgeted metric to cost.
        changes: Decision to bits, where they differ from the plan's.
    """

    objective: float
    costs: Mapping[str, int]
    changes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Stability:
    """How sure the plan is, given the standard errors of the sensitivities.

    Attributes:
        n_replicas: Sensitivities drawn again and solved.
        probabilities: Decision to bits to the share of replicas whose optimum has them.
        regret_mean: Mean loss given away by this plan if a replica is the truth.
        regret_p95: 95th percentile of the same.
        regret_p95_frac: The latter over the plan's predicted loss above the least possible one.
    """

    n_replicas: int
    probabilities: Mapping[str, Mapping[int, float]]
    regret_mean: float
    regret_p95: float
    regret_p95_frac: float

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object (keys of mappings as strings)."""
        rows = {n: {str(b): p for b, p in row.items()} for n, row in self.probabilities.items()}
        return {**asdict(self), "probabilities": rows}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Stability:
        """Read a JSON object back."""
        rows = {n: {int(b): p for b, p in row.items()} for n, row in data["probabilities"].items()}
        return cls(**{**data, "probabilities": rows})


@dataclass(frozen=True, slots=True)
class PlanRefinement:
    """How a plan was improved by measuring plans, beyond what the sensitivities it was certified by can say.

    Attributes:
        changes: Decision to its bits in the certified plan and in this one; empty if that plan was kept.
        before: Mean measured loss of the certified plan: on the samples that proposed changes, and on the guard's.
        after: The same of this plan; on the guard's samples never more than ``before``.
        n_measured: Plans measured.
        n_accepted: Proposals accepted.
        reason: Why it stopped.
    """

    changes: Mapping[str, tuple[int, int]]
    before: tuple[float, float]
    after: tuple[float, float]
    n_measured: int
    n_accepted: int
    reason: str

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PlanRefinement:
        """Read a JSON object back."""
        changes = {name: (int(was), int(now)) for name, (was, now) in data["changes"].items()}
        before, after = ((float(first), float(second)) for first, second in (data["before"], data["after"]))
        return cls(**{**data, "changes": changes, "before": before, "after": after})


@dataclass(frozen=True)
class BitPlan:
    """Formats by decision name, and why.

    Attributes:
        formats: Decision name to `Format`, every decision present.
        certificate: From the solver; None for a plan made by a person. Of a refined plan: that of the plan it was
            refined from.
        budgets: The budgets that were asked for.
        costs: Metric name to exact integer cost of this plan.
        front: Pareto points along the first budget's metric, for the report.
        marginals: What more of each binding budget would buy.
        alternatives: The next best plans within the budgets, best first.
        stability: Probabilities of widths and the regret; None where no errors were known, or nothing was drawn.
        provenance: Sensitivity method, seed, versions.
        refinement: How the certified plan was changed by measurements; None if none were asked for.
    """

    formats: Mapping[str, Format]
    certificate: Certificate | None = None
    budgets: tuple[BudgetUse, ...] = ()
    costs: Mapping[str, int] = field(default_factory=dict)
    front: tuple[ParetoPoint, ...] = ()
    marginals: tuple[Marginal, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    stability: Stability | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    refinement: PlanRefinement | None = None

    @property
    def bits(self) -> dict[str, int]:
        """Decision name to bits."""
        return {name: fmt.bits for name, fmt in self.formats.items()}

    def check(self, facts: NetworkFacts) -> None:
        """Check that the plan names exactly the decisions of a network, with the formats of its configuration.

        A plan chooses bits and nothing else: sizes and other costs are counted for ``facts.config``, and would be
        wrong for, say, another granularity of one weight.

        Raises:
            ConfigError: Missing or extra names, all of them listed; a fixed width changed; a format that differs from
                the configuration in more than bits, all of them listed; or widths that a tensor cannot have (bipolar
                codes where a relu needs a zero, codes too wide for a lookup table).

        Example:
            >>> from dyadiq.core.facts import Decision
            >>> facts = NetworkFacts((Decision("x", "activation", (4,)),), ())
            >>> BitPlan({"x": Format(4, scale="pow2")}).check(facts)  # doctest: +ELLIPSIS
            Traceback (most recent call last):
            dyadiq.core.errors.ConfigError: the plan differs from the configuration in more than bits:
              x: scale is 'pow2', expected 'float'
            A plan chooses bits only, and costs are counted for the configuration. ...
        """
        wanted = {d.name for d in facts.decisions}
        missing, extra = sorted(wanted - set(self.formats)), sorted(set(self.formats) - wanted)
        if missing or extra:
            raise ConfigError(
                f"the plan does not fit the network: missing {missing or 'none'}, unknown {extra or 'none'}."
            )
        for d in facts.decisions:
            if d.fixed_bits is not None and self.formats[d.name].bits != d.fixed_bits:
                raise ConfigError(
                    f"{d.name}: its width is fixed at {d.fixed_bits} bits, the plan says "
                    f"{self.formats[d.name].bits}. Change input_bits or output_bits instead."
                )
        lines = [f"{d.name}: {'; '.join(found)}" for d in facts.decisions if (found := self._differing(d, facts))]
        if lines:
            raise ConfigError(
                "\n  ".join(["the plan differs from the configuration in more than bits:", *lines])
                + "\nA plan chooses bits only, and costs are counted for the configuration. Give the configuration "
                "that the plan was made with, or state these formats for all weights or all activations in QuantConfig "
                "([quant] of a recipe); to write a plan by hand, start from `uniform_plan` and change bits."
            )
        refused = [f"{d.name}: {why}" for d in facts.decisions if (why := d.why_not(self.formats[d.name]))]
        if refused:
            raise ConfigError(
                "\n  ".join(["the plan gives tensors widths that they cannot have:", *refused])
                + "\nWidths that are fixed are set by input_bits and output_bits."
            )

    def _differing(self, decision: Decision, facts: NetworkFacts) -> list[str]:
        """Return each field but bits in which a format differs from the configuration."""
        got, wanted = self.formats[decision.name], _configured(decision, facts)
        pairs = ((f.name, getattr(got, f.name), getattr(wanted, f.name)) for f in fields(Format) if f.name != "bits")
        return [f"{name} is {mine!r}, expected {theirs!r}" for name, mine, theirs in pairs if mine != theirs]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "formats": {n: f.to_json() for n, f in self.formats.items()},
            "certificate": asdict(self.certificate) if self.certificate else None,
            "budgets": [asdict(b) for b in self.budgets],
            "costs": dict(self.costs),
            "front": [asdict(p) for p in self.front],
            "marginals": [asdict(m) for m in self.marginals],
            "alternatives": [asdict(a) for a in self.alternatives],
            "stability": self.stability.to_json() if self.stability else None,
            "refinement": asdict(self.refinement) if self.refinement else None,
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BitPlan:
        """Read a JSON object back; only ``formats`` is required."""
        cert = data.get("certificate")
        if cert is not None:
            swap = cert.get("next_best")
            cert = Certificate(**{**cert, "next_best": Swap(**swap) if swap else None})
        return cls(
            formats={n: Format.from_json(f) for n, f in data["formats"].items()},
            certificate=cert,
            budgets=tuple(BudgetUse(**b) for b in data.get("budgets", ())),
            costs=dict(data.get("costs", {})),
            front=tuple(ParetoPoint(**p) for p in data.get("front", ())),
            marginals=tuple(Marginal(**m) for m in data.get("marginals", ())),
            alternatives=tuple(Alternative(**a) for a in data.get("alternatives", ())),
            stability=Stability.from_json(data["stability"]) if data.get("stability") else None,
            refinement=PlanRefinement.from_json(data["refinement"]) if data.get("refinement") else None,
            provenance=dict(data.get("provenance", {})),
        )


def uniform_plan(facts: NetworkFacts, weight_bits: int, activation_bits: int) -> BitPlan:
    """Return the plan with one width for weights and one for activations; fixed widths stay.

    Example:
        >>> from dyadiq.core.facts import Decision
        >>> facts = NetworkFacts((Decision("x", "activation", (4,), 8), Decision("w", "weight", (2, 4))), ())
        >>> uniform_plan(facts, 4, 6).bits
        {'x': 8, 'w': 4}
    """
    formats = {}
    for d in facts.decisions:
        bits = weight_bits if d.kind == "weight" else activation_bits
        formats[d.name] = _configured(d, facts).with_bits(d.fixed_bits or bits)
    return BitPlan(formats)


def _configured(decision: Decision, facts: NetworkFacts) -> Format:
    """Return the configuration's format for one decision; its width is only a default."""
    return facts.config.weight if decision.kind == "weight" else facts.config.activation
