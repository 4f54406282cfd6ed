"""Traces of symmetric operators from products with random vectors, with their standard errors.

Used by `hessian_trace`. Knows products and numbers only.

    Hutchinson   E[r^T A r] = tr A for random signs r; here for a mean of matrices, A = mean_n A_n, from the table of
                 all r_k^T A_n r_k, whose two ways of varying are told apart: over samples and over probes
    XTrace       exact on the space that A maps the probes to, Hutchinson on what is left, every probe left out once

XTrace's error falls with the square of what Hutchinson's does where few eigenvalues carry the trace, as in networks.
Sources: Hutchinson 1990; Epperly, Tropp and Webber 2024, XTrace, algorithm 1 and its error estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ConfigError
from dyadiq.core.tables import Sensitivity

__all__ = ["crossed_mean", "random_signs", "sample_variance", "xtrace"]

Floats = NDArray[np.float64]


def random_signs(rng: np.random.Generator, *shape: int) -> Floats:
    """Return independent signs of either kind with equal probability."""
    return rng.integers(0, 2, shape).astype(np.float64) * 2.0 - 1.0


def crossed_mean(values: Floats) -> Sensitivity:
    """Return the mean of ``values[k, n]`` over probes k and samples n, both drawn at random, with its standard error.

    With variances a of probes, b of samples and c of what is left, ``Var = a / K + b / N + c / (K N)``; row means vary
    by ``a + c / N``, column means by ``b + c / K``, and the residuals by c. A single probe or sample has no spread to
    tell its part by: that part is then left out.

    Shapes:
        values ``[K, N]``.

    Example:
        >>> crossed_mean(np.array([[1.0, 3.0], [1.0, 3.0]]))  # no spread over probes
        Sensitivity(value=2.0, stderr=1.0)
    """
    n_probes, n_samples = values.shape
    mean = float(values.mean())
    rows, columns = values.mean(1), values.mean(0)
    over_probes = float(rows.var(ddof=1)) / n_probes if n_probes > 1 else 0.0
    over_samples = float(columns.var(ddof=1)) / n_samples if n_samples > 1 else 0.0
    both = 0.0
    if n_probes > 1 and n_samples > 1:
        rest = values - rows[:, None] - columns + mean
        both = float(np.square(rest).sum()) / ((n_probes - 1) * (n_samples - 1)) / (n_probes * n_samples)
    return Sensitivity(mean, math.sqrt(max(over_probes + over_samples - both, over_probes, over_samples)))


def sample_variance(values: Floats) -> float:
    """Return the variance over samples of ``values[k, n]``, less what the probes add; at least 0.

    Shapes:
        values ``[K, N]``, K and N at least 2.

    Example:
        >>> sample_variance(np.array([[1.0, 3.0], [1.0, 3.0]]))
        2.0
    """
    means: Floats = values.mean(0)
    rest = values - values.mean(1)[:, None] - means + values.mean()
    of_rest = float(np.square(rest).sum()) / ((values.shape[0] - 1) * (values.shape[1] - 1))
    of_means = float(np.square(means - means.mean()).sum()) / (len(means) - 1)
    excess: float = of_means - of_rest / len(values)
    return max(0.0, excess)


def xtrace(product: Callable[[Floats], Floats], size: int, n_products: int, rng: np.random.Generator) -> Sensitivity:
    """Return the trace of a symmetric operator and the standard error of the estimate.

    Args:
        product: ``v -> A v`` for a vector ``[size]``.
        size: Rows of A.
        n_products: Products to spend, an even number of at least 4; where they reach ``size`` the trace is exact.
        rng: Of the probes.

    Raises:
        ConfigError: ``n_products`` is odd or below 4.

    Example:
        >>> xtrace(lambda v: v * np.arange(1.0, 6.0), 5, 6, np.random.default_rng(0))
        Sensitivity(value=15.0, stderr=0.0)
    """
    if n_products < 4 or n_products % 2:
        raise ConfigError(f"xtrace: n_products must be an even number of at least 4, got {n_products}.")
    if n_products >= size:
        return Sensitivity(float(sum(product(row)[i] for i, row in enumerate(np.eye(size)))), 0.0)
    m = n_products // 2
    probes = random_signs(rng, size, m)
    images = np.stack([product(v) for v in probes.T], axis=1)
    basis, triangle = np.linalg.qr(images)
    again = np.stack([product(v) for v in basis.T], axis=1)
    inner = basis.T @ again
    diagonal = np.abs(np.diag(triangle))
    if diagonal.min() <= 1e-10 * max(diagonal.max(), 1e-300):
        # The probes already span all that A maps to: its trace lives there.
        left, singular, _ = np.linalg.svd(images, full_matrices=False)
        kept = left[:, singular > 1e-10 * max(float(singular[0]), 1e-300)]
        inside = kept.T @ basis
        return Sensitivity(float(np.trace(inside @ inner @ inside.T)), 0.0)
    # Without probe i the basis loses one direction, s_i: the column of R^-T, made a unit vector.
    lost = np.linalg.inv(triangle).T
    lost /= np.linalg.norm(lost, axis=0)
    coordinates, mixed = basis.T @ probes, again.T @ probes
    estimates = np.empty(m)
    for i in range(m):
        s = lost[:, i]
        x = coordinates[:, i] - s * (s @ coordinates[:, i])
        rest = probes[:, i] @ images[:, i] - 2.0 * mixed[:, i] @ x + x @ inner @ x
        estimates[i] = np.trace(inner) - s @ inner @ s + rest
    return Sensitivity(float(estimates.mean()), float(estimates.std(ddof=1) / math.sqrt(m)))
