"""Which convolutions may run by Winograd's F(2x2, 3x3) or F(2, 3) in bytes: ranges, proven by interval arithmetic.

Used by `weights`; the kernels are native/engine/kernels/*winograd*, which transform weights and inputs as they run.

With ``G`` and ``B`` of the source, ``2 G g (2 G)'`` and ``B' d B`` are integers. The first is computed here from the
weights themselves, and must fit int8 in all 16 positions. The second has, for codes in ``[low, high]``, values in
``[-2 r, 2 r]``, ``r = high - low``, in all positions but the middle one, ``[0, 4 r]`` there, counted from ``low``: a
byte with 128 added, or as it is, exactly where ``4 r <= 255``. Sums are four times those of the convolution.

F(2, 3) does that along one axis alone: with rows of the kernel, ``g (2 G)'`` and ``d B`` of 4 positions; with a kernel
of one column, ``2 G g`` and ``B' d``. Values are in ``[-r, r]``, ``[0, 2 r]`` in the middle: bytes if ``2 r <= 255``;
weights grow by 3 instead of 9; sums are twice those of the convolution. It takes 4 products where others take 6, the
first 16 where they take 36.

Source: Lavin and Gray 2016, Fast algorithms for convolutional neural networks, section 4.1.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MOST_CHANNELS",
    "WINOGRAD_AXES",
    "refuse_winograd",
    "transformed_inputs",
    "transformed_weights",
    "winograd_scratch",
]

MOST_CHANNELS = 512  # of inputs, as kMaxWinogradChannels in native/engine/plan.hpp
WINOGRAD_AXES = {"winograd": 2, "winograd1d": 1}  # that are transformed, by algorithm
_KERNELS = {2: ((3, 3),), 1: ((3, 3), (1, 3), (3, 1))}  # by the number of axes
_BEFORE = 1 << 24  # what single precision may add to a sum (`single`)
_G = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]])  # twice that of the source
_B = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])  # transposed


def transformed_weights(weight: NDArray[np.int64], n_axes: int = 2) -> NDArray[np.int64]:
    """Return ``2 G g (2 G)'`` of every kernel, ``g (2 G)'`` for one axis, ``2 G g`` where kernels have one column.

    Shapes:
        weight ``[O, I, KH, KW]``, 3 along an axis that is transformed; the result has 4 there.

    Example:
        >>> [int(transformed_weights(np.full((1, 1, 3, 3), w))[0, 0, 1, 1]) for w in (14, -15)]
        [126, -135]
        >>> transformed_weights(np.array([[[[1, 2, 4]]]]), n_axes=1)
        array([[[[2, 7, 3, 8]]]])
    """
    is_column = weight.shape[3] == 1
    moved = _G @ weight if n_axes == 2 or is_column else weight
    return moved if is_column else moved @ _G.T


def transformed_inputs(codes: tuple[int, int], n_axes: int = 2) -> tuple[int, int]:
    """Return the least and greatest value of ``B' d B`` or ``d B`` in bytes, as kernels hold them, of codes in a range.

    Example:
        >>> transformed_inputs((0, 63)), transformed_inputs((-32, 31)), transformed_inputs((0, 127))
        ((0, 254), (0, 254), (-126, 508))
        >>> transformed_inputs((0, 127), n_axes=1)
        (0, 255)
    """
    span = codes[1] - codes[0]
    low, high = [], []
    for position in np.ndindex((4,) * n_axes):
        factors = reduce(np.multiply.outer, _B[list(position)])
        up, down = int(factors[factors > 0].sum()) * span, int(factors[factors < 0].sum()) * span
        offset = 0 if set(position) == {1} else 128
        low.append(down + offset)
        high.append(up + offset)
    return min(low), max(high)


def winograd_scratch(plane: tuple[int, int], channels: int) -> tuple[int, int, int]:
    """Return rows, columns and channels of the buffer that transformed inputs of ``[H, W]`` outputs need.

    Every tile of 2 by 2 outputs has 16 positions of whole vectors of 64 bytes; along one axis, 4 positions of 4 rows or
    2 columns, since two rows of outputs see four of inputs.

    Example:
        >>> winograd_scratch((7, 8), 65)
        (4, 4, 2048)
    """
    return -(-plane[0] // 2), -(-plane[1] // 2), 16 * (-(-channels // 64) * 64)


def refuse_winograd(
    weight: NDArray[np.int64],
    bias: NDArray[np.int64],
    *,
    n_axes: int = 2,
    groups: int,
    stride: tuple[int, int],
    dilation: tuple[int, int],
    codes: tuple[int, int],
    largest_sum: int,
) -> str | None:
    """Return why a convolution of bytes cannot run by Winograd, with what is found and expected; None: it can.

    Args:
        weight: ``[O, I/g, KH, KW]``.
        bias: By output.
        n_axes: 2: F(2x2, 3x3); 1: F(2, 3).
        groups: Of the convolution.
        stride: Of rows and columns.
        dilation: Of rows and columns.
        codes: Least and greatest code of its input, padding included.
        largest_sum: Magnitude that no sum of products with codes as they lie in memory exceeds, bias included.

    Example:
        >>> geometry = {"groups": 1, "stride": (1, 1), "dilation": (1, 1), "largest_sum": 10**6}
        >>> zeros = np.zeros(1, dtype=np.int64)
        >>> refuse_winograd(np.full((1, 1, 3, 3), 14), zeros, codes=(0, 63), **geometry)
        >>> refuse_winograd(np.full((1, 1, 3, 3), 15), zeros, codes=(0, 63), **geometry)
        'its transformed weights reach 135, expected -128 to 127'
        >>> refuse_winograd(np.full((1, 1, 3, 3), 42), zeros, n_axes=1, codes=(0, 127), **geometry)
    """
    if weight.shape[2:] not in _KERNELS[n_axes] or groups != 1 or stride != (1, 1) or dilation != (1, 1):
        kernel = "x".join(map(str, weight.shape[2:]))
        return (
            f"it is {kernel} with stride {max(stride)}, dilation {max(dilation)} and {groups} groups, "
            f"expected {' or '.join(f'{h}x{w}' for h, w in _KERNELS[n_axes])}, 1, 1 and 1"
        )
    if weight.shape[1] > MOST_CHANNELS:
        return f"it has {weight.shape[1]} input channels, expected at most {MOST_CHANNELS}"
    low, high = transformed_inputs(codes, n_axes)
    if low < 0 or high > 255:
        return f"its input's codes span {codes[1] - codes[0] + 1} values, expected at most {256 >> n_axes}"
    moved = transformed_weights(weight, n_axes)
    low, high = int(moved.min()), int(moved.max())
    if low < -128 or high > 127:
        return f"its transformed weights reach {high if high > 127 else low}, expected -128 to 127"
    most = int(np.abs(bias).max()) + largest_sum + _BEFORE
    most_sum = 1 << (31 - n_axes)  # sums are 2 times as large for every axis
    if most >= most_sum:
        return f"its sums may reach {most}, expected less than {most_sum}"
    return None
