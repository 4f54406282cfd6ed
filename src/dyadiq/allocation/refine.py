"""A plan improved by measuring plans: sensitivities at the operating point, and exchanges that are kept if they help.

Tables of sensitivities are made with one decision quantized and all others float. Where many are narrow, that is no
longer what one more step costs: refining measures it there. The best of the plans to start from, by measurement, is
the first base. One round:

1. every decision is moved to its next narrower and next wider option, alone, from the base: the measured change of
   the loss is its conditional sensitivity;
2. the allocation problem restricted to these options is solved exactly for the measured changes, with a price on
   every decision that moves: from bold proposals of many moves to timid ones of few;
3. then single moves and exchanges of two, the surest first.

A proposal becomes the base if its loss is lower by more than ``significance`` standard errors of the paired
differences. After the last round a *guard*, other samples that proposed nothing, compares the answer with the first
start, by the same rule: what was found among many proposals is the luckiest of them on the samples that proposed, and
a gain that other samples do not show clearly is not one.

Used by `allocate` and benchmarks/allocation_quality.py, with `curvature.plan_losses` as the measurement.
Knows no network: a measurement is a call. Source: coordinate descent with exchanges.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dyadiq.allocation.problem import Choice, Constraint, Problem
from dyadiq.allocation.solve import solve
from dyadiq.core.errors import ConfigError, DataError
from dyadiq.core.progress import NO_PROGRESS, Progress

__all__ = ["Measurement", "Refinement", "refine"]

Floats = NDArray[np.float64]
Move = tuple[tuple[int, int], ...]

_PRICES = (0.0, 0.5, 1.0, 2.0)
"""Of one move, in standard errors of its measured change: the larger, the fewer decisions a proposal moves."""


class Measurement(Protocol):
    """Measures whole plans; plans near the base are cheap."""

    def __call__(self, bits: Mapping[str, int], /) -> Floats:
        """Return the loss of every sample, ``[N]``, always of the same samples in the same order."""

    def rebase(self, bits: Mapping[str, int], /) -> None:
        """Expect plans that differ little from this one."""


@dataclass(frozen=True)
class Refinement:
    """The refined plan and how it was reached.

    Attributes:
        choice: Options, as in the problem.
        before: Measured mean loss of the first start: over the samples that proposed, over the guard (NaN: none).
        after: The same of ``choice``.
        n_measured: Plans measured.
        n_accepted: Proposals accepted.
        reason: Why it stopped, one sentence.
    """

    choice: Choice
    before: tuple[float, float]
    after: tuple[float, float]
    n_measured: int
    n_accepted: int
    reason: str


def refine(
    problem: Problem,
    starts: Sequence[Choice],
    measurement: Measurement,
    guard: Measurement | None = None,
    *,
    significance: float = 1.0,
    max_rounds: int = 3,
    max_trials: int = 8,
    progress: Progress = NO_PROGRESS,
) -> Refinement:
    """Return a feasible choice whose measured loss is at most that of every start.

    Args:
        problem: Options, costs and limits; its losses play no part.
        starts: Feasible choices; the first is the one the answer must not be worse than.
        measurement: Measures a plan given as decision name to bits.
        guard: Measures on other samples, for the last comparison; None leaves it out.
        significance: Standard errors of the paired differences by which a proposal must be better than the base, and
            the answer better than the first start on the guard.
        max_rounds: Most rounds.
        max_trials: Proposals of one round that may fail in a row.
        progress: Told of each plan measured.

    Raises:
        ConfigError: No start, or one that does not meet the limits, or a negative ``significance``.
        DataError: Fewer than two samples, or a loss that is not finite.

    Example:
        >>> from dyadiq.allocation.problem import Constraint
        >>> size = Constraint("size", ((4, 8), (4, 8)), limit=12)
        >>> problem = Problem(("a", "b"), ((4, 8), (4, 8)), ((1.0, 0.0), (0.9, 0.0)), (size,))
        >>> class Truth:
        ...     def __call__(self, bits):
        ...         return np.full(6, (bits["a"] == 4) * 1.0 + (bits["b"] == 4) * 2.0)
        ...     def rebase(self, bits): ...
        >>> found = refine(problem, [(1, 0)], Truth(), Truth())
        >>> found.choice, found.before, found.after
        ((0, 1), (2.0, 2.0), (1.0, 1.0))
    """
    if significance < 0.0:
        raise ConfigError(f"refine: significance counts standard errors and is not negative, got {significance}.")
    if not starts:
        raise ConfigError("refine: no plan to start from. Give that of `allocate`.")
    for choice in starts:
        if not problem.is_feasible(choice):
            raise ConfigError("refine: the plan to start from does not meet the budget. Start from that of `allocate`.")
    search = _Search(problem, measurement, significance, progress)
    progress.start("plans measured", None)
    losses = {choice: search.measure(choice) for choice in starts}
    first, now = starts[0], min(starts, key=lambda choice: float(losses[choice].mean()))
    loss, accepted, reason = losses[now], 0, f"{max_rounds} rounds were allowed"
    for _ in range(max_rounds):
        measurement.rebase(problem.bits(now))
        changes = search.single_changes(now, loss)
        moved: set[int] = set()
        failed, accepted_before = 0, accepted
        for move in _moves(problem, now, changes):
            if moved & {d for d, _ in move} or failed == max_trials:
                continue
            proposal = _after(now, move)
            if not problem.is_feasible(proposal):
                continue
            measured = search.measure(proposal)
            if search.is_better(measured, loss):
                now, loss, accepted, failed = proposal, measured, accepted + 1, 0
                moved |= {d for d, _ in move}
                measurement.rebase(problem.bits(now))
            else:
                failed += 1
        if accepted == accepted_before:
            reason = f"{failed} proposals in a row did not lower the measured loss by {significance:g} standard errors"
            break
    before, after = (float(losses[first].mean()), math.nan), (float(loss.mean()), math.nan)
    if guard is not None:
        judged = [_finite(guard(problem.bits(choice))) for choice in (first, now)]
        before, after = (before[0], float(judged[0].mean())), (after[0], float(judged[1].mean()))
        if now != first and not search.is_better(judged[1], judged[0]):
            reason = (
                f"on the guard's samples the refined plan ({after[1]:.4g}) was not better than the first start "
                f"({before[1]:.4g}) by {significance:g} standard errors, so that the first start was kept"
            )
            now, after = first, before
    progress.finish()
    return Refinement(now, before, after, search.n_measured, accepted, reason)


class _Search:
    """Measures choices and keeps count."""

    def __init__(self, problem: Problem, measurement: Measurement, significance: float, progress: Progress) -> None:
        self.problem, self.measurement, self.progress = problem, measurement, progress
        self.significance = significance
        self.n_measured = 0

    def measure(self, choice: Choice) -> Floats:
        """Return the loss of every sample.

        Raises:
            DataError: A loss is not finite, or the samples are too few.
        """
        losses = _finite(self.measurement(self.problem.bits(choice)))
        self.n_measured += 1
        self.progress.advance()
        return losses

    def is_better(self, losses: Floats, than: Floats) -> bool:
        """Return whether the mean is lower by more than the standard errors asked for, of the paired differences."""
        change = losses - than
        stderr = float(change.std(ddof=1)) / math.sqrt(len(change))
        return float(change.mean()) < -self.significance * stderr

    def single_changes(self, now: Choice, loss: Floats) -> dict[tuple[int, int], Floats]:
        """Return the measured change of every sample's loss for every neighbouring option, zero for the present one."""
        changes = {}
        for d, option in enumerate(now):
            changes[d, option] = np.zeros_like(loss)
            for other in (option - 1, option + 1):
                if 0 <= other < len(self.problem.options[d]):
                    changes[d, other] = self.measure(_after(now, ((d, other),))) - loss
        return changes


