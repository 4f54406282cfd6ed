"""How many values each window of an average pool averages, and the integers that stand for the divisions.

Used by lowering. Windows at an edge may hold fewer values (``count_include_pad=False``, ``ceil_mode=True``), so that
their divisor is another one. With L the least common multiple of all divisors d, ``sum / d = sum (L / d) / L``: the
sum of a window times an integer, in steps of 1 / L. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dyadiq.ir.graph import Node

__all__ = ["AverageWindows", "average_windows"]


@dataclass(frozen=True, slots=True)
class AverageWindows:
    """What lowering needs to know of the windows of an average pool.

    Attributes:
        divisor: L; one of the divisors if all are equal.
        factor: ``L / d`` per window, int64 ``[OH, OW]``; None if all are 1.
        overhang: Rows and columns by which the last window reaches beyond the padding.
    """

    divisor: int
    factor: NDArray[np.int64] | None
    overhang: tuple[int, int]


def average_windows(node: Node, in_hw: Sequence[int], out_hw: Sequence[int]) -> AverageWindows:
    """Return the divisors of an avg_pool2d node, as torch counts them.

    With ``count_include_pad``, padding counts and what lies beyond it does not; without, neither does.

    Example:
        >>> attrs = {"kernel": (1, 3), "stride": (1, 1), "padding": (0, 1), "count_include_pad": False}
        >>> windows = average_windows(Node("p", "avg_pool2d", ("x",), "p", attrs), (1, 4), (1, 4))
        >>> windows.divisor, windows.factor.tolist()
        (6, [[3, 2, 2, 3]])
    """
    counts, overhang = [], []
    for axis in (0, 1):
        kernel, stride, padding = (node.attrs[name][axis] for name in ("kernel", "stride", "padding"))
        start = np.arange(out_hw[axis]) * stride - padding
        end = np.minimum(start + kernel, in_hw[axis] + padding)
        if not node.attrs["count_include_pad"]:
            start, end = np.maximum(start, 0), np.minimum(end, in_hw[axis])
        counts.append(end - start)
        overhang.append(max(0, (out_hw[axis] - 1) * stride + kernel - in_hw[axis] - 2 * padding))
    divisors = np.multiply.outer(*counts).astype(np.int64)
    common = math.lcm(*map(int, np.unique(divisors)))
    factor = None if bool((divisors == common).all()) else common // divisors
    return AverageWindows(common, factor, (overhang[0], overhang[1]))
