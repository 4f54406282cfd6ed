"""How sure a plan is, given the standard errors of the sensitivities: every width's probability, and the regret.

Used by `allocate` and, as `RegretRule`, by whoever decides how long to measure. Sensitivities are drawn again
within their errors (or come as replicas of a bootstrap), every replica is solved exactly, and two things are counted:

- the share of replicas whose optimum gives a decision each of its widths;
- the regret of the plan, ``loss_r(plan) - min_x loss_r(x)`` >= 0: what it loses if replica r is the truth.

Replicas are those of a bootstrap where the table holds the losses of its samples: samples drawn again keep what widths
and decisions have in common, which is most of the error. Else they are independent normal draws per decision and width.
Randomness: an explicit seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dyadiq.allocation.knapsack import Knapsack
from dyadiq.allocation.limits import parse_limits
from dyadiq.allocation.merge import Merged, merge_pairs
from dyadiq.allocation.problem import Choice, Problem, build_problem
from dyadiq.allocation.solve import solve
from dyadiq.core.errors import ConfigError, InfeasibleError
from dyadiq.core.plan import Stability
from dyadiq.core.tables import CostTable, SensitivityTable
from dyadiq.cost import candidate_bits, cost_tables

__all__ = [
    "RegretRule",
    "bootstrap_replicas",
    "decision_stability",
    "flat_losses",
    "normal_replicas",
    "replicas_of",
]

Floats = NDArray[np.float64]

_PERCENTILE = 95.0
_LEAST_REPLICAS = 20


def flat_losses(problem: Problem, entries: Mapping[str, Mapping[int, float]]) -> Floats:
    """Return numbers by decision and width in the problem's order: decisions, then options; 0 where absent."""
    return np.array(
        [
            entries.get(name, {}).get(bits, 0.0)
            for name, options in zip(problem.names, problem.options, strict=True)
            for bits in options
        ],
        dtype=np.float64,
    )


def normal_replicas(problem: Problem, table: SensitivityTable, n_replicas: int, seed: int) -> Floats:
    """Return ``loss + stderr * z`` with z standard normal, ``[replicas, options of all decisions]``."""
    stderr = flat_losses(problem, {n: {b: s.stderr for b, s in row.items()} for n, row in table.entries.items()})
    loss = np.array([v for row in problem.loss for v in row])
    return loss + stderr * np.random.default_rng(seed).standard_normal((n_replicas, loss.size))


def bootstrap_replicas(problem: Problem, table: SensitivityTable, n_replicas: int, seed: int) -> Floats:
    """Return the losses of ``n_replicas`` bootstraps of the table's samples, ``[replicas, options of all decisions]``.

    What no sample's loss is known of keeps the table's value.
    """
    assert table.samples is not None
    drawn = dict(zip(table.samples.index, table.samples.replicas(n_replicas, seed), strict=True))
    loss = (value for row in problem.loss for value in row)
    keys = ((name, b) for name, options in zip(problem.names, problem.options, strict=True) for b in options)
    columns = [drawn.get(key, np.full(n_replicas, value)) for key, value in zip(keys, loss, strict=True)]
    return np.stack(columns, axis=1)


def replicas_of(problem: Problem, table: SensitivityTable, n_replicas: int, seed: int) -> Floats:
    """Return `bootstrap_replicas` where the table allows them, else `normal_replicas`."""
    draw = normal_replicas if table.samples is None else bootstrap_replicas
    return draw(problem, table, n_replicas, seed)


def decision_stability(problem: Problem, choice: Choice, replicas: Floats) -> Stability:
    """Return what the replicas say about a plan.

    Args:
        problem: Options, costs and limits; its losses only give the scale of the relative regret.
        choice: The plan.
        replicas: ``[replicas, options of all decisions]`` in the order of `flat_losses`.

    Raises:
        ConfigError: Replicas of another width, or none.
        InfeasibleError: The problem has no feasible choice.

    Example:
        >>> from dyadiq.allocation.problem import Constraint
        >>> size = Constraint("size", ((20, 40), (8, 16)), limit=50)
        >>> problem = Problem(("a", "b"), ((4, 8), (4, 8)), ((0.5, 0.0), (0.25, 0.0)), (size,))
        >>> found = decision_stability(problem, (1, 0), np.array([[0.5, 0.0, 0.25, 0.0], [0.25, 0.0, 0.5, 0.0]]))
        >>> found.probabilities["a"], found.regret_mean
        ({4: 0.5, 8: 0.5}, 0.125)
    """
    starts = np.cumsum([0, *map(len, problem.loss)])
    if replicas.ndim != 2 or not len(replicas) or replicas.shape[1] != starts[-1]:
        raise ConfigError(
            f"stability: replicas of shape {list(replicas.shape)}, expected [at least 1, {starts[-1]}], one number per "
            "decision and option."
        )
    optimum = _solver(problem)
    counts = [np.zeros(len(row), dtype=np.int64) for row in problem.loss]
    regrets = np.empty(len(replicas))
    for r, loss in enumerate(replicas):
        best = optimum(loss)
        for d, o in enumerate(best):
            counts[d][o] += 1
        taken, least = starts[:-1] + np.array(choice), starts[:-1] + np.array(best)
        regrets[r] = max(0.0, float(loss[taken].sum() - loss[least].sum()))
    scale = problem.objective(choice) - sum(map(min, problem.loss))
    worst = float(np.percentile(regrets, _PERCENTILE))
    return Stability(
        n_replicas=len(replicas),
        probabilities={
            name: {b: int(c) / len(replicas) for b, c in zip(options, count, strict=True)}
            for name, options, count in zip(problem.names, problem.options, counts, strict=True)
        },
        regret_mean=float(regrets.mean()),
        regret_p95=worst,
        regret_p95_frac=worst / scale if scale > 0 else 0.0,
    )


