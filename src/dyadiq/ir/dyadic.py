"""Dyadic numbers: a positive real ratio as ``multiplier / 2**shift``.

Used by lowering; the only place where a scale becomes integers. No torch.
Traps kept out (docs/spec/integer-program.md, "Requantization"): a mantissa that rounds up to
``2**bits`` is renormalised; shifts stay in [0, 62]; trailing zeros are removed, so a power of two
always comes out as multiplier 1.
"""

from __future__ import annotations

import math

from dyadiq.core.errors import QuantError

__all__ = ["MAX_MULTIPLIER", "MAX_SHIFT", "to_dyadic"]

MAX_SHIFT = 62
MAX_MULTIPLIER = (1 << 31) - 1


def to_dyadic(ratio: float, bits: int) -> tuple[int, int]:
    """Return ``(multiplier, shift)`` with ``multiplier / 2**shift`` nearest to ``ratio``.

    Args:
        ratio: Positive and finite.
        bits: Width of the multiplier before trailing zeros are removed, 1 to 31.

    Returns:
        ``0 <= multiplier < 2**31``, ``0 <= shift <= 62``. The relative error is at most ``2**-bits``
        unless the ratio is so small (below 2**-62) that it is rounded on the grid of ``2**-62``.

    Raises:
        QuantError: The ratio is not positive and finite, or needs a multiplier of more than 31 bits.

    Example:
        >>> to_dyadic(0.3, 8), to_dyadic(0.125, 16), to_dyadic(4.0, 16)
        ((77, 8), (1, 3), (4, 0))
        >>> to_dyadic(math.nextafter(1.0, 0.0), 31)
        (1, 0)
    """
    if not (math.isfinite(ratio) and ratio > 0):
        raise QuantError(f"a requantization ratio must be positive and finite, got {ratio!r}.")
    fraction, exponent = math.frexp(ratio)  # ratio = fraction * 2**exponent, fraction in [0.5, 1)
    multiplier = math.floor(math.ldexp(fraction, bits) + 0.5)
    shift = bits - exponent
    if shift > MAX_SHIFT:
        multiplier = math.floor(math.ldexp(fraction, bits - (shift - MAX_SHIFT)) + 0.5)
        shift = MAX_SHIFT
    while shift > 0 and multiplier % 2 == 0 and multiplier > 0:
        multiplier >>= 1
        shift -= 1
    if shift < 0:
        multiplier <<= -shift
        shift = 0
    if multiplier > MAX_MULTIPLIER:
        raise QuantError(
            f"the scale ratio {ratio:.3g} needs a multiplier above 31 bits: the output is far finer than its input. "
            "Check the calibrated ranges of these tensors."
        )
    return multiplier, (0 if multiplier == 0 else shift)
