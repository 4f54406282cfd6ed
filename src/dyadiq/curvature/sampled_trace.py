"""HAWQ-V2's trace of the population that the data are: directions by priority, until the intervals are narrow.

`trace` measures every sample given; with a few hundred of them the error of the data, 10 to 40 % in a trained network,
is what limits it. Give this method thousands: one forward pass over all splits the metric of every sample's outputs,

    S_n S_n^T = diag(p_n) - p_n p_n^T = sum_i l_ni e_ni e_ni^T,        t_n = sum_i l_ni || J_n^T e_ni ||^2

into directions, its eigenvectors (above 64 classes ``e_c - p_n``, of weight ``p_nc``: no decomposition). Each is a
unit of known size ``l_ni |e_ni|^2``, to which its part of the trace is nearly proportional; a trained network is
certain about most samples, and a few hundred directions carry almost everything. Units are taken in the order of
`priority`, each at most once, one backward pass each: these few are measured exactly, and only the rest is estimated.

It stops when, for every weight, ``z * stderr <= tolerance * mean``, z the normal quantile of a two-sided 95 % interval
shared among all weights (Bonferroni); an estimated part that rests on fewer than 30 effective units counts as error
as a whole. Else it stops when the passes that were allowed are used up. The notes say which.
The interval is for the mean over the samples given; the notes say how many equal ones these are worth, for who takes
them for a draw from more. Entries as in `trace`, weights only; standard errors are those of the sampling of units.

Method of `dyadiq.curvature.METHODS`. Sources: Dong et al. 2020 (HAWQ-V2); `priority`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dyadiq.core.errors import ConfigError
from dyadiq.core.tables import Sensitivity, SensitivityTable
from dyadiq.curvature.isotropic import isotropic_losses
from dyadiq.curvature.losses import UNITS, check_outputs
from dyadiq.curvature.perturb import Network
from dyadiq.curvature.pieces import Piece, run_pieces
from dyadiq.curvature.priority import PrioritySample, Total
from dyadiq.curvature.problem import Problem
from dyadiq.curvature.sample_norms import sample_norms
from dyadiq.curvature.statistics import to_entries

__all__ = ["MAX_PASSES", "sampled_trace"]

_STEP = 64
_AT_ONCE = 16
_MOST_DECOMPOSED = 64
_CONFIDENCE = 0.95
_MIN_EFFECTIVE = 30.0
MAX_PASSES = 4
"""At most so many units for each sample given."""

Floats = NDArray[np.float64]


def sampled_trace(problem: Problem) -> SensitivityTable:
    """Return ``1/2 * mean trace per element * squared error`` of every weight, from directions taken by priority.

    Raises:
        DataError: Fewer than two samples, or non-finite outputs.
        ConfigError: The loss is not the cross entropy, activations are asked for, or there are several outputs.
    """
    problem.require_one_output("sampled_trace")
    problem.require_samples("sampled_trace")
    if problem.loss != "cross_entropy":
        raise ConfigError(
            f"method 'sampled_trace' weighs samples by the entropy of their classes, got loss {problem.loss!r}. "
            "Use method 'trace'."
        )
    problem = replace(problem, widths={name: problem.widths[name] for name in problem.weights})
    if not problem.widths:
        raise ConfigError("method 'sampled_trace' measures weights, and none is asked for. Use method 'trace'.")
    network = Network(problem)
    inputs = [torch.cat(parts) for parts in zip(*problem.batches, strict=True)]
    outputs = torch.cat([check_outputs(network.output_of(batch), problem.loss) for batch in problem.batches])
    sizes = _sizes(outputs).numpy()
    sample = PrioritySample(sizes.ravel(), np.random.default_rng(problem.seed))
    z = NormalDist().inv_cdf(1.0 - (1.0 - _CONFIDENCE) / 2.0 / len(problem.widths))
    limit = min(MAX_PASSES * len(sizes), len(sample.order))
    values: dict[str, Floats] = {name: np.zeros(0) for name in problem.widths}
    totals: dict[str, Total] = {name: sample.total(v) for name, v in values.items()} if limit == 0 else {}

    def measure(start: int, end: int, i: int) -> Piece:
        units = sample.order[start + i * _AT_ONCE : end][:_AT_ONCE]
        image, direction = (torch.from_numpy(part) for part in np.divmod(units, sizes.shape[1]))
        return _norms(problem, network, [x[image] for x in inputs], _vectors(outputs[image], direction))

    problem.progress.start("directions by priority", limit)
    n_taken, widest = 0, 0.0 if limit == 0 else float("inf")
    while n_taken < limit and widest > problem.tolerance:
        n_before, n_taken = n_taken, min(n_taken + _STEP, limit)
        for norms in run_pieces(
            f"directions from {n_before}",
            -(-(n_taken - n_before) // _AT_ONCE),
            partial(measure, n_before, n_taken),
            folder=problem.folder,
        ):
            values = {name: np.append(values[name], norms[name]) for name in values}
        totals = {name: sample.total(v) for name, v in values.items()}
        widest = max(_relative_width(total, z) for total in totals.values())
        problem.progress.advance(n_taken - n_before, note=f"widest interval {100 * widest:.3g} %")
    problem.progress.advance(limit - n_taken)
    problem.progress.finish()
    curvature = {}
    for name, total in totals.items():
        n = len(sizes) * problem.facts.decision(name).n_elements
        curvature[name] = Sensitivity(total.value / n, total.stderr / n)
    wanted = f"{100 * problem.tolerance:.3g} %"
    done = widest <= problem.tolerance
    reason = f"{wanted} were asked for" if done else f"stopped at {MAX_PASSES} directions a sample, before {wanted}"
    uncertainty = sizes.sum(1)
    worth = float(uncertainty.sum()) ** 2 / max(float(np.square(uncertainty).sum()), 1e-300)
    return SensitivityTable(
        method="sampled_trace",
        unit=UNITS[problem.loss],
        entries=to_entries(isotropic_losses(problem, curvature, {}, {})),
        facts=problem.facts,
        n_samples=problem.n_samples,
        seed=problem.seed,
        curvature=curvature,
        notes=(
            f"{n_taken} directions by priority; every trace within {100 * widest:.3g} % at "
            f"{100 * _CONFIDENCE:.0f} % confidence for all at once: {reason}",
            f"the intervals are for the mean over the {len(sizes)} samples given; by their uncertainty these are worth "
            f"{worth:.0f} equal ones",
        ),
    )


def _sizes(outputs: Tensor) -> Tensor:
    """Return the size of every direction of every sample: its part of the trace of the outputs' metric.

    Shapes:
        outputs ``[n, C]``, result ``[n, C]``.
    """
    p = outputs.softmax(1)
    if p.shape[1] <= _MOST_DECOMPOSED:
        eigenvalues: Tensor = torch.linalg.eigvalsh(_metric(p))
        return eigenvalues.clamp(min=0.0)
    columns: Tensor = p * (1.0 - 2.0 * p + p.square().sum(1, keepdim=True))
    return columns.clamp(min=0.0)


def _vectors(outputs: Tensor, direction: Tensor) -> Tensor:
    """Return the direction of a number of every sample, scaled: the outer products of all make up the metric.

    Shapes:
        outputs ``[n, C]``, direction ``[n]``, result ``[n, C]``.
    """
    p, row = outputs.softmax(1), torch.arange(len(outputs))
    if p.shape[1] <= _MOST_DECOMPOSED:
        squares, vectors = torch.linalg.eigh(_metric(p))
        lengths = squares[row, direction].clamp(min=0.0).sqrt()
        eigenvectors: Tensor = vectors[row, :, direction] * lengths[:, None]
        return eigenvectors
    columns = -p
    columns[row, direction] += 1.0
    scaled: Tensor = columns * p[row, direction].sqrt()[:, None]
    return scaled


def _metric(p: Tensor) -> Tensor:
    return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]


def _norms(problem: Problem, network: Network, inputs: list[Tensor], vectors: Tensor) -> dict[str, Floats]:
    values = network.run([x.requires_grad_() for x in inputs])
    norms = sample_norms(problem, network.output(values), values, iter([vectors]), 1)
    return {name: norm.numpy() for name, norm in norms.items()}


def _relative_width(total: Total, z: float) -> float:
    """Return half the width of the interval over the sum, 0 for all zeros.

    Where the estimated part rests on too few units for a normal interval, all of it counts as error.
    """
    if total.value == 0.0:
        return 0.0
    width = z * total.stderr
    return (width if total.n_effective >= _MIN_EFFECTIVE else max(width, total.estimated)) / total.value
