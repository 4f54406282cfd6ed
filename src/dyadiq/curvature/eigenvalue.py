"""HAWQ-V1: the largest eigenvalue of every block times the squared error.

    weight      1/2 * lambda * ||Q_b(w) - w||^2,          lambda the largest eigenvalue of the Gauss-Newton block
    activation  1/2 * mean_n lambda_n ||Q_b(a_n) - a_n||^2,  a block of every sample

An upper bound of the second-order loss increase, whatever the direction of the change. In piecewise-linear networks
the Gauss-Newton block is the Hessian block (see `trace`); the true Hessian's can be negative, this cannot. Found by
Lanczos instead of power iteration: the same products, far fewer of them. The standard error is that over samples of
``v^T G_n v`` at the eigenvector v (first-order perturbation of a simple eigenvalue).

``curvature`` of the table holds the eigenvalues. Method of `dyadiq.curvature.METHODS`.
Source: Dong et al. 2019 (HAWQ), section 3; the papers' S = lambda / n orders layers, Omega = lambda ||dW||^2 is used.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.tables import SensitivityTable
from dyadiq.curvature.block import Block
from dyadiq.curvature.isotropic import activation_errors, isotropic_losses
from dyadiq.curvature.lanczos import lanczos
from dyadiq.curvature.losses import UNITS
from dyadiq.curvature.perturb import Network
from dyadiq.curvature.pieces import Piece
from dyadiq.curvature.problem import Problem
from dyadiq.curvature.statistics import mean_with_stderr, to_entries

__all__ = ["eigenvalue", "top_squares"]

_MAX_STEPS = 30
_TOLERANCE = 1e-3


def eigenvalue(problem: Problem) -> SensitivityTable:
    """Return ``1/2 * lambda * squared error`` of every decision and width.

    Raises:
        DataError: Fewer than two samples, or non-finite outputs.
        ConfigError: The loss cannot take the network's output, or there are several.
    """
    problem.require_one_output("eigenvalue")
    problem.require_samples("eigenvalue")
    network = Network(problem)
    names = tuple(problem.widths)

    def squares(i: int) -> Piece:
        return {"squares": top_squares(Block(problem, network, names[i]), np.random.default_rng([problem.seed, i]))}

    found = {name: piece["squares"] for name, piece in problem.each_decision("largest eigenvalues", squares).items()}
    curvature = {name: mean_with_stderr(values) for name, values in found.items()}
    losses = isotropic_losses(problem, curvature, found, activation_errors(problem, network))
    return SensitivityTable(
        method="eigenvalue",
        unit=UNITS[problem.loss],
        entries=to_entries(losses),
        facts=problem.facts,
        n_samples=problem.n_samples,
        seed=problem.seed,
        curvature=curvature,
        notes=("curvature holds the largest eigenvalue of every block",),
    )


def top_squares(block: Block, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return ``v^T G_n v`` of every sample at the eigenvector of the largest eigenvalue.

    For a weight their mean is the eigenvalue; for an activation each is that of the sample's own block.
    """
    start = rng.standard_normal((block.n_rows, block.n_elements))
    found = lanczos(lambda v: block.gauss_newton(v)[0], start, _MAX_STEPS, tolerance=_TOLERANCE)
    return block.gauss_newton(found.top()[1])[1]
