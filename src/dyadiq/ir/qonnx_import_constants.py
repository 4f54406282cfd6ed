"""Constants of a QONNX graph: real values, and the codes and steps they were quantized to.

Used by `qonnx_import_nodes` only. Constants are quantized as the qonnx executor does it, in float32, so that codes
are the executor's own. Real values are kept in float64, which holds every float32 exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, isqrt, lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.qtype import QType
from dyadiq.ir.qonnx_import_build import UnrepresentableError

__all__ = ["Constant", "fraction_gcd", "per_channel", "quantized", "root", "weights"]

_MAX_CODE = 1 << 31
_ROUND: dict[str, Callable[[Any], Any]] = {
    "HALF_EVEN": np.round,
    "FLOOR": np.floor,
    "CEIL": np.ceil,
    "UP": lambda v: np.sign(v) * np.ceil(np.abs(v)),
    "DOWN": np.fix,
    "HALF_UP": lambda v: np.sign(v) * np.floor(np.abs(v) + 0.5),
    "HALF_DOWN": lambda v: np.sign(v) * np.ceil(np.abs(v) - 0.5),
}


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant tensor.

    Attributes:
        values: Real values.
        codes: Integers, zero point removed, if it went through a quantizer.
        steps: Real value of one code, of the same shape.
        qtype: Declared type, if the zero point is 0.
        dtype: Type of the numbers in the file; empty if they were computed.
    """

    values: NDArray[np.float64]
    codes: NDArray[np.int64] | None = None
    steps: NDArray[np.float64] | None = None
    qtype: QType | None = None
    dtype: str = ""

    def moved(self, move: Callable[[Any], Any]) -> Constant:
        """Return the constant with a function applied to all its arrays (transpose, reshape)."""
        codes, steps = (None if array is None else move(array) for array in (self.codes, self.steps))
        return Constant(move(self.values), codes, steps, self.qtype)

    def scalar(self, what: str) -> float:
        """Return the one value.

        Raises:
            UnrepresentableError: There are several that differ.
        """
        if self.values.size == 0 or (self.values != self.values.flat[0]).any():
            raise UnrepresentableError(f"{what} differs between channels. Use one per tensor")
        return float(self.values.flat[0])


def quantized(x: Constant, scale: Constant, zero: Constant, qtype: QType, mode: str) -> Constant:
    """Return what Quant or BipolarQuant makes of a constant.

    Raises:
        UnrepresentableError: Values or zero point are not finite, or the zero point is no code of 32 bits.
    """
    if not np.isfinite(x.values).all() or not (np.abs(zero.values) < _MAX_CODE).all():
        raise UnrepresentableError("quantizes values that are not finite, or with a zero point beyond 32 bits")
    values, step = x.values.astype(np.float32), scale.values.astype(np.float32)
    offset = zero.values.astype(np.float32)
    if qtype.bipolar:
        codes = np.where(values >= 0, 1, -1).astype(np.int64)
    else:
        with np.errstate(over="ignore"):  # what overflows is clipped
            v = np.clip(values / step + offset, np.float32(qtype.qmin), np.float32(qtype.qmax))
        codes = np.asarray(_ROUND[mode](v) - offset).astype(np.int64)
    steps = np.broadcast_to(step.astype(np.float64), codes.shape)
    return Constant(codes * steps, codes, steps, None if offset.any() else qtype)


def weights(x: Constant) -> tuple[NDArray[np.int64], NDArray[np.float64], QType | None]:
    """Return codes, steps and declared type of weights; plain numbers on a grid of a power of two are codes too.

    Raises:
        UnrepresentableError: They are not quantized.
    """
    if x.codes is not None and x.steps is not None:
        return x.codes, x.steps, x.qtype
    fraction, exponent = np.frexp(x.values)
    digits = np.ldexp(fraction, 53).astype(np.int64)
    lowest = digits & -digits
    trailing = np.where(digits == 0, 0, np.log2(np.maximum(lowest, 1)).astype(np.int64))
    exponents = (exponent - 53 + trailing)[digits != 0]
    e = int(exponents.min()) if exponents.size else 0
    codes = np.ldexp(x.values, -e)
    if np.abs(codes).max(initial=0) >= 1 << 16:
        raise UnrepresentableError(
            "weights are not quantized. Quantize them, with a Quant node or on a grid of 16 bits"
        )
    return codes.astype(np.int64), np.full(codes.shape, 2.0**e), None


def per_channel(x: Constant, shape: tuple[int, ...]) -> tuple[Fraction, ...]:
    """Return a constant as one number per channel of a tensor ``[N, *shape]``.

    Raises:
        UnrepresentableError: It does not broadcast, or differs inside a channel.
    """
    ours = (1,) * (1 + len(shape) - x.values.ndim) + x.values.shape
    if len(ours) != 1 + len(shape) or any(n not in (1, m) for n, m in zip(ours, (1, *shape), strict=True)):
        raise UnrepresentableError(f"constant of shape {x.values.shape} against a tensor of shape {shape}")
    rows = x.values.reshape(ours[1], -1)  # never spread over the tensor, which may be large
    if (rows != rows[:, :1]).any():
        raise UnrepresentableError("a constant that differs inside a channel")
    if not np.isfinite(rows).all():
        raise UnrepresentableError("a constant that is not finite")
    numbers = tuple(Fraction(float(v)) for v in rows[:, 0])
    return numbers if len(numbers) == shape[0] else numbers * shape[0]


def root(value: Fraction) -> Fraction:
    """Return the square root to 120 binary digits.

    Example:
        >>> root(Fraction(9, 4))
        Fraction(3, 2)
    """
    scaled = value.numerator * value.denominator << 240
    return Fraction(isqrt(scaled), value.denominator << 120)


def fraction_gcd(values: Sequence[Fraction]) -> Fraction:
    """Return the largest number of which all values are integer multiples; 1 if all are 0.

    Example:
        >>> fraction_gcd([Fraction(3, 4), Fraction(1, 2)])
        Fraction(1, 4)
    """
    denominator = lcm(*(v.denominator for v in values))
    numerator = gcd(*(int(v * denominator) for v in values))
    return Fraction(numerator or denominator, denominator)
