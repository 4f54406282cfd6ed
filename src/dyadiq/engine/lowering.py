"""Convolutions as others run them, over a lowered copy of their input: kept to be compared with, chosen by name alone.

Used by `compile`. A step of its own copies the windows, the direct kernels then read them in a row. With ``im2col`` a
pixel of the copy is the whole window of an output, and what is left is a product of matrices; with ``mec`` it is one
row of a window, which the windows above and below share, and what is left is a convolution over rows. Copies have
``KH * KW`` and ``KW / stride`` times the bytes of the input, where kernels of our own have none.

Source: Cho and Brand 2017, MEC: memory-efficient convolution, section 3. Its copy lies column by column, since it calls
matrix products of a library; ours row by row, since tiles of ours find rows of taps by offsets. Its size is the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ConfigError
from dyadiq.engine.layout import as_rows
from dyadiq.engine.weights import Dot, find_weights

__all__ = ["BASELINES", "Lowering", "lower_input"]

BASELINES = ("im2col", "mec")


@dataclass(frozen=True)
class Lowering:
    """A copy of an input, and the convolution that is left to be done over it, without padding.

    Attributes:
        kernel: Rows and columns of the window that a pixel of the copy holds, as ``[tap][channel]``.
        stride: Of these windows.
        dilation: Of these windows.
        plane: Rows and columns of the copy.
        dot: What is left.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    plane: tuple[int, int]
    dot: Dot

    @property
    def words(self) -> list[int]:
        """Kernel, stride and dilation in the order of a plan."""
        return [*self.kernel, *self.stride, *self.dilation]


def lower_input(dot: Dot, algorithm: str) -> Lowering:
    """Return how a convolution runs over a copy of its input.

    Args:
        dot: The convolution.
        algorithm: Of `BASELINES`.

    Raises:
        ConfigError: It has groups, or input or weights have more than 8 bits.

    Example:
        >>> dot = Dot(np.ones((8, 3, 3, 3), dtype=np.int64), np.zeros(8, dtype=np.int64), plane=(5, 6))
        >>> [(found.plane, found.dot.weight.shape) for found in (lower_input(dot, name) for name in BASELINES)]
        [((5, 6), (8, 27, 1, 1)), ((7, 6), (8, 9, 3, 1))]
    """
    if dot.groups > 1 or "direct" not in find_weights(dot):
        found = f"{dot.groups} groups" if dot.groups > 1 else "an input or weights of more than 8 bits"
        raise ConfigError(
            f"{algorithm!r} cannot run it: it has {found}, expected one group and 8 bits. Leave this layer to the rule."
        )
    (height, width), dilation = dot.weight.shape[2:], dot.dilation
    if algorithm == "im2col":
        left = replace(dot, weight=_as_windows(dot.weight), stride=(1, 1), dilation=(1, 1), dense=False)
        return Lowering((height, width), dot.stride, dilation, dot.plane, left)
    rows = (dot.plane[0] - 1) * dot.stride[0] + (height - 1) * dilation[0] + 1
    left = replace(dot, weight=as_rows(dot.weight), stride=(dot.stride[0], 1), dilation=(dilation[0], 1), dense=False)
    return Lowering((1, width), (1, dot.stride[1]), (1, dilation[1]), (rows, dot.plane[1]), left)


def _as_windows(weight: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return weights ``[O, I, KH, KW]`` as ``[O, KH * KW * I, 1, 1]``."""
    return weight.transpose(0, 2, 3, 1).reshape(len(weight), -1, 1, 1)
