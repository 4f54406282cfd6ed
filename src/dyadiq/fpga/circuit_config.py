"""How circuits are priced before they exist: part, clock and depth of a stage. Frozen plain data.

Used by the costs of this package and the pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass

from dyadiq.core.errors import ConfigError
from dyadiq.fpga.devices import find_device
from dyadiq.fpga.limits import MAX_LUTS

__all__ = ["DEFAULT_CIRCUIT", "CircuitConfig"]


@dataclass(frozen=True, slots=True)
class CircuitConfig:
    """Part, clock and pipeline.

    Attributes:
        device: Key in `devices.DEVICES`.
        depth: Most adders in a row between two registers, as for target `verilog`.
        clock_mhz: Clock with which nanoseconds are modelled; None: what is assumed for the device.
        max_luts: Networks of more at their narrowest widths, by a quick guess, are refused.

    Raises:
        UnknownNameError: No such device.
        ConfigError: A number is not positive.

    Example:
        >>> CircuitConfig("xc7z020").period_ns
        10.0
    """

    device: str = "vu9p"
    depth: int = 4
    clock_mhz: float | None = None
    max_luts: int = MAX_LUTS

    def __post_init__(self) -> None:
        """Check names and numbers.

        Raises:
            UnknownNameError: No such device.
            ConfigError: A number is not positive.
        """
        find_device(self.device)
        for name in ("depth", "clock_mhz", "max_luts"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"circuit: {name} must be above zero, got {value!r}.")

    @property
    def period_ns(self) -> float:
        """Length of a clock cycle."""
        return 1000.0 / (self.clock_mhz or find_device(self.device).clock_mhz)


DEFAULT_CIRCUIT = CircuitConfig()
