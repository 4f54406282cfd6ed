"""How weights lie in the file, for the kernels to read them in order.

Used by `compile`; the layouts are those of native/engine/run.hpp. Rows of zeros fill blocks and quads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK", "QUAD", "by_blocks", "pack_dense", "pack_depthwise", "pack_generic"]

BLOCK, QUAD = 16, 4


def pack_dense(weight: NDArray[np.int64], groups: int) -> NDArray[np.int8]:
    """Return weights as ``[group][block of 16 outputs][tap][quad of 4 inputs][16][4]``, flat.

    Shapes:
        weight ``[O, I/g, KH, KW]``, values of int8.

    Example:
        >>> pack_dense(np.arange(6).reshape(2, 3, 1, 1), 1)[:8]
        array([0, 1, 2, 0, 3, 4, 5, 0], dtype=int8)
    """
    n_out, n_in = weight.shape[0] // groups, weight.shape[1]
    taps = weight.reshape(groups, n_out, n_in, -1)
    pad_out, pad_in = -n_out % BLOCK, -n_in % QUAD
    taps = np.pad(taps, ((0, 0), (0, pad_out), (0, pad_in), (0, 0)))
    shape = (groups, (n_out + pad_out) // BLOCK, BLOCK, (n_in + pad_in) // QUAD, QUAD, taps.shape[-1])
    return np.ascontiguousarray(taps.reshape(shape).transpose(0, 1, 5, 3, 2, 4)).astype(np.int8).ravel()


def pack_depthwise(weight: NDArray[np.int64]) -> NDArray[np.int8]:
    """Return weights ``[C, 1, KH, KW]`` as ``[tap][C]``, flat.

    Example:
        >>> pack_depthwise(np.arange(4).reshape(2, 1, 1, 2))
        array([0, 2, 1, 3], dtype=int8)
    """
    return np.ascontiguousarray(weight.reshape(len(weight), -1).T).astype(np.int8).ravel()


def pack_generic(weight: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return weights ``[O, I/g, KH, KW]`` as ``[O][tap][I/g]``, flat.

    Example:
        >>> pack_generic(np.arange(4).reshape(1, 2, 1, 2))
        array([0, 2, 1, 3], dtype=int32)
    """
    return np.ascontiguousarray(weight.transpose(0, 2, 3, 1)).astype(np.int32).ravel()


def by_blocks(values: NDArray[np.int64], groups: int) -> NDArray[np.int32]:
    """Return one value an output channel in the order of `pack_dense`: every group filled up to whole blocks.

    Example:
        >>> by_blocks(np.array([7, 8]), 1)[:3]
        array([7, 8, 0], dtype=int32)
    """
    per_group = values.reshape(groups, -1)
    return np.pad(per_group, ((0, 0), (0, -per_group.shape[1] % BLOCK))).astype(np.int32).ravel()
