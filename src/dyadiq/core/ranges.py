"""Ranges of activations from streams of arrays, one scale and zero point per tensor.

Used by curvature and by calibration; imports only core and numpy, knows no graph and no torch.
Adding an observer: subclass `Observer`, implement `_fit`, add a line to `_OBSERVERS`.

Every observer keeps the exact minimum, maximum, mean|x| and count. ``percentile`` and ``mse`` also keep a
uniform sample without replacement of `SAMPLE_SIZE` values: the values with the smallest keys of a seeded generator.
The result depends only on the order of the values, not on how they were cut into batches
(``moving_average`` excepted, by its meaning).

Answers, the outputs of a network, are another matter: the largest decides, and one that is clipped is a tie. With
`HEADROOM_BITS` or more their range is twice what was seen, whatever the method; the bit this costs is one of 16.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dyadiq.core.affine import AffineParams, fit_affine, fit_range
from dyadiq.core.errors import DataError, QuantError
from dyadiq.core.format import Format

__all__ = ["HEADROOM", "HEADROOM_BITS", "MOMENTUM", "SAMPLE_SIZE", "Observer", "make_observer"]

HEADROOM = 2.0
"""Range of answers over the largest values seen."""
HEADROOM_BITS = 16
"""Fewest bits of which answers give one to headroom."""
MOMENTUM = 0.9
"""Weight of the past in a moving average of batch minima and maxima."""
SAMPLE_SIZE = 1 << 16
"""Values kept by ``percentile`` and ``mse``."""


class Observer(ABC):
    """Sees a stream of arrays of one tensor, then says how to quantize it.

    Args:
        fmt: The wish; granularity ``tensor``.
        nonnegative: Whether values are >= 0 by construction; None: decided from what was seen.
        name: For messages.
        seed: Of the sample; only ``percentile`` and ``mse`` draw one.
    """

    def __init__(self, fmt: Format, nonnegative: bool | None, name: str, seed: int) -> None:
        """Start with nothing seen."""
        self.fmt, self.name = fmt, name
        self.low, self.high, self.count = np.inf, -np.inf, 0
        self._nonnegative, self._sum_abs = nonnegative, 0.0

    @final
    def update(self, values: ArrayLike) -> None:
        """Look at one more array of any shape.

        Raises:
            DataError: A value is NaN or infinite.
        """
        x = np.asarray(values, dtype=np.float64).ravel()
        bad = int(np.count_nonzero(~np.isfinite(x)))
        if bad:
            raise DataError(
                f"activation {self.name!r}: {bad} of {x.size} values are NaN or infinite; ranges need finite values. "
                "Check the calibration data and the model's weights."
            )
        if x.size == 0:
            return
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        self._sum_abs += float(np.abs(x).sum())
        self.count += x.size
        self._observe(x)

    @final
    def params(self) -> AffineParams:
        """Return scale and zero point for what was seen.

        Raises:
            DataError: Nothing was seen.
        """
        if self.count == 0:
            raise DataError(
                f"activation {self.name!r}: no calibration values were seen, expected at least one batch. "
                "Pass calibration batches that are not empty."
            )
        nonnegative = self.low >= 0 if self._nonnegative is None else self._nonnegative
        if self.fmt.qtype(nonnegative=nonnegative).bipolar:
            mean = self._sum_abs / self.count
            return fit_affine([-mean, mean], self.fmt, nonnegative=False, name=self.name)
        return self._fit(nonnegative)

    @abstractmethod
    def _observe(self, x: NDArray[np.float64]) -> None:
        """Take in a non-empty vector of finite values."""

    @abstractmethod
    def _fit(self, nonnegative: bool) -> AffineParams:
        """Return parameters; at least one value was seen."""


@final
class _MinMaxObserver(Observer):
    """The smallest and the largest value seen."""

    def _observe(self, x: NDArray[np.float64]) -> None:
        """Nothing beyond minimum and maximum is needed."""

    def _fit(self, nonnegative: bool) -> AffineParams:
        return fit_range(self.low, self.high, self.fmt, nonnegative=nonnegative)


@final
class _AnswerObserver(Observer):
    """`HEADROOM` times the smallest and the largest value seen."""

    def _observe(self, x: NDArray[np.float64]) -> None:
        """Nothing beyond minimum and maximum is needed."""

    def _fit(self, nonnegative: bool) -> AffineParams:
        return fit_range(HEADROOM * self.low, HEADROOM * self.high, self.fmt, nonnegative=nonnegative)


@final
class _MovingAverageObserver(Observer):
    """Moving averages of the minimum and maximum of each batch: ``r <- m r + (1 - m) batch``."""

    def __init__(self, fmt: Format, nonnegative: bool | None, name: str, seed: int) -> None:
        super().__init__(fmt, nonnegative, name, seed)
        self._range: tuple[float, float] | None = None

    def _observe(self, x: NDArray[np.float64]) -> None:
        low, high = float(x.min()), float(x.max())
        if self._range is not None:
            low = MOMENTUM * self._range[0] + (1 - MOMENTUM) * low
            high = MOMENTUM * self._range[1] + (1 - MOMENTUM) * high
        self._range = (low, high)

    def _fit(self, nonnegative: bool) -> AffineParams:
        low, high = self._range or (self.low, self.high)
        return fit_range(low, high, self.fmt, nonnegative=nonnegative)


@final
class _SampleObserver(Observer):
    """A uniform sample of the values, fitted like a tensor (``percentile``, ``mse``)."""

    def __init__(self, fmt: Format, nonnegative: bool | None, name: str, seed: int) -> None:
        super().__init__(fmt, nonnegative, name, seed)
        self._generator = np.random.Generator(np.random.PCG64(seed))
        self._keys, self._sample = np.empty(0), np.empty(0)

    def _observe(self, x: NDArray[np.float64]) -> None:
        keys = np.concatenate([self._keys, self._generator.random(x.size)])
        sample = np.concatenate([self._sample, x])
        if keys.size > SAMPLE_SIZE:
            kept = np.sort(np.argpartition(keys, SAMPLE_SIZE)[:SAMPLE_SIZE])
            keys, sample = keys[kept], sample[kept]
        self._keys, self._sample = keys, sample

    def _fit(self, nonnegative: bool) -> AffineParams:
        return fit_affine(self._sample, self.fmt, nonnegative=nonnegative, name=self.name)


_OBSERVERS: Mapping[str, Callable[[Format, bool | None, str, int], Observer]] = MappingProxyType(
    {
        "minmax": _MinMaxObserver,
        "moving_average": _MovingAverageObserver,
        "percentile": _SampleObserver,
        "mse": _SampleObserver,
    }
)


def make_observer(
    fmt: Format, *, nonnegative: bool | None = False, name: str = "activation", seed: int = 0, answer: bool = False
) -> Observer:
    """Return an observer that follows ``fmt.range_method``, or gives headroom to answers of many bits.

    Args:
        fmt: The wish; granularity ``tensor``.
        nonnegative: Whether the values are >= 0 by construction; None: decided from what is seen.
        name: For messages.
        seed: Of the sample; only ``percentile`` and ``mse`` draw one.
        answer: Whether the tensor is an output of the network.

    Raises:
        QuantError: The format is per channel or group.

    Example:
        >>> observer = make_observer(Format(8, range_method="minmax"), nonnegative=True)
        >>> observer.update([0.0, 1.0]); observer.update([25.5])
        >>> observer.params().scale
        array([0.1])
    """
    if fmt.granularity != "tensor":
        raise QuantError(
            f"activation {name!r}: activations have one scale per tensor, got granularity {fmt.granularity!r}. "
            "Use 'tensor'."
        )
    if answer and fmt.bits >= HEADROOM_BITS:
        return _AnswerObserver(fmt, nonnegative, name, seed)
    return _OBSERVERS[fmt.range_method](fmt, nonnegative, name, seed)
