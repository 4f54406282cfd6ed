"""Grids of single channels of a network input: how coarse each one's steps are, and which codes it may take.

Used by the input quantizers of `quant.fake_quant` and of integer programs, and by circuits, whose ports are as narrow
as their grids. Knows neither. A channel whose values are needed to few bits has few: its codes are multiples of a power
of two, ``code = clip(floor(x / (scale 2^shift) + 1/2), low, high) 2^shift``, so that nothing behind it changes.

Bounds are in steps of the channel, any two integers with ``low <= high``: two that are equal make it a constant.
Source: the same freedom as HGQ's per-element input widths (Sun et al. 2024, arXiv:2405.00645), kept as integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dyadiq.core.errors import QuantError
from dyadiq.core.qtype import QType

__all__ = ["MAX_GRID_SHIFT", "ChannelGrid", "carried_type"]

MAX_GRID_SHIFT = 30


@dataclass(frozen=True, eq=False)
class ChannelGrid:
    """The grid of every channel.

    Attributes:
        shift: int64 ``[C]``; a step of the channel is ``2^shift`` codes.
        low: int64 ``[C]``, smallest code in steps.
        high: int64 ``[C]``, largest code in steps.

    Raises:
        QuantError: Lengths differ, a shift outside [0, 30], or ``low > high``.

    Example:
        >>> grid = ChannelGrid(np.array([0, 2]), np.array([-8, 0]), np.array([7, 3]))
        >>> grid.bits().tolist(), grid.ends()[1].tolist()
        ([4, 2], [7, 12])
        >>> grid.quantize(np.array([[0.3, 0.9], [9.0, 9.0]]), 0.25).tolist()
        [[1, 4], [7, 12]]
    """

    shift: NDArray[np.int64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Take over int64 copies and check them.

        Raises:
            QuantError: Lengths differ, a shift outside [0, 30], or ``low > high``.
        """
        for name in ("shift", "low", "high"):
            object.__setattr__(self, name, np.array(getattr(self, name), dtype=np.int64))
        shapes = [getattr(self, name).shape for name in ("shift", "low", "high")]
        if len(set(shapes)) != 1 or len(shapes[0]) != 1 or not shapes[0][0]:
            raise QuantError(f"channel grid: shift, low and high must be [C] each, got {[list(s) for s in shapes]}.")
        if self.shift.min() < 0 or self.shift.max() > MAX_GRID_SHIFT:
            raise QuantError(
                f"channel grid: shifts must be in [0, {MAX_GRID_SHIFT}], got [{self.shift.min()}, {self.shift.max()}]."
            )
        if (self.low > self.high).any():
            worst = int(np.argmax(self.low > self.high))
            raise QuantError(f"channel grid: channel {worst} has low {self.low[worst]} above high {self.high[worst]}.")

    @classmethod
    def of_type(cls, qtype: QType, n_channels: int) -> ChannelGrid:
        """Return the grid of a type that is the same in every channel."""
        ones = np.ones(n_channels, dtype=np.int64)
        return cls(0 * ones, qtype.qmin * ones, qtype.qmax * ones)

    def ends(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the smallest and largest code of every channel, in codes."""
        return self.low << self.shift, self.high << self.shift

    def bits(self) -> NDArray[np.int64]:
        """Return the bits that number the codes of every channel; 0 for a constant."""
        return np.array([int(n).bit_length() for n in self.high - self.low], dtype=np.int64)

    def check_within(self, qtype: QType, n_channels: int) -> None:
        """Check that the codes of every channel fit a type.

        Raises:
            QuantError: Another number of channels, codes beyond the type, or the type is bipolar.
        """
        low, high = self.ends()
        if qtype.bipolar or len(low) != n_channels or low.min() < qtype.qmin or high.max() > qtype.qmax:
            raise QuantError(
                f"channel grid: {len(low)} channels with codes [{low.min()}, {high.max()}] do not fit "
                f"{n_channels} channels of {qtype}."
            )

    def quantize(self, x: NDArray[np.float64], scale: float) -> NDArray[np.int64]:
        """Return the codes of values ``[N, C, ...]``, in float64."""
        shift, low, high = (self.along(v, x.ndim) for v in (self.shift, self.low, self.high))
        steps = np.clip(np.floor(x / np.ldexp(scale, shift) + 0.5), low, high)
        return np.asarray(steps.astype(np.int64) << shift)

    @staticmethod
    def along(values: ArrayLike, ndim: int) -> NDArray[np.int64]:
        """Return ``[C]`` values shaped to go along dimension 1 of ``ndim``."""
        return np.asarray(values, dtype=np.int64).reshape(1, -1, *([1] * (ndim - 2)))

    def numbers(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return codes ``[N, C, ...]`` as numbers of steps from the lowest of their channel."""
        shift, low = (self.along(values, codes.ndim) for values in (self.shift, self.low))
        return np.asarray((codes >> shift) - low)

    def codes_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the codes of `numbers`."""
        shift, low = (self.along(values, numbers.ndim) for values in (self.shift, self.low))
        return np.asarray((numbers + low) << shift)

    def holds(self, codes: NDArray[np.int64]) -> bool:
        """Return whether all codes ``[N, C, ...]`` are on the grid of their channel."""
        numbers = self.numbers(codes)
        most = self.along(self.high - self.low, codes.ndim)
        return bool(((numbers >= 0) & (numbers <= most) & (self.codes_of(numbers) == codes)).all())

    def same_as(self, other: ChannelGrid | None) -> bool:
        """Return whether both are the same grid."""
        return other is not None and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in ("shift", "low", "high")
        )

    def with_channel(self, channel: int, shift: int, low: int, high: int) -> ChannelGrid:
        """Return the grid with one channel's replaced."""
        parts: list[NDArray[np.int64]] = []
        for values, value in zip((self.shift, self.low, self.high), (shift, low, high), strict=True):
            changed = values.copy()
            changed[channel] = value
            parts.append(changed)
        return ChannelGrid(*parts)


def carried_type(grid: ChannelGrid) -> QType:
    """Return the type of `ChannelGrid.numbers`: unsigned, as wide as the widest channel.

    Example:
        >>> str(carried_type(ChannelGrid(np.array([0, 2]), np.array([-8, 0]), np.array([7, 3]))))
        'uint4'
    """
    return QType(max(1, int(grid.bits().max())), signed=False)
