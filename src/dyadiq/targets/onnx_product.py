"""How a dot product of wide codes is split into byte products that ConvInteger and MatMulInteger can take.

Used by `onnx_integer` only. Pure numpy and Python integers: no ONNX.

With ``x + offset = sum_k B^k d_k`` and ``w + w_offset = sum_j 256^j e_j`` (digits, all >= 0), and z, v the digits of
``anchor + offset`` and of ``w_offset``::

    sum w*x = sum_kj B^k 256^j sum (e_j - v_j)(d_k - z_k)  +  anchor * sum w

Each inner sum is one integer product with zero points z_k, v_j. B is the largest of 256, 16, 2 for which
``sum |e_j - v_j| * (B - 1) < 2^31``, so that no partial product leaves int32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ExportError
from dyadiq.ir.graph import Graph, Node
from dyadiq.ir.integer import effective_weight
from dyadiq.ir.proof import Bound

__all__ = ["INT32_MAX", "DotProduct", "plan_product"]

INT32_MAX = (1 << 31) - 1
_BASES = (256, 16, 2)


def _digits(value: int, base: int, count: int) -> list[int]:
    """Return ``count`` digits of a non-negative number, lowest first."""
    return [(value // base**k) % base for k in range(count)]


def _digit_count(span: int, base: int) -> int:
    count = 1
    while base**count <= span:
        count += 1
    return count


@dataclass(frozen=True)
class DotProduct:
    """How one dot product is split.

    Attributes:
        weight: Effective weight, int64.
        anchor: Code that becomes the zero point: the padding value, or 0.
        offset: ``x + offset >= 0`` for every code and the anchor.
        base: Base of the digits of x.
        x_zeros: Digits of the zero point of x.
        w_digits: uint8 arrays, digits of ``weight + w_offset``.
        w_zeros: Digits of w_offset.
    """

    weight: NDArray[np.int64]
    anchor: int
    offset: int
    base: int
    x_zeros: list[int]
    w_digits: list[NDArray[np.uint8]]
    w_zeros: list[int]

    @property
    def n_products(self) -> int:
        """Number of byte products."""
        return len(self.x_zeros) * len(self.w_digits)


def plan_product(graph: Graph, node: Node, bounds: Mapping[str, Bound]) -> DotProduct:
    """Return the split of a conv2d, linear or sum_pool2d (weights 1, one group per channel).

    Raises:
        ExportError: Even with 1-bit digits a partial product may leave int32.
    """
    if node.op == "sum_pool2d":
        channels = graph.tensors[node.inputs[0]].shape[0]
        weight = np.ones((channels, 1, *node.attrs["kernel"]), dtype=np.int64)
    else:
        weight = effective_weight(graph, node)
    anchor = int(node.attrs.get("pad_value", 0)) if any(node.attrs.get("padding", (0,))) else 0
    bound = bounds[node.inputs[0]]
    low, high = min(int(bound.low.min()), anchor), max(int(bound.high.max()), anchor)
    offset = 0 if low >= 0 else -low
    w_offset = -min(int(weight.min()), 0)
    w_count = _digit_count(max(int(weight.max()), 0) + w_offset, 256)
    w_digits = [((weight + w_offset) // 256**j % 256).astype(np.uint8) for j in range(w_count)]
    w_zeros = _digits(w_offset, 256, w_count)
    heaviest = max(
        int(np.abs(d.astype(np.int64) - z).reshape(len(d), -1).sum(axis=1).max())
        for d, z in zip(w_digits, w_zeros, strict=True)
    )
    for base in _BASES:
        if heaviest * (base - 1) <= INT32_MAX:
            zeros = _digits(anchor + offset, base, _digit_count(high + offset, base))
            return DotProduct(weight, anchor, offset, base, zeros, w_digits, w_zeros)
    raise ExportError(f"its weights sum to a magnitude of {heaviest}, above 31 bits in one dot product")
