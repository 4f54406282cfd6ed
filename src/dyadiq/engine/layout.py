"""How weights lie in the file, for the kernels to read them in order.

Used by `compile`; the layouts are those of native/engine/run.hpp. Rows of zeros fill blocks and quads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.qtype import QType

__all__ = [
    "BLOCK",
    "INT8",
    "QUAD",
    "as_rows",
    "by_blocks",
    "find_places",
    "pack_dense",
    "pack_depthwise",
    "pack_generic",
    "weight_type",
]

BLOCK, QUAD = 16, 4
INT8 = QType(8, signed=True)

# Types of packed weights, the narrowest first; and how many bits to the left kernels hold them, sums included.
_NARROW = (
    (QType(1, signed=True, bipolar=True), 6),
    (QType(2, signed=True), 6),
    (QType(4, signed=True), 4),
)
_BEFORE = 1 << 24  # what single precision may add to a sum (`single`)


def as_rows(weight: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return weights of which a tap is a whole row of the kernel, column after column, as dense pixels lie in memory.

    Shapes:
        weight ``[O, I, KH, KW]``; the result ``[O, KW * I, KH, 1]``.

    Example:
        >>> as_rows(np.arange(6).reshape(1, 3, 1, 2)).ravel()
        array([0, 2, 4, 1, 3, 5])
    """
    n_out, n_in, height, width = weight.shape
    return weight.transpose(0, 3, 1, 2).reshape(n_out, width * n_in, height, 1)


def weight_type(weight: NDArray[np.int64], largest_sum: int) -> QType:
    """Return the narrowest type that packed weights fit; groups of ``8 / bits`` quads must be whole.

    Args:
        weight: ``[O, I/g, KH, KW]``, values of int8.
        largest_sum: Magnitude that no sum of products with codes as they lie in memory exceeds, bias included.

    Example:
        >>> str(weight_type(np.full((1, 8, 1, 1), -8), 10000)), str(weight_type(np.full((1, 4, 1, 1), -8), 10000))
        ('int4', 'int8')
    """
    n_in = weight.shape[1]
    quads = -(-n_in // QUAD)
    for qtype, left in _NARROW:
        fits = bool(weight.min() >= qtype.qmin and weight.max() <= qtype.qmax)
        whole = quads % (8 // qtype.bits) == 0
        if qtype.bipolar:  # which has no 0 to fill a quad with
            fits, whole = bool(np.isin(weight, (-1, 1)).all()), whole and n_in % QUAD == 0
        if fits and whole and (largest_sum + _BEFORE) << left < 1 << 31:
            return qtype
    return INT8


def pack_dense(weight: NDArray[np.int64], groups: int, qtype: QType = INT8) -> NDArray[np.int8]:
    """Return weights as ``[group][block of 16 outputs][tap][group of quads][16][4][quad]``, flat.

    A group has ``8 / bits`` quads of 4 inputs, one where the type is int8; its 64 bytes hold them side by side.

    Shapes:
        weight ``[O, I/g, KH, KW]``, values of the type.

    Example:
        >>> pack_dense(np.arange(6).reshape(2, 3, 1, 1), 1)[:8]
        array([0, 1, 2, 0, 3, 4, 5, 0], dtype=int8)
        >>> pack_dense(np.arange(8).reshape(1, 8, 1, 1), 1, QType(4, signed=True))[:8]
        array([0, 4, 1, 5, 2, 6, 3, 7], dtype=int8)
    """
    n_out, n_in = weight.shape[0] // groups, weight.shape[1]
    taps = weight.reshape(groups, n_out, n_in, -1)
    pad_out, pad_in = -n_out % BLOCK, -n_in % QUAD
    taps = np.pad(taps, ((0, 0), (0, pad_out), (0, pad_in), (0, 0)), constant_values=int(qtype.bipolar))
    side_by_side = 8 // qtype.bits
    n_quads = (n_in + pad_in) // QUAD
    shape = (groups, (n_out + pad_out) // BLOCK, BLOCK, n_quads // side_by_side, side_by_side, QUAD, taps.shape[-1])
    return np.ascontiguousarray(taps.reshape(shape).transpose(0, 1, 6, 3, 2, 5, 4)).astype(np.int8).ravel()


def find_places(quads: NDArray[np.int8], n_outputs: int) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
    """Return the quads of dense weights, as `pack_dense` lays them, that are not all zero, and which they are.

    Args:
        quads: Of one group.
        n_outputs: Channels of it.

    Returns:
        Quads ``[n][16][4]``, flat; and where each block's quads begin among all and where the last one's end, then
        ``tap * quads + quad`` of each.

    Example:
        >>> values, places = find_places(pack_dense(np.eye(12, dtype=np.int64)[8:].reshape(4, 12, 1, 1), 1), 4)
        >>> values.size, places
        (64, array([0, 1, 2], dtype=int32))
    """
    n_blocks = -(-n_outputs // BLOCK)
    by_quad = quads.reshape(n_blocks, -1, BLOCK * QUAD)
    block, place = np.nonzero(by_quad.any(axis=2))
    starts = np.searchsorted(block, np.arange(n_blocks + 1))
    return by_quad[block, place].ravel(), np.concatenate([starts, place]).astype(np.int32)


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
