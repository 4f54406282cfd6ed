"""Squared quantization error: no curvature, and no data for the weights.

    weight      ||Q_b(w) - w||^2, summed over the tensor; exact, standard error 0
    activation  mean over samples of ||Q_b(a) - a||^2, summed over the tensor of one sample

Uses no loss, so networks may have several outputs.
Method of `dyadiq.curvature.METHODS`; the baseline that the others must beat.
"""

from __future__ import annotations

import numpy as np
import torch

from dyadiq.core.tables import Sensitivity, SensitivityTable
from dyadiq.curvature.perturb import (
    Network,
    fit_activations,
    quantized_weight,
    squared_activation_error,
)
from dyadiq.curvature.problem import Problem
from dyadiq.curvature.statistics import mean_with_stderr, to_entries

__all__ = ["squared_error", "squared_weight_error"]


def squared_error(problem: Problem) -> SensitivityTable:
    """Return the squared error of every decision and width.

    Raises:
        DataError: Activations are asked for, and there are fewer than two samples.
    """
    measured: dict[tuple[str, int], Sensitivity] = {}
    if problem.activations:
        problem.require_samples("squared_error")
        measured.update(_of_activations(problem))
    for name in problem.weights:
        for bits in problem.widths[name]:
            measured[name, bits] = Sensitivity(squared_weight_error(problem, name, bits), 0.0)
    return SensitivityTable(
        method="squared_error",
        unit="squared error",
        entries=to_entries({key: measured[key] for key in problem.index}),
        facts=problem.facts,
        n_samples=problem.n_samples if problem.activations else 0,
        seed=problem.seed_used,
    )


def squared_weight_error(problem: Problem, name: str, bits: int) -> float:
    """Return ``||Q_b(w) - w||^2``."""
    weight = np.asarray(problem.graph.params[name], dtype=np.float64)
    return float(np.square(quantized_weight(problem, name, bits) - weight).sum())


def _of_activations(problem: Problem) -> dict[tuple[str, int], Sensitivity]:
    network = Network(problem)
    ranges = fit_activations(problem, network)
    samples: dict[tuple[str, int], list[np.ndarray]] = {key: [] for key in ranges}
    problem.progress.start("errors of activations", len(problem.batches))
    for batch in problem.batches:
        with torch.no_grad():
            values = network.run(batch)
        for key, params in ranges.items():
            samples[key].append(squared_activation_error(values[key[0]], params))
        problem.progress.advance()
    problem.progress.finish()
    return {key: mean_with_stderr(np.concatenate(parts)) for key, parts in samples.items()}
