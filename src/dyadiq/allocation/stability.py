"""How sure a plan is, given the standard errors of the sensitivities: every width's probability, and the regret.

Used by `allocate` and, through `regret_rule`, by whoever decides how long to measure. Sensitivities are drawn again
within their errors (or come as replicas of a bootstrap), every replica is solved exactly, and two things are counted:

- the share of replicas whose optimum gives a decision each of its widths;
- the regret of the plan, ``loss_r(plan) - min_x loss_r(x)`` >= 0: what it loses if replica r is the truth.

Replicas are independent normal draws per decision and width, unless the caller has better ones (resampled images keep
the correlations between widths and decisions). Randomness: an explicit seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dyadiq.allocation.knapsack import Knapsack
from dyadiq.allocation.merge import Merged, merge_pairs
from dyadiq.allocation.problem import Choice, Problem, build_problem
from dyadiq.allocation.solve import solve
from dyadiq.core.errors import ConfigError, InfeasibleError
from dyadiq.core.plan import Stability
from dyadiq.core.tables import CostTable, SensitivityTable
from dyadiq.cost import candidate_bits, cost_tables

__all__ = ["decision_stability", "flat_losses", "normal_replicas", "regret_rule"]

Floats = NDArray[np.float64]

_PERCENTILE = 95.0


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


def regret_rule(
    budget: Mapping[str, float | str],
    *,
    bits: Sequence[int],
    activation_bits: Sequence[int] = (8,),
    costs: Mapping[str, CostTable] | None = None,
    n_replicas: int = 200,
    seed: int = 0,
) -> Callable[[SensitivityTable, Sequence[Mapping[str, Mapping[int, float]]] | None], Stability]:
    """Return a function from a table (and replicas of it, if there are any) to the stability of its best plan.

    For a rule that stops measuring: ``rule(table, None).regret_p95_frac <= 0.01``.

    Args:
        budget: As for `allocate`.
        bits: Candidate widths of weights.
        activation_bits: Candidate widths of activations.
        costs: Own cost tables.
        n_replicas: Normal draws, where the caller gives no replicas.
        seed: Of those draws.
    """
    from dyadiq.allocation.limits import parse_limits

    def rule(table: SensitivityTable, replicas: Sequence[Mapping[str, Mapping[int, float]]] | None = None) -> Stability:
        facts = table.facts
        known = {**cost_tables(facts, bits, activation_bits), **(costs or {})}
        problem = build_problem(
            table, known, parse_limits(budget, known, facts), candidate_bits(facts, bits, activation_bits)
        )
        found = solve(problem)
        if found is None:
            raise InfeasibleError("no plan meets the budget of the regret rule. Raise it, or allow narrower widths.")
        if replicas is None:
            losses = normal_replicas(problem, table, n_replicas, seed)
        else:
            losses = np.array([flat_losses(problem, replica) for replica in replicas])
        return decision_stability(problem, found.choice, losses)

    return rule


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
