"""A plan improved by measuring plans: sensitivities at the operating point, and swaps that are kept only if they help.

Tables of sensitivities are made with one decision quantized and all others float. Where many are narrow, that is no
longer what one more step costs: refining measures it there. One round:

1. every decision is moved to its next narrower and next wider option, alone, from the plan as it is: the measured
   change of the loss is its conditional sensitivity;
2. the allocation problem restricted to these options is solved exactly for the measured changes: one proposal, of
   many changes at once;
3. where that does not help, single changes and pairs are tried in the order of their predicted sum.

A plan takes the place of the last one only if its measured loss is lower on the samples that proposed it *and* on
others held back: what merely fits the samples is not kept. So the answer is never worse than the start on either.

Used by the pipeline, with `curvature.plan_loss` as the measurement. Knows no network: a measurement is a call.
Source: conditional sensitivities as in coordinate descent; docs/validation.md says what they gain.
"""

from __future__ import annotations

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
        before: Measured loss of the start: mean over the proposing samples, mean over those held back.
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
    start: Choice,
    measurement: Measurement,
    *,
    weights: Sequence[float] | None = None,
    held_back: float = 1 / 3,
    max_rounds: int = 3,
    max_trials: int = 8,
    progress: Progress = NO_PROGRESS,
) -> Refinement:
    """Return a feasible choice whose measured loss is at most that of the start.

    Args:
        problem: Options, costs and limits; its losses play no part.
        start: A feasible choice.
        measurement: Measures a plan given as decision name to bits.
        weights: Of the samples (importance sampling), mean about 1; None for equal ones.
        held_back: Share of the samples that only judge.
        max_rounds: Most rounds.
        max_trials: Proposals of one round that may fail in a row.
        progress: Told of each plan measured.

    Raises:
        ConfigError: The start does not meet the limits, or ``held_back`` is not inside (0, 1).
        DataError: Too few samples to hold some back, or a loss that is not finite.

    Example:
        >>> from dyadiq.allocation.problem import Constraint
        >>> size = Constraint("size", ((4, 8), (4, 8)), limit=12)
        >>> problem = Problem(("a", "b"), ((4, 8), (4, 8)), ((1.0, 0.0), (0.9, 0.0)), (size,))
        >>> class Truth:
        ...     def __call__(self, bits):
        ...         return np.full(6, (bits["a"] == 4) * 1.0 + (bits["b"] == 4) * 2.0)
        ...     def rebase(self, bits): ...
        >>> found = refine(problem, (1, 0), Truth())
        >>> found.choice, found.before, found.after
        ((0, 1), (2.0, 2.0), (1.0, 1.0))
    """
    if not 0.0 < held_back < 1.0:
        raise ConfigError(f"refine: held_back is a share inside (0, 1), got {held_back}.")
    if not problem.is_feasible(start):
        raise ConfigError("refine: the plan to start from does not meet the budget. Start from that of `allocate`.")
    search = _Search(problem, measurement, weights, held_back, progress)
    progress.start("plans measured", None)
    now, loss = start, search.measure(start)
    before, accepted, reason = loss, 0, f"{max_rounds} rounds were allowed"
    for _ in range(max_rounds):
        measurement.rebase(problem.bits(now))
        changes = search.single_changes(now, loss)
        failed, accepted_before = 0, accepted
        for proposal in _proposals(problem, now, changes):
            measured = search.measure(proposal)
            if measured[0] < loss[0] and measured[1] < loss[1]:
                now, loss, accepted = proposal, measured, accepted + 1
                break
            failed += 1
            if failed == max_trials:
                break
        if accepted == accepted_before:
            reason = f"{failed} proposals in a row did not lower the measured loss on both sets of samples"
            break
    progress.finish()
    return Refinement(now, before, loss, search.n_measured, accepted, reason)


class _Search:
    """Measures choices and keeps count."""

    def __init__(
        self,
        problem: Problem,
        measurement: Measurement,
        weights: Sequence[float] | None,
        held_back: float,
        progress: Progress,
    ) -> None:
        self.problem, self.measurement, self.progress = problem, measurement, progress
        self.weights = None if weights is None else np.asarray(weights, dtype=np.float64)
        self.every = held_back
        self.n_measured = 0

    def measure(self, choice: Choice) -> tuple[float, float]:
        """Return the mean loss over the proposing samples and over those held back.

        Raises:
            DataError: A loss is not finite, or the samples are too few.
        """
        losses = self.measurement(self.problem.bits(choice))
        self.n_measured += 1
        self.progress.advance()
        if not np.isfinite(losses).all():
            raise DataError("refine: the measured loss of a plan is NaN or infinite. Look at the calibration data.")
        # Spread evenly: sample i is held back when the running count of held-back samples passes a whole number.
        held = np.diff(np.floor(np.arange(len(losses) + 1) * self.every)) > 0
        if not held.any() or held.all():
            raise DataError(f"refine: {len(losses)} samples are too few to hold some back. Give more.")
        weighted = losses if self.weights is None else losses * self.weights
        return float(weighted[~held].mean()), float(weighted[held].mean())

    def single_changes(self, now: Choice, loss: tuple[float, float]) -> dict[tuple[int, int], float]:
        """Return the measured change of the loss of every neighbouring option, zero for the present one."""
        changes = {}
        for d, option in enumerate(now):
            changes[d, option] = 0.0
            for other in (option - 1, option + 1):
                if 0 <= other < len(self.problem.options[d]):
                    moved = (*now[:d], other, *now[d + 1 :])
                    changes[d, other] = self.measure(moved)[0] - loss[0]
        return changes


def _proposals(problem: Problem, now: Choice, changes: Mapping[tuple[int, int], float]) -> Iterator[Choice]:
    """Yield feasible choices that are predicted to be better: the optimum of the measured changes, then swaps."""
    rows = [sorted(o for d, o in changes if d == i) for i in range(len(now))]
    local = Problem(
        problem.names,
        tuple(tuple(problem.options[d][o] for o in row) for d, row in enumerate(rows)),
        tuple(tuple(changes[d, o] for o in row) for d, row in enumerate(rows)),
        tuple(_restricted(problem, rows, i) for i in range(len(problem.constraints))),
    )
    found = solve(local)
    seen = {now}
    if found is not None:
        best = tuple(rows[d][o] for d, o in enumerate(found.choice))
        if best not in seen and found.objective < 0.0:
            seen.add(best)
            yield best
    singles = [(change, d, o) for (d, o), change in changes.items() if o != now[d]]
    moves: list[tuple[float, tuple[tuple[int, int], ...]]] = [(c, ((d, o),)) for c, d, o in singles]
    for i, (first, a, p) in enumerate(singles):
        moves += [(first + second, ((a, p), (b, q))) for second, b, q in singles[:i] if b != a]
    for change, move in sorted(moves):
        if change >= 0.0:
            return
        choice = list(now)
        for d, o in move:
            choice[d] = o
        proposal = tuple(choice)
        if proposal not in seen and problem.is_feasible(proposal):
            seen.add(proposal)
            yield proposal


def _restricted(problem: Problem, rows: Sequence[Sequence[int]], index: int) -> Constraint:
    constraint = problem.constraints[index]
    return replace(
        constraint,
        unary=tuple(tuple(constraint.unary[d][o] for o in row) for d, row in enumerate(rows)),
        pairs=tuple(
            replace(p, table=tuple(tuple(p.table[i][j] for j in rows[p.b]) for i in rows[p.a]))
            for p in constraint.pairs
        ),
    )
