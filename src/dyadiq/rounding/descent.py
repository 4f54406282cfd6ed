"""Coordinate descent on codes, and the steps that fit given codes best.

Used by `rounding.layer` after GPTQ. Both lower ``(q s - w) H (q s - w)^T`` or leave it:

    codes: q_k <- round(q_k - g_k / (H_kk s)),   g = (q s - w) H,   column after column
    step:  s <- (w H q^T) / (q H q^T)

Sources: Behdin et al. 2023, QuantEase, algorithm 1 (cyclic coordinate descent); the step is a one-dimensional
least-squares fit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dyadiq.rounding.grid import Grid

__all__ = ["descend", "fitted_factor"]

Floats = NDArray[np.float64]


def descend(codes: Floats, weight: Floats, hessian: Floats, grid: Grid, *, sweeps: int) -> Floats:
    """Return codes that no change of a single one improves, or those after ``sweeps`` rounds.

    Args:
        codes: Less their zero points, ``[G, R, K]``.
        weight: What ``codes * step`` shall be, ``[G, R, K]``.
        hessian: ``[G, K, K]``, its diagonal positive.
        grid: Steps and end codes.
        sweeps: Most rounds over all columns.
    """
    codes = codes.copy()
    gradient = (codes * grid.step - weight) @ hessian
    diagonal = np.einsum("gkk->gk", hessian)
    for _ in range(sweeps):
        changed = False
        for k in range(weight.shape[2]):
            column, old = grid.column(k), codes[:, :, k : k + 1]
            slope = gradient[:, :, k : k + 1] / diagonal[:, k, None, None]
            new = column.codes(old * column.step - slope)
            move = (new - old) * column.step
            if move.any():
                changed = True
                codes[:, :, k : k + 1] = new
                gradient += move * hessian[:, k : k + 1, :]
        if not changed:
            break
    return codes


def fitted_factor(codes: Floats, weight: Floats, hessian: Floats, grid: Grid) -> Floats:
    """Return the factor on the step of every row ``[G, R]`` of least error; 1 for codes of zeros or a negative fit.

    Example:
        >>> grid = Grid(np.ones((1, 1, 1)), np.full((1, 1, 1), -7.0), np.full((1, 1, 1), 7.0), False)
        >>> fitted_factor(np.array([[[1.0, 2.0]]]), np.array([[[1.5, 3.0]]]), np.eye(2)[None], grid)
        array([[1.5]])
    """
    values = codes * grid.step
    through = values @ hessian
    above, below = np.einsum("grk,grk->gr", through, weight), np.einsum("grk,grk->gr", through, values)
    fits = (below > 0) & (above > 0)
    return np.where(fits, above / np.where(fits, below, 1.0), 1.0)
