"""From one number of curvature per tensor to a table: half of curvature times squared error, of every width.

Used by the methods that know a tensor's curvature but not the direction of its change (`trace`, `fisher`,
`eigenvalue`, `hessian_trace`, `data_splits`):

    weight      1/2 * c * ||Q_b(w) - w||^2
    activation  1/2 * mean_n c_n ||Q_b(a_n) - a_n||^2
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.tables import SampleLosses, Sensitivity
from dyadiq.curvature.perturb import Network, fit_activations, squared_activation_error
from dyadiq.curvature.problem import Problem
from dyadiq.curvature.squared_error import squared_weight_error
from dyadiq.curvature.statistics import mean_with_stderr

__all__ = ["activation_errors", "isotropic_losses", "isotropic_samples"]

Floats = NDArray[np.float64]


def activation_errors(problem: Problem, network: Network) -> dict[tuple[str, int], Floats]:
    """Return ``||Q_b(a_n) - a_n||^2`` of every activation and width, ``[N]`` each."""
    ranges = fit_activations(problem, network)
    parts: dict[tuple[str, int], list[Floats]] = {key: [] for key in ranges}
    for batch in problem.batches if ranges else ():
        values = network.run_only(batch)
        for key, params in ranges.items():
            parts[key].append(squared_activation_error(values[key[0]], params))
    return {key: np.concatenate(values) for key, values in parts.items()}


def isotropic_losses(
    problem: Problem,
    weights: Mapping[str, Sensitivity],
    activations: Mapping[str, Floats],
    errors: Mapping[tuple[str, int], Floats],
) -> dict[tuple[str, int], Sensitivity]:
    """Return the losses of every decision and width.

    Args:
        problem: Which decisions and widths.
        weights: Curvature of every weight.
        activations: Curvature of every activation, sample by sample.
        errors: From `activation_errors`.
    """
    losses = {}
    for name, bits in problem.index:
        if (name, bits) in errors:
            losses[name, bits] = mean_with_stderr(0.5 * activations[name] * errors[name, bits])
        else:
            half = 0.5 * squared_weight_error(problem, name, bits)
            losses[name, bits] = Sensitivity(half * weights[name].value, half * weights[name].stderr)
    return losses


def isotropic_samples(
    problem: Problem, curvatures: Mapping[str, Floats], errors: Mapping[tuple[str, int], Floats]
) -> SampleLosses:
    """Return the losses of every sample, whose means `isotropic_losses` returns.

    Args:
        problem: Which decisions and widths.
        curvatures: Curvature of every decision, sample by sample.
        errors: From `activation_errors`.
    """
    rows = [
        0.5
        * curvatures[name]
        * (errors[name, bits] if (name, bits) in errors else squared_weight_error(problem, name, bits))
        for name, bits in problem.index
    ]
    return SampleLosses(problem.index, np.stack(rows))
