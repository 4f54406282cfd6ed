"""Q-BERT: largest eigenvalues on several parts of the data, ``|mean| + std`` of them.

    weight      1/2 * (|mean_s lambda_s| + std_s lambda_s) * ||Q_b(w) - w||^2,   lambda_s on split s of the samples
    activation  |mean_s m_s| + std_s m_s,   m_s the mean over the split of 1/2 lambda_n ||Q_b(a_n) - a_n||^2

A tensor whose curvature varies between splits counts as more sensitive: an upper confidence bound rather than a mean.
The data are cut into ten consecutive splits (fewer where that would leave a split without two samples). Standard
errors are jackknife estimates over the splits. Method of `dyadiq.curvature.METHODS`, name ``data_splits``.
Source: Shen et al. 2020 (Q-BERT), eq. (3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from dyadiq.core.errors import DataError
from dyadiq.core.tables import Sensitivity, SensitivityTable
from dyadiq.curvature.block import Block
from dyadiq.curvature.eigenvalue import top_squares
from dyadiq.curvature.isotropic import activation_errors
from dyadiq.curvature.losses import UNITS
from dyadiq.curvature.perturb import Network
from dyadiq.curvature.pieces import Piece
from dyadiq.curvature.problem import Problem
from dyadiq.curvature.squared_error import squared_weight_error
from dyadiq.curvature.statistics import to_entries

__all__ = ["data_splits", "mean_plus_deviation"]

_MOST_SPLITS = 10


def data_splits(problem: Problem) -> SensitivityTable:
    """Return ``|mean| + std`` over data splits of every decision and width.

    Raises:
        DataError: Fewer than four samples, or non-finite outputs.
        ConfigError: The loss cannot take the network's output, or there are several.
    """
    problem.require_one_output("data_splits")
    problem.require_samples("data_splits")
    if problem.n_samples < 4:
        raise DataError(f"method 'data_splits' needs at least 4 samples for two splits, got {problem.n_samples}.")
    network = Network(problem)
    n_splits = min(_MOST_SPLITS, problem.n_samples // 2)
    parts = [torch.tensor_split(torch.cat(values), n_splits) for values in zip(*problem.batches, strict=True)]
    splits = [replace(problem, batches=(batch,)) for batch in zip(*parts, strict=True)]
    errors = activation_errors(problem, network)
    edges = np.cumsum([0, *(split.n_samples for split in splits)])
    measured: dict[tuple[str, int], Sensitivity] = {}
    curvature: dict[str, Sensitivity] = {}
    names = tuple(problem.widths)

    def of_splits(i: int) -> Piece:
        seeds = [np.random.default_rng([problem.seed, i, s]) for s in range(n_splits)]
        return {str(s): top_squares(Block(split, network, names[i]), seeds[s]) for s, split in enumerate(splits)}

    for name, piece in problem.each_decision("eigenvalues on splits", of_splits).items():
        squares = [piece[str(s)] for s in range(n_splits)]
        curvature[name] = mean_plus_deviation([float(values.mean()) for values in squares])
        for bits in problem.widths[name]:
            if name in problem.graph.params:
                half = 0.5 * squared_weight_error(problem, name, bits)
                means = [half * float(values.mean()) for values in squares]
            else:
                parted = np.split(errors[name, bits], edges[1:-1])
                means = [float(0.5 * (v * e).mean()) for v, e in zip(squares, parted, strict=True)]
            measured[name, bits] = mean_plus_deviation(means)
    return SensitivityTable(
        method="data_splits",
        unit=UNITS[problem.loss],
        entries=to_entries(measured),
        facts=problem.facts,
        n_samples=problem.n_samples,
        seed=problem.seed,
        curvature=curvature,
        notes=(f"|mean| + std of the largest eigenvalues on {n_splits} splits of the data",),
    )


def mean_plus_deviation(values: Sequence[float]) -> Sensitivity:
    """Return ``|mean| + std`` of at least two numbers, with its jackknife standard error.

    Example:
        >>> mean_plus_deviation([2.0, 2.0, 2.0])
        Sensitivity(value=2.0, stderr=0.0)
        >>> mean_plus_deviation([-1.0, -3.0]).value == 2.0 + 2.0**0.5
        True
    """
    sample = np.asarray(values, dtype=np.float64)
    without = [_statistic(np.delete(sample, i)) for i in range(len(sample))] if len(sample) > 2 else list(sample)
    n = len(without)
    spread = float(np.sqrt((n - 1) / n * np.square(without - np.mean(without)).sum()))
    return Sensitivity(_statistic(sample), spread)


def _statistic(sample: NDArray[np.float64]) -> float:
    return float(abs(sample.mean()) + sample.std(ddof=1))
