"""How one tensor is to be quantized: the format a plan assigns to a name.

Used by plans, formats' arithmetic (`core.affine`), cost, allocate, quant and report. Imports errors and qtype only.
A `Format` holds wishes (bits, scheme, granularity, kind of scale, range method), never values:
the scale and zero point that come out of data are `core.affine.AffineParams`.

At 1 bit a signed symmetric format is bipolar {-1, +1}; an unsigned one is {0, 1}.
Source: DESIGN section 2; docs/spec/integer-program.md, section "Types".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from dyadiq.core.errors import ConfigError
from dyadiq.core.qtype import QType

__all__ = [
    "MAX_FORMAT_BITS",
    "Format",
    "GranularityKind",
    "RangeMethod",
    "ScaleKind",
    "Scheme",
]

MAX_FORMAT_BITS = 16

Scheme = Literal["symmetric", "asymmetric"]
GranularityKind = Literal["tensor", "channel", "group"]
ScaleKind = Literal["float", "pow2"]
RangeMethod = Literal["minmax", "moving_average", "percentile", "mse"]


@dataclass(frozen=True, slots=True)
class Format:
    """The wish for one tensor.

    Attributes:
        bits: 1 to 16.
        scheme: ``symmetric`` (zero point 0) or ``asymmetric``.
        signed: True, False, or None: decided from the data (all values >= 0 gives unsigned).
            Asymmetric formats use unsigned codes unless told otherwise.
        narrow: Leave out the code without a mirror image.
        granularity: ``tensor``, ``channel`` (axis 0) or ``group`` (``group_size`` inputs of one channel).
        group_size: Only with ``group``.
        scale: ``float`` (any positive float64) or ``pow2``.
        range_method: How the clipping range is chosen from data.
        percentile: For ``percentile``: fraction of values kept, in (0.5, 1].

    Raises:
        ConfigError: Any field out of its set, or a combination without meaning.

    Example:
        >>> Format(4).qtype(nonnegative=False)
        QType(bits=4, signed=True, narrow=False, bipolar=False)
        >>> str(Format(4).qtype(nonnegative=True)), str(Format(1).qtype(nonnegative=False))
        ('uint4', 'bipolar')
    """

    bits: int
    scheme: Scheme = "symmetric"
    signed: bool | None = None
    narrow: bool = False
    granularity: GranularityKind = "tensor"
    group_size: int | None = None
    scale: ScaleKind = "float"
    range_method: RangeMethod = "mse"
    percentile: float = 0.9999

    def __post_init__(self) -> None:
        """Check every field, so that a wrong format never travels further.

        Raises:
            ConfigError: Any field out of its set.
        """
        if isinstance(self.bits, bool) or not isinstance(self.bits, int):
            raise ConfigError(f"Format: bits must be an int, got {self.bits!r}.")
        if not 1 <= self.bits <= MAX_FORMAT_BITS:
            raise ConfigError(f"Format: bits must be in [1, {MAX_FORMAT_BITS}], got {self.bits}.")
        for field, value, legal in (
            ("scheme", self.scheme, get_args(Scheme)),
            ("granularity", self.granularity, get_args(GranularityKind)),
            ("scale", self.scale, get_args(ScaleKind)),
            ("range_method", self.range_method, get_args(RangeMethod)),
        ):
            if value not in legal:
                raise ConfigError(f"Format: {field} must be one of {', '.join(legal)}, got {value!r}.")
        if (self.granularity == "group") != (self.group_size is not None):
            raise ConfigError(
                f"Format: group_size goes with granularity 'group', got granularity "
                f"{self.granularity!r} and group_size {self.group_size!r}."
            )
        if self.group_size is not None and self.group_size < 1:
            raise ConfigError(f"Format: group_size must be at least 1, got {self.group_size}.")
        if not 0.5 < self.percentile <= 1.0:
            raise ConfigError(f"Format: percentile must be in (0.5, 1], got {self.percentile}.")

    def qtype(self, *, nonnegative: bool) -> QType:
        """Return the code type, given whether all real values are >= 0."""
        if self.scheme == "asymmetric":
            return QType(self.bits, bool(self.signed), narrow=self.narrow and self.bits > 1)
        signed = (not nonnegative) if self.signed is None else self.signed
        if self.bits == 1 and signed:
            return QType(1, signed=True, bipolar=True)
        return QType(self.bits, signed, narrow=self.narrow and signed and self.bits > 1)

    def with_bits(self, bits: int) -> Format:
        """Return the same wish at another width."""
        return replace(self, bits=bits)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with every field."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Format:
        """Read a JSON object back; an unknown key is an error.

        Raises:
            ConfigError: Unknown key or illegal value.
        """
        unknown = sorted(set(data) - set(cls.__slots__))
        if unknown:
            raise ConfigError(f"Format: unknown key {unknown[0]!r}. Known: {', '.join(cls.__slots__)}.")
        return cls(**data)
