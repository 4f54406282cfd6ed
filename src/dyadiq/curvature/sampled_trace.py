"""HAWQ-V2's trace of the population that the data are: images drawn by importance, until the intervals are narrow.

`trace` measures every sample given; with a few hundred of them the error of the data, 10 to 40 % in a trained network,
is what limits it. Give this method thousands: one forward pass over all, then batches of draws (`importance`), each
with two backward passes that together see all of the output metric S_n S_n^T = diag(p) - p p^T:

    t_n ~ || J_n^T e_1 sqrt(l_1) ||^2 + || J_n^T M r ||^2

with its largest eigenpair exactly, and M M^T the rest of it under random signs r. Near-certain and two-way samples
have one large eigenvalue, so that this is nearly the exact trace for a fifth of its passes (C = 10).

It stops when, for every weight, ``z * stderr <= tolerance * mean``, z the normal quantile of a two-sided 95 % interval
shared among all weights (Bonferroni), and every mean has at least 30 effective draws; else when the draws that were
allowed are used up. The notes say which. Entries and standard errors as in `trace`, weights only.

Method of `dyadiq.curvature.METHODS`. Sources: Dong et al. 2020 (HAWQ-V2); `importance`.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from dyadiq.core.errors import ConfigError
from dyadiq.core.tables import Sensitivity, SensitivityTable
from dyadiq.curvature.importance import Draws, draw, effective_size
from dyadiq.curvature.isotropic import isotropic_losses
from dyadiq.curvature.losses import UNITS, check_outputs
from dyadiq.curvature.perturb import Network
from dyadiq.curvature.problem import Problem
from dyadiq.curvature.sample_norms import sample_norms
from dyadiq.curvature.statistics import mean_with_stderr, to_entries

__all__ = ["MAX_PASSES", "sampled_trace"]

_BATCH = 128
_CONFIDENCE = 0.95
_MIN_EFFECTIVE = 30.0
MAX_PASSES = 4
"""At most so many draws for each sample given."""


def sampled_trace(problem: Problem) -> SensitivityTable:
    """Return ``1/2 * mean trace per element * squared error`` of every weight, from samples drawn by importance.

    Raises:
        DataError: Fewer than two samples, or non-finite outputs.
        ConfigError: The loss is not the cross entropy, activations are asked for, or there are several outputs.
    """
    problem.require_one_output("sampled_trace")
    problem.require_samples("sampled_trace")
    if problem.loss != "cross_entropy":
        raise ConfigError(
            f"method 'sampled_trace' draws samples by the entropy of their classes, got loss {problem.loss!r}. "
            "Use method 'trace'."
        )
    problem = replace(problem, widths={name: problem.widths[name] for name in problem.weights})
    if not problem.widths:
        raise ConfigError("method 'sampled_trace' measures weights, and none is asked for. Use method 'trace'.")
    network = Network(problem)
    inputs = [torch.cat(parts) for parts in zip(*problem.batches, strict=True)]
    uncertainty = _uncertainty(problem, network)
    rng = np.random.default_rng(problem.seed)
    z = NormalDist().inv_cdf(1.0 - (1.0 - _CONFIDENCE) / 2.0 / len(problem.widths))
    limit = MAX_PASSES * len(uncertainty)
    found: dict[str, list[np.ndarray[tuple[int], np.dtype[np.float64]]]] = {name: [] for name in problem.widths}
    problem.progress.start("draws of importance", limit)
    n_drawn, done = 0, False
    while n_drawn < limit and not done:
        drawn = draw(uncertainty, min(_BATCH, limit - n_drawn), rng)
        for name, values in _weighted_traces(problem, network, inputs, drawn, rng).items():
            found[name].append(values)
        n_drawn += len(drawn.indices)
        widths = [_relative_width(np.concatenate(parts), z) for parts in found.values()]
        done = max(widths) <= problem.tolerance
        problem.progress.advance(len(drawn.indices), note=f"widest interval {100 * max(widths):.3g} %")
    problem.progress.advance(limit - n_drawn)
    problem.progress.finish()
    curvature = {
        name: mean_with_stderr(np.concatenate(parts) / problem.facts.decision(name).n_elements)
        for name, parts in found.items()
    }
    wanted = f"{100 * problem.tolerance:.3g} %"
    reason = f"{wanted} were asked for" if done else f"stopped at {MAX_PASSES} draws a sample, before {wanted}"
    return SensitivityTable(
        method="sampled_trace",
        unit=UNITS[problem.loss],
        entries=to_entries(isotropic_losses(problem, curvature, {}, {})),
        facts=problem.facts,
        n_samples=problem.n_samples,
        seed=problem.seed,
        curvature=curvature,
        notes=(
            f"{n_drawn} draws of importance; every trace within {100 * max(widths):.3g} % at "
            f"{100 * _CONFIDENCE:.0f} % confidence for all at once: {reason}",
        ),
    )


def _uncertainty(problem: Problem, network: Network) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    parts = []
    for batch in problem.batches:
        with torch.no_grad():
            p = check_outputs(network.output_of(batch), problem.loss).softmax(1)
        parts.append((1.0 - p.square().sum(1)).clamp(min=0.0).numpy())
    return np.concatenate(parts)


def _weighted_traces(
    problem: Problem, network: Network, inputs: list[Tensor], drawn: Draws, rng: np.random.Generator
) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    index = torch.from_numpy(drawn.indices)
    values = network.run([x[index].requires_grad_() for x in inputs])
    output = network.output(values)
    first, rest = _directions(check_outputs(output, problem.loss), rng)
    norms = sample_norms(problem, output, values, iter([first, rest]), 2)
    return {name: (drawn.weights * values.numpy()) for name, values in norms.items()}


def _directions(outputs: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return ``sqrt(l_1) e_1`` and ``sum_i>1 r_i sqrt(l_i) e_i`` of every sample, ``[n, C]`` each."""
    p = outputs.softmax(1)
    metric = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    values, vectors = torch.linalg.eigh(metric)
    scaled = vectors * values.clamp(min=0.0).sqrt()[:, None, :]
    signs = torch.from_numpy(rng.integers(0, 2, (len(p), p.shape[1] - 1)) * 2.0 - 1.0)
    return scaled[:, :, -1], (scaled[:, :, :-1] * signs[:, None, :]).sum(2)


def _relative_width(values: np.ndarray[tuple[int], np.dtype[np.float64]], z: float) -> float:
    """Return half the width of the interval over the mean; infinite with too few effective draws, 0 for all zeros."""
    if not values.any():
        return 0.0
    if effective_size(values) < _MIN_EFFECTIVE:
        return float("inf")
    mean: Sensitivity = mean_with_stderr(values)
    return z * mean.stderr / mean.value
