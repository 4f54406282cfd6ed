"""The type of an integer code: how many bits, which sign, which end values.

Used by every layer; imports only errors. Knows nothing of scales (those are metadata of a tensor).
A `QType` says which integers are legal; packing, kernels and exporters read only this.

Source: docs/spec/integer-program.md, section "Types". Bipolar codes are -1 and +1 (1 bit each).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dyadiq.core.errors import ConfigError

__all__ = ["MAX_BITS", "QType", "bits_for_range"]

MAX_BITS = 64  # wide accumulators; stored tensors have at most 32


@dataclass(frozen=True, slots=True)
class QType:
    """An integer code type.

    Ranges: signed ``[-2^(b-1), 2^(b-1)-1]``, signed narrow ``[-2^(b-1)+1, 2^(b-1)-1]``,
    unsigned ``[0, 2^b-1]``, unsigned narrow ``[0, 2^b-2]``, bipolar ``{-1, +1}``.

    Attributes:
        bits: Width in bits, 1 to 64 (1 for bipolar).
        signed: Whether negative codes exist. True for bipolar.
        narrow: Whether the end code without a mirror image (or the top one) is left out.
        bipolar: The two-valued type {-1, +1}; zero is not a code.

    Raises:
        ConfigError: Width out of range, or flags that contradict each other.

    Example:
        >>> QType(4, signed=True).qmin, QType(4, signed=True, narrow=True).qmin
        (-8, -7)
        >>> str(QType(3, signed=False)), QType.parse("int5n").qmax
        ('uint3', 15)
    """

    bits: int
    signed: bool
    narrow: bool = False
    bipolar: bool = False

    def __post_init__(self) -> None:
        """Refuse widths and flags that mean nothing.

        Raises:
            ConfigError: Width out of range, or flags that contradict each other.
        """
        if isinstance(self.bits, bool) or not isinstance(self.bits, int):
            raise ConfigError(f"QType: bits must be an int, got {self.bits!r}.")
        if not 1 <= self.bits <= MAX_BITS:
            raise ConfigError(f"QType: bits must be in [1, {MAX_BITS}], got {self.bits}.")
        if self.bipolar and (self.bits != 1 or not self.signed or self.narrow):
            raise ConfigError(f"QType: bipolar is 1 bit, signed, not narrow; got {self.bits} bits.")
        if self.narrow and self.bits == 1:
            raise ConfigError("QType: a narrow 1-bit type has a single code. Use bipolar.")

    @property
    def qmin(self) -> int:
        """Smallest legal code."""
        if self.bipolar:
            return -1
        return (-(1 << (self.bits - 1)) + self.narrow) if self.signed else 0

    @property
    def qmax(self) -> int:
        """Largest legal code."""
        if self.bipolar:
            return 1
        if self.signed:
            return (1 << (self.bits - 1)) - 1
        return (1 << self.bits) - 1 - self.narrow

    @property
    def max_abs(self) -> int:
        """Largest magnitude of a legal code."""
        return max(-self.qmin, self.qmax)

    def __str__(self) -> str:
        """Short name: ``int8``, ``uint4``, ``int4n`` (narrow), ``bipolar``."""
        if self.bipolar:
            return "bipolar"
        return f"{'int' if self.signed else 'uint'}{self.bits}{'n' if self.narrow else ''}"

    @classmethod
    def parse(cls, text: str) -> QType:
        """Read the short name back.

        Raises:
            ConfigError: The text is not a type name.
        """
        if text == "bipolar":
            return cls(1, signed=True, bipolar=True)
        match = re.fullmatch(r"(u?)int([1-9][0-9]?)(n?)", text)
        if match is None:
            raise ConfigError(f"not a code type: {text!r}. Expected e.g. int8, uint4, int4n, bipolar.")
        return cls(int(match[2]), signed=not match[1], narrow=bool(match[3]))


def bits_for_range(low: int, high: int) -> QType:
    """Return the narrowest non-bipolar type that holds every integer in ``[low, high]``.

    Raises:
        ConfigError: ``low > high``, or more than 64 bits would be needed.

    Example:
        >>> str(bits_for_range(-8, 7)), str(bits_for_range(0, 256)), str(bits_for_range(0, 0))
        ('int4', 'uint9', 'uint1')
    """
    if low > high:
        raise ConfigError(f"empty integer range: low {low} is above high {high}.")
    if low >= 0:
        return QType(max(1, high.bit_length()), signed=False)
    return QType(1 + max((-low - 1).bit_length(), high.bit_length() if high > 0 else 0), signed=True)
