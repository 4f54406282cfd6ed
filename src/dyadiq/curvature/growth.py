"""Measuring until the decision is sure: samples are added until a rule is content with the table that they give.

Used by `analyze` where it is given a rule, such as `allocation.RegretRule`, which asks what plan the table leads to and
what that plan loses when the samples are drawn again. Knows no budget.

Samples are taken in a random order, in chunks, their number doubled each time; what was measured of a chunk is kept, so
that nothing is measured twice. Ranges of activations are those of all samples from the start, one cheap pass, so that
all rounds measure the same network. As long as a tensor was reached by no sample, more are taken.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dyadiq.core.tables import SensitivityTable
from dyadiq.curvature.perturb import Network, fit_activations
from dyadiq.curvature.problem import Problem
from dyadiq.curvature.samples import CHUNK
from dyadiq.curvature.sound import check_finite, find_unreached

__all__ = ["GROWING_METHODS", "StopRule", "measure_until"]

GROWING_METHODS = frozenset({"fisher", "gram", "kl", "trace"})
"""Methods that measure chunk by chunk and keep the loss of every sample."""

_FIRST_CHUNKS = 2
_ORDER = 1  # of the random numbers that a seed stands for


class StopRule(Protocol):
    """Says how far a table is from being good enough."""

    @property
    def limit(self) -> float:
        """What the number must come to at most."""

    def __call__(self, table: SensitivityTable, /) -> float:
        """Return the number, such as the regret of the table's best plan as a share of its loss."""


def measure_until(problem: Problem, method: Callable[[Problem], SensitivityTable], rule: StopRule) -> SensitivityTable:
    """Return the table of as many samples as the rule asks for, or of all; its notes say how far it came.

    Raises:
        DataError: What the method refuses, or a sensitivity that is not finite.
        InfeasibleError: No plan meets the budget of the rule.
    """
    if problem.folder is None:
        with tempfile.TemporaryDirectory() as folder:
            return measure_until(replace(problem, folder=Path(folder)), method, rule)
    problem = _shuffled(problem)
    problem = replace(problem, ranges=fit_activations(problem, Network(problem)))
    n_chunks = _FIRST_CHUNKS
    while True:
        part = _first_chunks(problem, n_chunks)
        table = method(part)
        check_finite(table)
        regret, missing = rule(table), find_unreached(part, table)
        reached = f"within {100 * regret:.2g} % of the best plan in 95 % of bootstraps"
        problem.progress.start(f"{part.n_samples} samples: {reached}", 1)
        problem.progress.advance()
        problem.progress.finish()
        done = regret <= rule.limit and not missing
        if done or part.n_samples == problem.n_samples:
            break
        n_chunks *= 2
    asked = f"{100 * rule.limit:.3g} % asked for" if done else f"NOT the {100 * rule.limit:.3g} % asked for: give more"
    note = f"{part.n_samples} of {problem.n_samples} samples taken: the plan is {reached} ({asked})"
    return replace(table, notes=(*table.notes, note))


def _shuffled(problem: Problem) -> Problem:
    """Return the problem with its samples in a random order: data are often sorted."""
    order = torch.from_numpy(np.random.default_rng([problem.seed, _ORDER]).permutation(problem.n_samples))

    def cut(chunks: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return torch.split(torch.cat(chunks)[order], CHUNK)

    inputs = (cut(parts) for parts in zip(*problem.batches, strict=True))
    labels = None if problem.labels is None else cut(problem.labels)
    return replace(problem, batches=tuple(zip(*inputs, strict=True)), labels=labels)


def _first_chunks(problem: Problem, n: int) -> Problem:
    labels = None if problem.labels is None else problem.labels[:n]
    return replace(problem, batches=problem.batches[:n], labels=labels)
