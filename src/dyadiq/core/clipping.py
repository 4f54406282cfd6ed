"""Clipping ranges: which part of a tensor's values the codes of a format cover, and the scale that follows.

Used by `core.affine` only, row by row: a row is a tensor, a channel or a group. All rows ``[R, n]`` are worked on
together. Symmetric formats have zero point 0; for asymmetric ones it is rounded, and the range shifts by at most
half a step (nudging, Jacob et al. 2018, section 3). Power-of-two scales are rounded up, so that nothing is clipped;
``mse`` also tries smaller ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.format import Format
from dyadiq.core.qtype import QType

__all__ = ["least_squares_range", "percentile_range", "pow2_above", "row_errors", "scale_of_range"]

Floats = NDArray[np.float64]

# Clipping ranges tried by "mse", as fractions of the full range: coarse 2^(-k/8), then fine around the best.
_COARSE_RATIOS = tuple(2.0 ** (-k / 8) for k in range(49))
_FINE_RATIOS = tuple(2.0 ** (k / 64) for k in range(-7, 8) if k)
_POW2_RATIOS = tuple(2.0**-k for k in range(7))


def scale_of_range(
    low: Floats, high: Floats, qtype: QType, fmt: Format, zero_point: NDArray[np.int64] | None
) -> tuple[Floats, NDArray[np.int64]]:
    """Return scale and zero point of ranges with ``low <= 0 <= high``."""
    if fmt.scheme == "symmetric":
        zero_point = np.zeros(low.shape, dtype=np.int64)
    if zero_point is not None:
        below, above = zero_point - qtype.qmin, qtype.qmax - zero_point
        scale = np.maximum(
            np.where(below > 0, -low / np.maximum(below, 1), 0.0), np.where(above > 0, high / np.maximum(above, 1), 0.0)
        )
        return (pow2_above(scale) if fmt.scale == "pow2" else scale), zero_point
    scale = (high - low) / (qtype.qmax - qtype.qmin)
    if fmt.scale == "pow2":
        scale = pow2_above(scale)
    shift = np.divide(low, scale, out=np.zeros_like(low), where=scale > 0)
    zero_point = np.clip(np.floor(qtype.qmin - shift + 0.5), qtype.qmin, qtype.qmax).astype(np.int64)
    return scale, zero_point


def percentile_range(rows: Floats, low: Floats, high: Floats, qtype: QType, fmt: Format) -> tuple[Floats, Floats]:
    """Return the range that keeps ``fmt.percentile`` of each row; the full range where that range is empty."""
    tail = 1.0 - fmt.percentile
    if fmt.scheme == "asymmetric":
        kept_low, kept_high = np.quantile(rows, [tail / 2, 1 - tail / 2], axis=1)
        kept_low, kept_high = np.minimum(kept_low, 0.0), np.maximum(kept_high, 0.0)
    else:
        bound = np.quantile(np.abs(rows) if qtype.signed else np.maximum(rows, 0.0), fmt.percentile, axis=1)
        kept_low, kept_high = np.maximum(low, -bound), np.minimum(high, bound)
    empty = kept_low == kept_high
    return np.where(empty, low, kept_low), np.where(empty, high, kept_high)


def least_squares_range(
    rows: Floats, low: Floats, high: Floats, qtype: QType, fmt: Format, zero_point: NDArray[np.int64] | None
) -> tuple[Floats, Floats]:
    """Return the range of least squared error per row, by line searches on fractions of the full range."""
    best = (low, high)
    best_error = row_errors(rows, *scale_of_range(low, high, qtype, fmt, zero_point), qtype)

    def search(start: tuple[Floats, Floats], ratios: tuple[float, ...], *, ends: str) -> None:
        nonlocal best, best_error
        for ratio in ratios:
            trial_low = start[0] * ratio if "l" in ends else best[0]
            trial_high = start[1] * ratio if "h" in ends else best[1]
            scale, offset = scale_of_range(trial_low, trial_high, qtype, fmt, zero_point)
            error = row_errors(rows, scale, offset, qtype)
            better = error < best_error
            best_error = np.where(better, error, best_error)
            best = (np.where(better, trial_low, best[0]), np.where(better, trial_high, best[1]))

    if fmt.scale == "pow2":
        search((low, high), _POW2_RATIOS, ends="lh")
        return best
    search((low, high), _COARSE_RATIOS, ends="lh")
    search(best, _FINE_RATIOS, ends="lh")
    if fmt.scheme == "asymmetric" and zero_point is None:
        for ends in ("l", "h"):  # from the full range: what the common ratio cut off at one end may come back
            search((low, high), _COARSE_RATIOS, ends=ends)
    return best


def row_errors(rows: Floats, scale: Floats, zero_point: NDArray[np.int64], qtype: QType) -> Floats:
    """Return ``sum (x - dequantize(quantize(x)))^2`` per row; rows of scale 0 count as all zeros."""
    step = np.where(scale > 0, scale, 1.0)[:, None]
    codes = rows / step
    codes += 0.5
    np.floor(codes, out=codes)
    np.clip(codes, (qtype.qmin - zero_point)[:, None], (qtype.qmax - zero_point)[:, None], out=codes)
    codes *= step
    codes -= rows
    return np.asarray(np.einsum("rn,rn->r", codes, codes), dtype=np.float64)


def pow2_above(scale: Floats) -> Floats:
    """Return the smallest power of two that is not below; 0 stays 0."""
    mantissa, exponent = np.frexp(scale)
    return np.where(scale > 0, np.ldexp(1.0, np.where(mantissa == 0.5, exponent - 1, exponent)), 0.0)
