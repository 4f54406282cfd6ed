"""The values that the codes of a weight matrix may take, row by row.

Used by the files of this package. A `Grid` is `core.affine` for matrices whose rows are stacked in groups
``[G, R, K]``: the same codes for the same steps, without checks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.affine import AffineParams

__all__ = ["Grid"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """Steps and end codes of every element.

    Attributes:
        step: ``[G, R, K]`` or ``[G, R, 1]``.
        low: Smallest code less the zero point, ``[G, R, 1]``.
        high: Largest, likewise.
        bipolar: Codes are -1 and +1 only.
    """

    step: Floats
    low: Floats
    high: Floats
    bipolar: bool

    @classmethod
    def of(cls, params: AffineParams, n_rows: int, n_columns: int, n_groups: int) -> Grid:
        """Return the grid of a weight ``[O, K]``, cut into ``n_groups`` blocks of rows.

        Raises:
            QuantError: The parameters do not fit the shape.
        """
        shape = (n_rows, n_columns)
        step = np.broadcast_to(params.steps(shape), shape if params.group_factor is not None else (n_rows, 1))
        zero = np.broadcast_to(params.zero_points(shape), (n_rows, 1)).astype(np.float64)
        blocks = (n_groups, n_rows // n_groups, -1)
        low, high = params.qtype.qmin - zero, params.qtype.qmax - zero
        return cls(step.reshape(blocks), low.reshape(blocks), high.reshape(blocks), params.qtype.bipolar)

    def times(self, factor: Floats) -> Grid:
        """Return the grid with steps multiplied by a factor ``[G, R, 1]``."""
        return replace(self, step=self.step * factor)

    def permuted(self, order: NDArray[np.int64]) -> Grid:
        """Return the grid of permuted columns, ``order`` ``[G, K]``."""
        if self.step.shape[2] == 1:
            return self
        return replace(self, step=np.take_along_axis(self.step, order[:, None, :], axis=2))

    def stacked(self, factors: Floats) -> Grid:
        """Return the grids of all candidate factors ``[C, G, R, 1]`` side by side: rows ``[G, C R]``."""
        n = factors.shape[0]
        steps = self.step[None] * factors
        rows = [np.moveaxis(steps, 0, 1).reshape(steps.shape[1], -1, steps.shape[3])]
        rows += [np.tile(a, (1, n, 1)) for a in (self.low, self.high)]
        return replace(self, step=rows[0], low=rows[1], high=rows[2])

    def column(self, index: int) -> Grid:
        """Return the grid of one column ``[G, R, 1]``."""
        return self if self.step.shape[2] == 1 else replace(self, step=self.step[:, :, index : index + 1])

    def codes(self, values: Floats) -> Floats:
        """Return the nearest codes less the zero point, as float64."""
        if self.bipolar:
            return np.where(values >= 0, 1.0, -1.0)
        return np.asarray(np.clip(np.floor(values / self.step + 0.5), self.low, self.high), dtype=np.float64)
