"""Lanczos with full reorthogonalisation, for one symmetric operator or many at once.

Used by `eigenvalue` (the largest eigenvalue) and `spectrum` (the density). Knows only products with vectors.

A row of the vectors is a system of its own: row r meets the matrix A_r. After k steps, ``Q_r`` has orthonormal rows
and ``T_r = Q_r A_r Q_r^T`` is tridiagonal; eigenvalues of T approximate those of A, the extreme ones first, and are
exact once k reaches the number of distinct eigenvalues that the start sees.

Every new vector is orthogonalised twice against all earlier ones ("twice is enough"): without it, copies of converged
eigenvalues appear. Sources: Golub and Van Loan 2013, section 10.3; Giraud et al. 2005.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Tridiagonal", "lanczos"]

Floats = NDArray[np.float64]
_BREAKDOWN = 1e-12
"""A new direction shorter than this times the operator's size seen so far is rounding noise: the space is invariant."""


@dataclass(frozen=True)
class Tridiagonal:
    """What k Lanczos steps found, per system.

    Attributes:
        diagonal: ``[R, k]``.
        beside: ``[R, k - 1]``; zero where a system had no further direction.
        basis: ``[R, k, d]``; rows orthonormal, or zero past a system's end.
    """

    diagonal: Floats
    beside: Floats
    basis: Floats

    def eigen(self) -> tuple[Floats, Floats]:
        """Return the eigenvalues of T ascending ``[R, k]`` and its eigenvectors in columns ``[R, k, k]``."""
        k = self.diagonal.shape[1]
        t = np.zeros((len(self.diagonal), k, k))
        i = np.arange(k)
        t[:, i, i] = self.diagonal
        t[:, i[:-1], i[1:]] = t[:, i[1:], i[:-1]] = self.beside
        values, vectors = np.linalg.eigh(t)
        return values, vectors

    def top(self) -> tuple[Floats, Floats]:
        """Return the largest eigenvalue ``[R]`` and its unit vector ``[R, d]``."""
        values, vectors = self.eigen()
        top = np.einsum("rk,rkd->rd", vectors[:, :, -1], self.basis)
        norms = np.linalg.norm(top, axis=1, keepdims=True)
        return values[:, -1], top / np.where(norms > 0, norms, 1.0)


def lanczos(
    product: Callable[[Floats], Floats],
    start: Floats,
    n_steps: int,
    *,
    tolerance: float = 0.0,
) -> Tridiagonal:
    """Return ``Q A Q^T`` of the Krylov space of a start.

    Args:
        product: ``v -> A v``, row by row.
        start: Any vectors ``[R, d]`` that are not zero.
        n_steps: Most steps; never more than d.
        tolerance: Stop when the largest eigenvalue of every system changed by less than this share in a step; 0: never.

    Example:
        >>> found = lanczos(lambda v: v * np.array([1.0, 2.0, 5.0]), np.ones((1, 3)), 3)
        >>> found.eigen()[0].round(12)
        array([[1., 2., 5.]])
    """
    n_steps = min(n_steps, start.shape[1])
    basis = np.zeros((start.shape[0], n_steps, start.shape[1]))
    diagonal, beside = np.zeros((len(start), n_steps)), np.zeros((len(start), n_steps))
    current = start / np.linalg.norm(start, axis=1, keepdims=True)
    largest: Floats | None = None
    size = np.zeros(len(start))
    done = 0
    for k in range(n_steps):
        basis[:, k] = current
        image = product(current)
        diagonal[:, k] = np.einsum("rd,rd->r", current, image)
        rest = image
        for _ in range(2):
            known = basis[:, : k + 1]
            rest = rest - np.einsum("rk,rkd->rd", np.einsum("rkd,rd->rk", known, rest), known)
        norms = np.linalg.norm(rest, axis=1)
        size = np.maximum(size, np.linalg.norm(image, axis=1))
        alive = norms > _BREAKDOWN * size
        beside[:, k] = np.where(alive, norms, 0.0)
        current = np.where(alive[:, None], rest / np.where(alive, norms, 1.0)[:, None], 0.0)
        done = k + 1
        if not alive.any():
            break
        if tolerance > 0.0 and done > 1:
            now = Tridiagonal(diagonal[:, :done], beside[:, : done - 1], basis[:, :done]).eigen()[0][:, -1]
            if largest is not None and np.all(np.abs(now - largest) <= tolerance * np.abs(now)):
                break
            largest = now
    return Tridiagonal(diagonal[:, :done], beside[:, : done - 1], basis[:, :done])
