"""Weights in blocks of 4 outputs by 4 inputs of one tap, of which those that are all zero are left out.

Used by `weights` and `compile`. Outputs side by side in a row need inputs side by side, so a step before the
convolution lays its input out by quads of channels: ``[quad][row % stride][column % stride][row / stride]
[column / stride][4]``, margins included. There every block's inputs, of all outputs of a plane, are one run of memory,
rows of outputs being apart by one row of a phase; a block is found by where the first output's lies. So kernels have
outputs in their lanes, and read weights that all lanes share.

Normative text: docs/spec/engine.md, kind 7 and step 14.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dyadiq.engine.layout import BLOCK, QUAD

__all__ = ["QuadPlane", "find_blocks"]


@dataclass(frozen=True)
class QuadPlane:
    """The pixels under the windows of a convolution, in whole strides.

    Attributes:
        kernel: Rows and columns.
        stride: Of rows and columns.
        dilation: Of rows and columns.
        outputs: Rows and columns of its output.
        before: Columns of margins before its input.
        columns: Of its input; None: all that windows see.

    Example:
        >>> plane = QuadPlane((3, 3), (2, 2), (1, 1), (4, 4))
        >>> plane.size, plane.n_positions, plane.tap_places.tolist()
        ((10, 10), 19, [0, 25, 1, 50, 75, 51, 5, 30, 6])
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    outputs: tuple[int, int]
    before: int = 0
    columns: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns; margins before a row are those behind the row above as well."""
        seen = zip(self.outputs, self.stride, self.kernel, self.dilation, strict=True)
        height, width = (-(-((out - 1) * s + (k - 1) * d + 1) // s) * s for out, s, k, d in seen)
        if self.columns is not None and self.stride[1] == 1:
            least = max(self.before + self.columns, width - self.before, self.outputs[1])
            if (self.kernel[1] - 1) * self.dilation[1] < least < width:
                return height + self.stride[0], least
        return height, width

    @property
    def n_positions(self) -> int:
        """From the first output to the last one, with what lies between rows."""
        return (self.outputs[0] - 1) * (self.size[1] // self.stride[1]) + self.outputs[1]

    @property
    def tap_places(self) -> NDArray[np.int64]:
        """Where the first output finds each tap, in quads from the first one of its plane."""
        rows, columns = (np.arange(k) * d for k, d in zip(self.kernel, self.dilation, strict=True))
        (height, width), (down, right) = self.size, self.stride
        phase = rows[:, None] % down * right + columns % right
        inside = rows[:, None] // down * (width // right) + columns // right
        places: NDArray[np.int64] = phase * (height // down * (width // right)) + inside
        return places.ravel()


def find_blocks(weight: NDArray[np.int64], plane: QuadPlane) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
    """Return blocks of weights that are not all zero, and where they begin and lie.

    Args:
        weight: ``[O, I, KH, KW]``, values of int8.
        plane: What their inputs lie in.

    Returns:
        Blocks ``[n][4 outputs][4 inputs]``, flat, by outputs, which are filled up to whole blocks of 16; and where
        those of every 4 outputs begin among all and where the last one's end, then the place of every block's quad,
        rising within 4 outputs.

    Example:
        >>> weight = np.eye(12, dtype=np.int64)[8:].reshape(4, 12, 1, 1)
        >>> values, places = find_blocks(weight, QuadPlane((1, 1), (1, 1), (1, 1), (5, 6)))
        >>> values.reshape(4, 4).tolist(), places.tolist()
        ([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], [0, 1, 1, 1, 1, 60])
    """
    n_out, n_in = weight.shape[:2]
    padded = np.pad(weight, ((0, -n_out % BLOCK), (0, -n_in % QUAD), (0, 0), (0, 0)))
    blocks = padded.reshape(len(padded) // QUAD, QUAD, padded.shape[1] // QUAD, QUAD, -1).transpose(0, 2, 4, 1, 3)
    height, width = plane.size
    places = (np.arange(blocks.shape[1])[:, None] * (height * width) + plane.tap_places).ravel()
    order = np.argsort(places)
    blocks = blocks.reshape(len(blocks), -1, QUAD, QUAD)[:, order]
    row, block = np.nonzero(blocks.any(axis=(2, 3)))
    starts = np.searchsorted(row, np.arange(len(blocks) + 1))
    return blocks[row, block].astype(np.int8).ravel(), np.concatenate([starts, places[order][block]]).astype(np.int32)
