"""Second moments of a layer's inputs, and the weights that best imitate the float layer on them.

Used by `rounding.layer`; filled by `quant.moments` or by whoever has the inputs. Numpy and float64.

A layer sees rows x (quantized network) where the float network has rows u. The best real weights on x are

    W* = argmin E |W u - V x|^2 = W + W (E[u x^T] - E[x x^T]) (E[x x^T] + d I)^-1

so rounding need not copy W: it makes up for what earlier layers did to x. With a bias that may move, moments are
central, and the bias takes the difference of the means. d is ``damping`` times the mean of the diagonal.
Sources: Frantar et al. 2022, GPTQ (symmetric moments); Li et al. 2025, GPTAQ (asymmetric calibration), there column
by column; the closed form is least squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dyadiq.core.errors import DataError

__all__ = ["Moments"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Sums over the rows that a layer sees, for each of the G groups of a convolution (1 for the others).

    Attributes:
        n_rows: How many rows were summed.
        second: ``sum x x^T``, float64 ``[G, K, K]``.
        cross: ``sum u x^T``, the same shape; equal to ``second`` where both networks see the same.
        mean: ``sum x / n_rows``, ``[G, K]``.
        float_mean: ``sum u / n_rows``, ``[G, K]``.

    Raises:
        DataError: No rows, shapes that contradict each other, or values that are not finite.

    Example:
        >>> moments = Moments.of_rows([[1.0, 0.0], [3.0, 1.0]])
        >>> moments.central(with_bias=False)[0].tolist()
        [[[5.0, 1.5], [1.5, 0.5]]]
        >>> moments.central(with_bias=True)[0].tolist()
        [[[1.0, 0.5], [0.5, 0.25]]]
    """

    n_rows: int
    second: Floats
    cross: Floats
    mean: Floats
    float_mean: Floats

    def __post_init__(self) -> None:
        """Check shapes and values.

        Raises:
            DataError: No rows, shapes that contradict each other, or values that are not finite.
        """
        if self.n_rows < 1:
            raise DataError(f"moments need at least one row of inputs, got {self.n_rows}.")
        square = (*self.mean.shape, self.mean.shape[-1])
        if (
            self.mean.ndim != 2
            or self.second.shape != square
            or self.cross.shape != square
            or self.float_mean.shape != self.mean.shape
        ):
            raise DataError(
                f"moments must be [G, K, K] with means [G, K], got second {self.second.shape}, cross "
                f"{self.cross.shape}, mean {self.mean.shape}, float_mean {self.float_mean.shape}."
            )
        if not all(np.isfinite(a).all() for a in (self.second, self.cross, self.mean, self.float_mean)):
            raise DataError("moments hold NaN or infinity. Check the calibration data and earlier layers.")

    @classmethod
    def of_rows(cls, rows: ArrayLike, float_rows: ArrayLike | None = None) -> Moments:
        """Return the moments of rows ``[N, K]``, or ``[G, N, K]`` for groups; ``float_rows`` are those of u.

        Raises:
            DataError: No rows, or other shapes.
        """
        x = np.asarray(rows, dtype=np.float64)
        u = x if float_rows is None else np.asarray(float_rows, dtype=np.float64)
        if x.ndim not in (2, 3) or u.shape != x.shape or x.shape[-2] == 0:
            raise DataError(f"rows must be [N, K] or [G, N, K] with N >= 1, got shapes {x.shape} and {u.shape}.")
        x, u = (a.reshape(-1, *a.shape[-2:]) for a in (x, u))
        second = np.swapaxes(x, 1, 2) @ x
        cross = second if float_rows is None else np.swapaxes(u, 1, 2) @ x
        return cls(x.shape[1], second, cross, x.mean(axis=1), u.mean(axis=1))

    def central(self, *, with_bias: bool) -> tuple[Floats, Floats]:
        """Return ``E[x x^T]`` and ``E[u x^T]``; about the means if the layer has a bias to move."""
        second, cross = self.second / self.n_rows, self.cross / self.n_rows
        if not with_bias:
            return second, cross
        mean = self.mean[:, None, :]
        return second - self.mean[:, :, None] * mean, cross - self.float_mean[:, :, None] * mean

    def target(self, weight: Floats, *, with_bias: bool, damping: float) -> Floats:
        """Return the weights ``W*`` ``[G, R, K]`` that imitate ``W u`` best on x; W itself where u = x.

        Example:
            >>> u = np.array([[1.0], [2.0], [-1.0]])
            >>> moments = Moments.of_rows(u / 2, u)
            >>> moments.target(np.array([[[3.0]]]), with_bias=False, damping=0.0)
            array([[[6.]]])
        """
        second, cross = self.central(with_bias=with_bias)
        difference = weight @ (cross - second)
        if not difference.any():
            return weight
        return np.asarray(weight + np.swapaxes(_solve(damped(second, damping), np.swapaxes(difference, 1, 2)), 1, 2))

    def bias_shift(self, weight: Floats, rounded: Floats) -> Floats:
        """Return what the bias must gain ``[G, R]`` for equal mean outputs: ``W mean(u) - V mean(x)``."""
        return np.asarray(
            (weight @ self.float_mean[:, :, None] - rounded @ self.mean[:, :, None])[:, :, 0], dtype=np.float64
        )


def damped(second: Floats, damping: float) -> Floats:
    """Return moments that are safe to invert: dead inputs get 1 on the diagonal, all ``damping`` of its mean.

    Example:
        >>> damped(np.array([[[2.0, 0.0], [0.0, 0.0]]]), 0.5)
        array([[[2.5, 0. ],
                [0. , 1. ]]])
    """
    result = second.copy()
    diagonal = np.einsum("gkk->gk", result)
    mean = diagonal.mean(axis=1, keepdims=True)
    dead = diagonal <= mean * 1e-12
    added = np.where(dead, 1.0 - diagonal, damping * mean + mean * 1e-12)
    diagonal += added
    return result


def _solve(matrix: Floats, right: Floats) -> Floats:
    return np.asarray(np.linalg.solve(matrix, right), dtype=np.float64)
