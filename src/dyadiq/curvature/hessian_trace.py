"""HAWQ-V2's trace of the true Hessian at the labels, by random probes: Hutchinson, or XTrace for weights.

    weight      1/2 * (tr H / n_elements) * ||Q_b(w) - w||^2,            H = mean_n H_n
    activation  1/2 * mean_n (tr H_n / n_elements) ||Q_b(a_n) - a_n||^2

In a piecewise-linear network a block of the Hessian is the Gauss-Newton block, whose trace `trace` finds exactly and
far faster; use these where layers between are smooth, or to check. Probes are quadratic forms of every sample
(`block.quadratic`), so standard errors hold the error of the data and that of the probes.

**Negative traces.** A signed trace can be negative, or its estimate can: an allocation would then give the fewest bits
to the tensor that needs most; and where it is for some samples, the loss of an activation can rise with bits. Such a
tensor takes its Gauss-Newton trace instead, which is never negative and is the Hessian of the divergence from the float
network; it is named in the notes.

Methods of `dyadiq.curvature.METHODS`: ``hessian_trace`` and ``hessian_xtrace``.
Sources: Dong et al. 2020 (HAWQ-V2); `trace_estimators` for the estimators.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.tables import Sensitivity, SensitivityTable
from dyadiq.curvature.block import Block
from dyadiq.curvature.isotropic import activation_errors, isotropic_losses
from dyadiq.curvature.losses import UNITS
from dyadiq.curvature.perturb import Network
from dyadiq.curvature.pieces import Piece
from dyadiq.curvature.problem import Problem
from dyadiq.curvature.statistics import to_entries
from dyadiq.curvature.trace import trace
from dyadiq.curvature.trace_estimators import crossed_mean, random_signs, sample_variance, xtrace

__all__ = ["DEFAULT_PROBES", "hessian_trace", "hessian_xtrace"]

Floats = NDArray[np.float64]

DEFAULT_PROBES = 32
_PROBES_OF_THE_DATA_ERROR = 4


def hessian_trace(problem: Problem) -> SensitivityTable:
    """Return ``1/2 * mean Hessian trace per element * squared error`` of every decision and width, by Hutchinson.

    Raises:
        DataError: Fewer than two samples, no labels or impossible ones, or non-finite outputs.
        ConfigError: The loss cannot take the network's output, or there are several.
    """
    return _measure(problem, "hessian_trace", use_xtrace=False)


def hessian_xtrace(problem: Problem) -> SensitivityTable:
    """Return the same with XTrace for weights: ``n_probes`` products of the Hessian with a vector each.

    Raises:
        DataError: Fewer than two samples, no labels or impossible ones, or non-finite outputs.
        ConfigError: The loss cannot take the network's output, there are several, or ``n_probes`` is odd or below 4.
    """
    return _measure(problem, "hessian_xtrace", use_xtrace=True)


def _measure(problem: Problem, method: str, *, use_xtrace: bool) -> SensitivityTable:
    problem.require_one_output(method)
    problem.require_samples(method)
    n_probes = problem.n_probes or DEFAULT_PROBES
    network = Network(problem)
    names = tuple(problem.widths)

    def estimate(i: int) -> Piece:
        block, rng = Block(problem, network, names[i]), np.random.default_rng([problem.seed, i])
        if names[i] in problem.graph.params and use_xtrace:
            found = _xtrace(block, n_probes, rng)
            return {"trace": np.array([found.value, found.stderr])}
        values = _quadratic_forms(block, n_probes, rng)
        found = crossed_mean(values)
        return {"trace": np.array([found.value, found.stderr]), "samples": values.mean(0)}

    found = problem.each_decision("traces of the Hessian", estimate)
    curvature, activations = {}, {}
    for name, piece in found.items():
        n_elements = problem.facts.decision(name).n_elements
        value, stderr = piece["trace"] / n_elements
        curvature[name] = Sensitivity(float(value), float(stderr))
        if name not in problem.graph.params:
            activations[name] = piece["samples"] / n_elements
    measured = isotropic_losses(problem, curvature, activations, activation_errors(problem, network))
    negative = [
        name for name in problem.widths if _is_inverted([measured[name, b].value for b in problem.widths[name]])
    ]
    notes = [f"traces of the Hessian at the labels, {n_probes} random probes"]
    if negative:
        instead = trace(
            replace(problem, widths={name: problem.widths[name] for name in negative}, n_probes=None, folder=None)
        )
        for name in negative:
            curvature[name] = instead.curvature[name]
            measured.update({(name, bits): entry for bits, entry in instead.entries[name].items()})
        notes.append(f"negative Hessian traces, Gauss-Newton traces taken instead: {', '.join(negative)}")
    return SensitivityTable(
        method=method,
        unit=UNITS[problem.loss],
        entries=to_entries({key: measured[key] for key in problem.index}),
        facts=problem.facts,
        n_samples=problem.n_samples,
        seed=problem.seed,
        curvature=curvature,
        notes=tuple(notes),
    )


def _is_inverted(losses: list[float]) -> bool:
    """Whether losses of ascending widths would reward fewer bits: one is below zero, or more bits cost more."""
    return min(losses) < 0.0 or any(wider > narrower for narrower, wider in pairwise(losses))


def _quadratic_forms(block: Block, n_probes: int, rng: np.random.Generator) -> Floats:
    return np.stack([block.quadratic(random_signs(rng, block.n_rows, block.n_elements)) for _ in range(n_probes)])


def _xtrace(block: Block, n_products: int, rng: np.random.Generator) -> Sensitivity:
    found = xtrace(lambda v: block.hessian(v[None])[0], block.n_elements, n_products, rng)
    of_data = sample_variance(_quadratic_forms(block, _PROBES_OF_THE_DATA_ERROR, rng)) / block.n_samples
    return Sensitivity(found.value, math.sqrt(found.stderr**2 + of_data))
