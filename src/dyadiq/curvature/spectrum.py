"""The whole spectrum of every weight's curvature: stochastic Lanczos quadrature on the Gauss-Newton block.

Used by `analyze` where it is asked for; chooses nothing: it shows what a trace or a largest eigenvalue summarise.
In a piecewise-linear network the block is that of the Hessian (see `trace`).

For a start v of independent signs, k Lanczos steps give a tridiagonal T with eigenvalues theta_i and first components
tau_i of its eigenvectors, and for any polynomial f of degree up to 2k - 1

    v^T f(A) v / |v|^2  =  sum_i tau_i^2 f(theta_i),          on average over v:  tr f(A) / d.

So the points theta_i with the weights ``tau_i^2``, averaged over starts, stand for the density of the d eigenvalues:
the extreme ones exactly, crowds of small ones by a few points. Exact once k reaches the number of distinct eigenvalues,
and the starts are all unit vectors.

Sources: Golub and Meurant 2010, chapter 6; Ghorbani et al. 2019; Yao et al. 2020 (PyHessian).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.tables import Spectrum
from dyadiq.curvature.block import Block
from dyadiq.curvature.lanczos import lanczos
from dyadiq.curvature.perturb import Network
from dyadiq.curvature.pieces import Piece
from dyadiq.curvature.problem import Problem
from dyadiq.curvature.trace_estimators import random_signs

__all__ = ["N_STARTS", "N_STEPS", "quadrature", "spectra"]

N_STARTS = 4
N_STEPS = 24

Floats = NDArray[np.float64]


def spectra(problem: Problem, *, n_starts: int = N_STARTS, n_steps: int = N_STEPS) -> dict[str, Spectrum]:
    """Return the spectrum of every weight to measure.

    Raises:
        DataError: Fewer than two samples, or non-finite outputs or products.
        ConfigError: The loss cannot take the network's output, or there are several.
    """
    problem.require_one_output("spectrum")
    problem.require_samples("spectrum")
    problem = replace(problem, widths={name: problem.widths[name] for name in problem.weights})
    network, names = Network(problem), problem.weights

    def measure(i: int) -> Piece:
        block, rng = Block(problem, network, names[i]), np.random.default_rng([problem.seed, i])
        starts = random_signs(rng, n_starts, block.n_elements)
        points, weights = quadrature(lambda v: block.gauss_newton(v)[0], starts, n_steps)
        return {"points": points, "weights": weights}

    found = problem.each_decision("spectra", measure)
    return {
        name: Spectrum(piece["points"], piece["weights"], problem.facts.decision(name).n_elements)
        for name, piece in found.items()
    }


def quadrature(product: Callable[[Floats], Floats], starts: Floats, n_steps: int) -> tuple[Floats, Floats]:
    """Return points and weights that stand for the spectrum of a symmetric operator; weights sum to 1.

    Args:
        product: ``v -> A v`` for one row ``[1, d]``.
        starts: ``[S, d]``, one run of Lanczos each.
        n_steps: Most steps of a run.

    Shapes:
        points ``[S, k]``, ascending in each row, weights the same; rows that ended early are filled with weight 0.

    Example:
        >>> points, weights = quadrature(lambda v: v * np.array([1.0, 4.0]), np.array([[1.0, 1.0]]), 2)
        >>> points.round(12), weights.round(12)
        (array([[1., 4.]]), array([[0.5, 0.5]]))
    """
    k = min(n_steps, starts.shape[1])
    points, weights = np.zeros((len(starts), k)), np.zeros((len(starts), k))
    for row, start in enumerate(starts):
        values, vectors = lanczos(product, start[None], n_steps).eigen()
        points[row, : values.shape[1]] = values[0]
        weights[row, : values.shape[1]] = vectors[0, 0] ** 2 / len(starts)
    return points, weights
