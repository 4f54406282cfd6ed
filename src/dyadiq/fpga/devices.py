"""Parts: what they have, how they are synthesised and placed, and whether a circuit fits.

Used by `place`, `latency_cost`, commands `synth` and `list`, and the report. Knows no circuit and runs nothing.

How to add a device: one file in ``parts`` that says where its numbers come from, and its name in `DEVICES`. A clock in
such a file is an assumption, with which nanoseconds are modelled; `place` measures clocks where an open tool can.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Protocol

from dyadiq.core.errors import ConfigError, UnknownNameError

__all__ = [
    "DEVICES",
    "Counted",
    "Device",
    "Placer",
    "Used",
    "Utilisation",
    "find_device",
    "occupied_luts",
    "utilisation",
]

_XILINX = {"xcup", "xc7"}


@dataclass(frozen=True, slots=True)
class Placer:
    """How a part is placed and routed.

    Attributes:
        tool: The program.
        options: Options that name part and package.
        pins: Pins a circuit may use, clock included.
        dense_options: Further options for circuits that take more than ``dense_frac`` of the LUTs, carry cells counted.
        dense_frac: See there.
    """

    tool: str
    options: tuple[str, ...]
    pins: int
    dense_options: tuple[str, ...] = ()
    dense_frac: float = 1.0


@dataclass(frozen=True, slots=True)
class Device:
    """A part and its package data.

    Attributes:
        name: Key in `DEVICES`.
        part: The vendor's part number.
        family: Its family in `synth.FAMILIES`.
        lut: Look-up tables: of six inputs on Xilinx parts, of four on the others.
        ff: Flip-flops.
        bram: Memory blocks.
        dsp: Multiplier blocks.
        clock_mhz: Assumed clock, with which nanoseconds are modelled.
        placer: How it is placed; None where no open tool can.
    """

    name: str
    part: str
    family: str
    lut: int
    ff: int
    bram: int
    dsp: int
    clock_mhz: float
    placer: Placer | None = None

    @property
    def period_ns(self) -> float:
        """Length of a cycle of the assumed clock."""
        return 1000.0 / self.clock_mhz

    @property
    def about(self) -> str:
        """One line for `dyadiq list`."""
        timing = "placed by " + self.placer.tool if self.placer else f"ns modelled at {self.clock_mhz:g} MHz"
        return f"{self.part}: {self.lut:,} LUT, {self.ff:,} FF, {self.bram:,} BRAM, {self.dsp:,} DSP; {timing}"


def _read(name: str) -> Device:
    data = tomllib.loads((files("dyadiq.fpga") / "parts" / f"{name}.toml").read_text(encoding="utf-8"))
    placer = data.pop("placer", None)
    if placer is not None:
        lists = {key: tuple(value) for key, value in placer.items() if isinstance(value, list)}
        placer = Placer(**placer | lists)
    return Device(name=name, placer=placer, **data)


DEVICES: Mapping[str, Device] = MappingProxyType(
    {
        "vu9p": _read("vu9p"),
        "zu3eg": _read("zu3eg"),
        "xc7z020": _read("xc7z020"),
        "ecp5-85": _read("ecp5-85"),
        "hx8k": _read("hx8k"),
    }
)


def find_device(name: str) -> Device:
    """Return a device by name.

    Raises:
        UnknownNameError: No such device.

    Example:
        >>> find_device("xc7z020").lut
        53200
    """
    if name not in DEVICES:
        raise UnknownNameError("device", name, DEVICES)
    return DEVICES[name]


@dataclass(frozen=True, slots=True)
class Used:
    """What a circuit takes of one resource."""

    used: int
    available: int

    @property
    def frac(self) -> float:
        """The share of the part; 0 where it has none and none is needed, infinite where it has none."""
        if self.available == 0:
            return 0.0 if self.used == 0 else float("inf")
        return self.used / self.available


@dataclass(frozen=True, slots=True)
class Utilisation:
    """What a circuit takes of a part.

    Attributes:
        device: Key in `DEVICES`.
        kind: How the counts were obtained: that of the result they are from.
        lut: Look-up tables.
        ff: Flip-flops.
        dsp: Multiplier blocks.
    """

    device: str
    kind: str
    lut: Used
    ff: Used
    dsp: Used

    @property
    def fits(self) -> bool:
        """Whether nothing is needed that the part does not have; routing may still fail on a nearly full part."""
        return all(one.used <= one.available for one in (self.lut, self.ff, self.dsp))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; shares are in it."""
        data = asdict(self) | {"fits": self.fits}
        for name in ("lut", "ff", "dsp"):
            data[name]["frac"] = round(getattr(self, name).frac, 4)
        return data


class Counted(Protocol):
    """What `utilisation` reads: a `SynthResult` or a `HardwareEstimate`."""

    @property
    def family(self) -> str:
        """Family the counts are of."""

    @property
    def lut(self) -> int:
        """Look-up tables."""

    @property
    def ff(self) -> int:
        """Flip-flops."""

    @property
    def carry(self) -> int:
        """Carry cells."""

    @property
    def dsp(self) -> int:
        """Multiplier blocks."""

    @property
    def kind(self) -> str:
        """How the counts were obtained."""


def occupied_luts(lut: int, carry: int, family: str) -> int:
    """Return the look-up tables that nothing else can use: on ECP5 a carry cell occupies two.

    Example:
        >>> occupied_luts(100, 10, "ecp5"), occupied_luts(100, 10, "ice40")
        (120, 100)
    """
    return lut + (2 * carry if family == "ecp5" else 0)


def utilisation(result: Counted, device: str) -> Utilisation:
    """Return what a circuit takes of a part; on ECP5 a carry cell occupies two LUTs, which are counted.

    Args:
        result: A `SynthResult` or a `HardwareEstimate` of the device's family; counts of the two Xilinx families, which
            have the same LUTs and carries, serve for each other.
        device: Key in `DEVICES`.

    Raises:
        UnknownNameError: No such device.
        ConfigError: The counts are of a family whose LUTs are others.

    Example:
        >>> from types import SimpleNamespace
        >>> counts = SimpleNamespace(family="xc7", lut=2660, ff=1064, carry=0, dsp=0, kind="synthesised")
        >>> use = utilisation(counts, "xc7z020")
        >>> use.lut.frac, use.ff.frac, use.fits
        (0.05, 0.01, True)
    """
    part = find_device(device)
    if result.family != part.family and not {result.family, part.family} <= _XILINX:
        raise ConfigError(
            f"utilisation of {device}: the counts are of family {result.family!r}, the part is of {part.family!r}. "
            f"Synthesise for {part.family}."
        )
    luts = occupied_luts(result.lut, result.carry, result.family)
    return Utilisation(device, result.kind, Used(luts, part.lut), Used(result.ff, part.ff), Used(result.dsp, part.dsp))
