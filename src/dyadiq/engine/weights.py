"""Which kernels run a dot product, and so how its weights lie in the file.

Used by `compile`; the layouts are those of `layout`, the kinds those of docs/spec/engine.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.qtype import QType
from dyadiq.engine.layout import by_blocks, find_places, pack_dense, pack_depthwise, pack_generic, weight_type
from dyadiq.engine.plan import INT32_RANGE

__all__ = ["KernelWeights", "choose_weights"]

_PACKED, _DEPTHWISE, _GENERIC, _SPARSE = 0, 1, 2, 3
_MAX_PLACES = 8192  # quads of a block
# Share of quads that are not all zero, up to which sparse weights are worth it: benchmarks/engine_sparse.py.
_DENSEST = 0.6


@dataclass(frozen=True)
class KernelWeights:
    """Weights of one dot product as its kernels read them.

    Attributes:
        kind: Of kernels.
        groups: Of the convolution.
        values: In the order of the layout.
        qtype: How values are packed; None: as they are.
        places: Of sparse weights: where each block's quads begin among all, then every quad.
    """

    kind: int
    groups: int
    values: NDArray[np.int8] | NDArray[np.int32]
    qtype: QType | None = None
    places: NDArray[np.int32] | None = None

    @property
    def reads_memory(self) -> bool:
        """Whether kernels read codes as they lie in memory, with the offset that is there."""
        return self.kind != _GENERIC

    def ordered(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return one value an output channel in the order of the kernels."""
        return by_blocks(values, self.groups).astype(np.int64) if self.kind in (_PACKED, _SPARSE) else values


def choose_weights(
    weight: NDArray[np.int64],
    bias: NDArray[np.int64],
    groups: int,
    *,
    wide: bool,
    code_offset: int,
    sparse: bool = True,
) -> KernelWeights:
    """Return weights for the fastest kernels that can run them: those on bytes need int8, and sums of int32.

    Args:
        weight: ``[O, I/g, KH, KW]``.
        bias: By output.
        groups: Of the convolution.
        wide: Whether its input lies in int32.
        code_offset: What codes of its input have more in memory.
        sparse: Whether quads of zeros may be left out.

    Example:
        >>> zeros = np.zeros((16, 64, 1, 1), dtype=np.int64)
        >>> choose_weights(zeros + 99, zeros[:, 0, 0, 0], 1, wide=False, code_offset=0).kind
        0
        >>> choose_weights(zeros, zeros[:, 0, 0, 0], 1, wide=False, code_offset=0).kind
        3
    """
    n_in = weight.shape[1]
    largest = int((np.abs(bias) + (255 + code_offset) * np.abs(weight).reshape(len(weight), -1).sum(axis=1)).max())
    fits = weight.min() >= -128 and weight.max() <= 127 and largest <= INT32_RANGE[1]
    if wide or not fits:
        return KernelWeights(_GENERIC, groups, pack_generic(weight))
    if groups > 1 and groups == len(weight) and n_in == 1:
        return KernelWeights(_DEPTHWISE, groups, pack_depthwise(weight))
    if groups > 1 and n_in % 4:
        return KernelWeights(_GENERIC, groups, pack_generic(weight))
    qtype = weight_type(weight, largest)
    dense = pack_dense(weight, groups, qtype)
    if sparse and groups == 1:
        every_quad = pack_dense(weight, 1)
        values, places = find_places(every_quad, len(weight))
        n_blocks = -(-len(weight) // 16)
        bytes_saved = dense.size * qtype.bits // 8 > values.size + places.nbytes
        most = int(np.diff(places[: n_blocks + 1]).max())
        if values.size <= _DENSEST * every_quad.size and bytes_saved and most <= _MAX_PLACES:
            return KernelWeights(_SPARSE, groups, values, None, places)
    return KernelWeights(_PACKED, groups, dense, qtype)
