"""GPTQ: codes column by column, where what rounding one column does is made up for by the columns that follow.

Used by `rounding.layer`. Minimises ``(q - w) H (q - w)^T`` for every row w of a weight, greedily: with the columns in
an order, and U upper triangular, ``H^-1 = U^T U``,

    q_k = round(w_k);   w_j -= (w_k - q_k) U_kj / U_kk   for all j > k

Columns are worked on in blocks: inside one at once, for the later ones by one matrix product a block. The oracle in
the tests deletes rows and columns from H^-1 one at a time instead. Order: inputs of largest second moment first.
Sources: Frantar et al. 2022, GPTQ, section 3 and algorithm 1; LeCun et al. 1990 and Hassibi et al. 1993 (OBS).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dyadiq.rounding.grid import Grid

__all__ = ["gptq_codes", "row_errors"]

Floats = NDArray[np.float64]
_BLOCK = 64


def gptq_codes(weight: Floats, hessian: Floats, grid: Grid, *, block: int = _BLOCK) -> Floats:
    """Return codes less their zero points, as float64.

    Args:
        weight: ``[G, R, K]``.
        hessian: Positive definite ``[G, K, K]``: damped second moments of the inputs.
        grid: Steps and end codes of the rows.
        block: Columns between two updates of the later ones; the codes do not depend on it but for rounding errors.

    Example:
        >>> from dyadiq.core.affine import fit_range
        >>> from dyadiq.core.format import Format
        >>> grid = Grid.of(fit_range(-7.0, 7.0, Format(4, narrow=True, signed=True), nonnegative=False), 1, 2, 1)
        >>> gptq_codes(np.array([[[1.4, 1.4]]]), np.array([[[1.0, 0.9], [0.9, 1.0]]]), grid)  # 1.4 + 0.9 * 0.4
        array([[[1., 2.]]])
    """
    n_columns = weight.shape[2]
    order = np.argsort(-np.einsum("gkk->gk", hessian), axis=1, kind="stable")
    upper = _inverse_factor(np.take_along_axis(np.take_along_axis(hessian, order[:, :, None], 1), order[:, None], 2))
    left = np.take_along_axis(weight, order[:, None, :], axis=2)
    ordered = grid.permuted(order)
    codes = np.empty_like(left)
    for start in range(0, n_columns, block):
        end = min(start + block, n_columns)
        errors = np.empty((*left.shape[:2], end - start))
        for k in range(start, end):
            column = ordered.column(k)
            values = left[:, :, k : k + 1]
            codes[:, :, k : k + 1] = column.codes(values)
            error = (values - codes[:, :, k : k + 1] * column.step) / upper[:, k, k, None, None]
            left[:, :, k + 1 : end] -= error * upper[:, k : k + 1, k + 1 : end]
            errors[:, :, k - start : k - start + 1] = error
        left[:, :, end:] -= errors @ upper[:, start:end, end:]
    result = np.empty_like(codes)
    np.put_along_axis(result, order[:, None, :], codes, axis=2)
    return result


def row_errors(difference: Floats, hessian: Floats) -> Floats:
    """Return ``d H d^T`` of every row ``[G, R]``, for differences ``[G, R, K]``.

    Example:
        >>> row_errors(np.array([[[1.0, 2.0]]]), np.array([[[1.0, 0.5], [0.5, 1.0]]]))
        array([[7.]])
    """
    return np.asarray(np.einsum("grk,grk->gr", difference @ hessian, difference), dtype=np.float64)


def _inverse_factor(hessian: Floats) -> Floats:
    """Return U, upper triangular, with ``H^-1 = U^T U``: from H reversed, so that the inverse is never formed."""
    lower = np.linalg.cholesky(hessian[:, ::-1, ::-1])
    return np.asarray(np.linalg.inv(lower[:, ::-1, ::-1]), dtype=np.float64)