@dataclass(frozen=True)
class RegretRule:
    """When a sensitivity table is good enough: its best plan is close to the best one, whatever samples are drawn.

    Given to ``analyze(stop=...)``, which measures more samples until ``rule(table) <= rule.limit``.

    Attributes:
        budget: As for `allocate`.
        bits: Candidate widths of weights.
        activation_bits: Candidate widths of activations.
        costs: Own cost tables.
        limit: Largest regret accepted: 95th percentile over replicas, as a share of the plan's predicted loss above
            the least possible one.
        n_replicas: Replicas.
        seed: Of their draws.

    Example:
        >>> from dyadiq.core.facts import Decision, NetworkFacts
        >>> from dyadiq.core.tables import Sensitivity
        >>> facts = NetworkFacts(tuple(Decision(n, "weight", (4, 4)) for n in "ab"), ())
        >>> entries = {n: {4: Sensitivity(v, 0.01), 8: Sensitivity(0.0, 0.0)} for n, v in (("a", 1.0), ("b", 0.1))}
        >>> rule = RegretRule({"bits": 6}, bits=(4, 8))
        >>> rule(SensitivityTable("gram", "nats", entries, facts)) <= rule.limit
        True
    """

    budget: Mapping[str, float | str]
    bits: Sequence[int]
    activation_bits: Sequence[int] = (8,)
    costs: Mapping[str, CostTable] = field(default_factory=dict)
    limit: float = 0.01
    n_replicas: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: A limit that is not in (0, 1), or fewer than 20 replicas, which have no 95th percentile.
        """
        if not 0.0 < self.limit < 1.0:
            raise ConfigError(f"regret rule: the limit is a share of the loss in (0, 1), got {self.limit}.")
        if self.n_replicas < _LEAST_REPLICAS:
            raise ConfigError(
                f"regret rule: a 95th percentile needs at least {_LEAST_REPLICAS} replicas, got {self.n_replicas}."
            )

    def __call__(self, table: SensitivityTable) -> float:
        """Return the regret.

        Raises:
            InfeasibleError: No plan meets the budget.
        """
        return self.stability(table).regret_p95_frac

    def stability(self, table: SensitivityTable) -> Stability:
        """Return what the replicas say about the table's best plan.

        Raises:
            InfeasibleError: No plan meets the budget.
        """
        facts = table.facts
        known = {**cost_tables(facts, self.bits, self.activation_bits), **self.costs}
        options = candidate_bits(facts, self.bits, self.activation_bits)
        problem = build_problem(table, known, parse_limits(self.budget, known, facts), options)
        found = solve(problem)
        if found is None:
            raise InfeasibleError("no plan meets the budget of the regret rule. Raise it, or allow narrower widths.")
        return decision_stability(problem, found.choice, replicas_of(problem, table, self.n_replicas, self.seed))


def _solver(problem: Problem) -> Callable[[Floats], Choice]:
    """Return a function from losses to the optimal choice; costs are prepared once."""
    merged = merge_pairs(problem) if len(problem.constraints) == 1 else None
    if merged is None:
        return lambda loss: _solve_anew(problem, loss)
    knapsack, gather = Knapsack(merged.problem), _gather(problem, merged)

    def optimum(loss: Floats) -> Choice:
        found = knapsack.choice(gather(loss))
        if found is None:
            raise InfeasibleError("no choice meets the budget, whatever the losses.")
        return merged.expand(found)

    return optimum


def _gather(problem: Problem, merged: Merged) -> Callable[[Floats], Floats]:
    """Return a function from losses of all options to those of the merged groups' options."""
    starts = np.cumsum([0, *map(len, problem.loss)])
    flat = [
        starts[list(group)] + np.array(options, dtype=np.int64).reshape(len(options), len(group))
        for group, options in zip(merged.groups, merged.members, strict=True)
    ]
    return lambda loss: np.concatenate([loss[index].sum(axis=1) for index in flat])


def _solve_anew(problem: Problem, loss: Floats) -> Choice:
    values = iter(loss.tolist())
    rows = tuple(tuple(next(values) for _ in row) for row in problem.loss)
    found = solve(Problem(problem.names, problem.options, rows, problem.constraints))
    if found is None:
        raise InfeasibleError("no choice meets the budgets, whatever the losses.")
    return found.choice
