"""Weights of few values: places of 4 bits in a table of 16, half the bytes of int8.

Used by `weights`; native/engine/codebook.cpp makes bytes of them, some blocks of outputs at a time, for the kernels of
packed weights. For what needs more than 4 bits as it is, and has few values all the same: powers of two, sums of few
of them, cluster centres.

Source: Han et al. 2016, Deep compression, section 3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dyadiq.engine.layout import BLOCK, QUAD, pack_dense

__all__ = ["pack_places", "refuse_codebook"]

_TABLE = 16
_PANEL = 144 << 10  # bytes of a block of weights, as kCodebookPanel in native/engine/plan.hpp


def refuse_codebook(weight: NDArray[np.int64], groups: int) -> str | None:
    """Return why weights of int8 cannot be places in a table, with what is found; None: they can.

    Args:
        weight: ``[O, I/g, KH, KW]``.
        groups: Of the convolution.

    Example:
        >>> refuse_codebook(np.arange(-8, 8).reshape(16, 1, 1, 1) * 7, 1)
        >>> refuse_codebook(np.arange(17).reshape(1, 17, 1, 1), 1)
        'its weights have 17 values, expected at most 16, a 0 that fills quads among them'
    """
    if groups != 1:
        return f"it has {groups} groups, expected 1"
    n_bytes = -(-weight.shape[1] // QUAD) * int(np.prod(weight.shape[2:])) * QUAD * BLOCK
    if n_bytes + QUAD * BLOCK > _PANEL:
        return f"16 outputs have {n_bytes} bytes of weights, expected less than {_PANEL}"
    n_values = len(_values(weight))
    if n_values > _TABLE:
        return f"its weights have {n_values} values, expected at most {_TABLE}, a 0 that fills quads among them"
    return None


def pack_places(weight: NDArray[np.int64]) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Return places as ``[block of 16 outputs][pair of quads, of all taps][16][4][quad]``, flat, and the table.

    Shapes:
        weight ``[O, I, KH, KW]``, with at most 16 values; quads of zeros fill blocks and pairs.

    Example:
        >>> places, table = pack_places(np.array([64, -64, 0, 1]).reshape(1, 4, 1, 1))
        >>> table[places[:8:2]]
        array([ 64, -64,   0,   1], dtype=int8)
    """
    values = _values(weight)
    blocks = pack_dense(weight, 1).reshape(-(-len(weight) // BLOCK), -1, BLOCK * QUAD)
    places = np.searchsorted(values, blocks)
    places = np.minimum(places, len(values) - 1)  # zeros that no output reads
    pairs = np.pad(places, ((0, 0), (0, places.shape[1] % 2), (0, 0)))
    ordered = pairs.reshape(len(blocks), -1, 2, BLOCK * QUAD).transpose(0, 1, 3, 2)
    return ordered.astype(np.int8).ravel(), np.pad(values, (0, _TABLE - len(values))).astype(np.int8)


def _values(weight: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the values of weights, rising, and the 0 that fills quads."""
    found: NDArray[np.int64] = np.unique(weight)
    return np.union1d(found, [0]) if weight.shape[1] % QUAD else found
