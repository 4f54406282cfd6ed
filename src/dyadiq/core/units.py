"""Amounts as people write them: ``25%``, ``8kB``, ``1.5 MiB``, ``300M``, ``2uJ``; and back, for messages.

Used by allocate, recipe, cli and report. Knows units, not metrics; all arithmetic is exact (fractions).

Bytes: kB, MB, GB are powers of 1000; KiB, MiB, GiB powers of 1024. Counts: k, M, G, T.
Energy: fJ to mJ. Time: ns to ms. A number without suffix is in the metric's own unit.
A percentage is of the float32 network.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType

from dyadiq.core.errors import ConfigError

__all__ = ["format_amount", "parse_budget"]

_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?|\.[0-9]+(?:[eE][+-]?[0-9]{1,3})?)\s*(.*)")
_COUNTS: Mapping[str, int] = MappingProxyType({"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12})
_SUFFIXES: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "byte": {
            "B": 1,
            "kB": 10**3,
            "MB": 10**6,
            "GB": 10**9,
            "KiB": 2**10,
            "MiB": 2**20,
            "GiB": 2**30,
        },
        "fJ": {"fJ": 1, "pJ": 10**3, "nJ": 10**6, "uJ": 10**9, "mJ": 10**12},
        "ns": {"ns": 1, "us": 10**3, "ms": 10**6},
    }
)


def parse_budget(
    value: float | str, *, metric: str, unit: str, reference: int | None = None, plain_unit: str = ""
) -> int:
    """Return a budget as an integer of the metric's unit, rounded down: what is asked for is never exceeded.

    Args:
        value: A number in the metric's unit, or text: a number, a number with a suffix, or a percentage.
        metric: Name of the metric, for messages.
        unit: Unit of one count (``byte``, ``bop``, ``fJ``, ...).
        reference: The 100 % of percentages: the float32 network's cost.
        plain_unit: What a number without suffix is in, where it is not the unit.

    Raises:
        ConfigError: Not a positive finite amount, a suffix the unit does not have, or a percentage without reference or
            of nothing.

    Example:
        >>> parse_budget("1.5kB", metric="size", unit="byte"), parse_budget(3e8, metric="bops", unit="bop")
        (1500, 300000000)
        >>> parse_budget("12.5%", metric="size", unit="byte", reference=4001)
        500
        >>> [parse_budget(v, metric="latency_us", unit="ns", plain_unit="us") for v in (1.5, "1.5", "1.5ms", "90ns")]
        [1500, 1500, 1500000, 90]
    """
    plain = plain_unit or unit
    if isinstance(value, str):
        amount = _parse_text(value, metric, unit, reference, plain)
    else:
        amount = _parse_number(value, metric) * _factors(unit)[plain]
    if amount <= 0:
        raise ConfigError(f"budget {metric}: must be above zero, got {value!r}. {_examples(unit, plain)}")
    return math.floor(amount)


def format_amount(amount: int, unit: str) -> str:
    """Return an amount for people, exact first: ``12,345 byte (12.3 kB)``.

    Example:
        >>> format_amount(12345, "byte"), format_amount(300, "bop")
        ('12,345 byte (12.3 kB)', '300 bop')
    """
    exact = f"{amount:,} {unit}"
    scales = [(factor, name) for name, factor in _SUFFIXES.get(unit, _COUNTS).items() if not name.endswith("iB")]
    for factor, name in sorted(scales, reverse=True):
        if factor > 1 and amount >= factor:
            return f"{exact} ({amount / factor:.3g} {name})"
    return exact


def _parse_number(value: float, metric: str) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"budget {metric}: expected a finite number or a text such as '25%', got {value!r}.")
    return Fraction(value)


def _factors(unit: str) -> dict[str, int]:
    return {unit: 1, **_SUFFIXES.get(unit, _COUNTS)}


def _parse_text(text: str, metric: str, unit: str, reference: int | None, plain: str) -> Fraction:
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"budget {metric}: not an amount: {text!r}. {_examples(unit, plain)}")
    number, suffix = Fraction(match[1]), match[2].strip()
    if suffix == "%" and reference == 0:
        raise ConfigError(
            f"budget {metric}: {text!r} is a percentage of the float32 network, which has no {metric}: 0 {unit}, since "
            f"there is no convolution or linear layer in it. Leave {metric} out of the budget."
        )
    if suffix == "%":
        if reference is None:
            raise ConfigError(
                f"budget {metric}: {text!r} is a percentage of the float32 network, whose {metric} is not known. "
                f"Give an absolute number in {plain}."
            )
        return number * reference / 100
    factors = {"": _factors(unit)[plain], **_factors(unit)}
    if suffix not in factors:
        near = [name for name in factors if name and name.lower()[0] == suffix.lower()[0]]
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(
            f"budget {metric}: {text!r} ends in {suffix!r}, which is no suffix of {unit}.{hint} "
            f"{_examples(unit, plain)}"
        )
    return number * factors[suffix]


def _examples(unit: str, plain: str) -> str:
    names = ", ".join(_SUFFIXES.get(unit, _COUNTS))
    return f"Give a number in {plain}, a number with one of {names}, or a percentage of the float32 network ('25%')."