def _finite(losses: Floats) -> Floats:
    if len(losses) < 2:
        raise DataError(f"refine: plans are compared on at least 2 samples, got {len(losses)}. Give more.")
    if not np.isfinite(losses).all():
        raise DataError("refine: the measured loss of a plan is NaN or infinite. Look at the calibration data.")
    return losses


def _after(now: Choice, move: Move) -> Choice:
    changed = dict(move)
    return tuple(changed.get(d, option) for d, option in enumerate(now))


def _moves(problem: Problem, now: Choice, changes: Mapping[tuple[int, int], Floats]) -> Iterator[Move]:
    """Yield moves that are predicted to help: optima of the measured changes, then single moves and exchanges.

    Predictions are sums of measured changes. Of many noisy ones the lowest are the luckiest: exchanges come in the
    order of their mean plus one standard error, optima charge every decision that moves its own.
    """
    rows = [sorted(o for d, o in changes if d == i) for i in range(len(now))]
    singles = [(d, o) for d, o in changes if o != now[d]]
    if not singles:
        return
    measured = np.stack([changes[single] for single in singles])
    n_samples = measured.shape[1]
    means = measured.mean(axis=1)
    scatter = np.atleast_2d(np.cov(measured)) / n_samples
    own = np.sqrt(np.diag(scatter))
    seen: set[Move] = set()
    for price in _PRICES:
        costs = dict(zip(singles, means + price * own, strict=True))
        losses = tuple(tuple(float(costs.get((d, o), 0.0)) for o in row) for d, row in enumerate(rows))
        options = tuple(tuple(problem.options[d][o] for o in row) for d, row in enumerate(rows))
        limits = tuple(_restricted(c, rows) for c in problem.constraints)
        found = solve(Problem(problem.names, options, losses, limits))
        if found is None or found.objective >= 0.0:
            continue
        move = tuple((d, rows[d][o]) for d, o in enumerate(found.choice) if rows[d][o] != now[d])
        if move and move not in seen:
            seen.add(move)
            yield move
    moves: list[tuple[float, Move]] = []
    for i, (a, p) in enumerate(singles):
        if means[i] < 0.0:
            moves.append((float(means[i] + own[i]), ((a, p),)))
        for j, (b, q) in enumerate(singles[:i]):
            mean = means[i] + means[j]
            if a != b and mean < 0.0:
                variance = scatter[i, i] + scatter[j, j] + 2.0 * scatter[i, j]
                moves.append((float(mean + math.sqrt(max(variance, 0.0))), ((b, q), (a, p))))
    for _, move in sorted(moves):
        if move not in seen:
            yield move


def _restricted(constraint: Constraint, rows: Sequence[Sequence[int]]) -> Constraint:
    return replace(
        constraint,
        unary=tuple(tuple(constraint.unary[d][o] for o in row) for d, row in enumerate(rows)),
        pairs=tuple(
            replace(p, table=tuple(tuple(p.table[i][j] for j in rows[p.b]) for i in rows[p.a]))
            for p in constraint.pairs
        ),
    )
