"""One device's row of the document: what a written circuit takes of a part, and how fast it is there.

Used by command `synth` and the pipeline's stage `hardware`. Puts together what `synth`, `place` and `devices` say and
names the kind of every number: ``synthesised`` (counted after technology mapping), ``placed`` (after placing and
routing, with its timing analysis), ``modelled`` (the part's assumed clock; no open tool times it), ``exact``.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dyadiq.core.errors import ConfigError, InfeasibleError
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.fpga.devices import Utilisation, find_device, utilisation
from dyadiq.fpga.interface import read_interface
from dyadiq.fpga.place import PlaceResult, place
from dyadiq.fpga.synth import SynthResult, synthesize

__all__ = ["HardwareRow", "measure"]


@dataclass(frozen=True)
class HardwareRow:
    """A circuit on a part.

    Attributes:
        device: Key in `devices.DEVICES`.
        interface: The circuit's ``interface.json``.
        synth: What mapping counted.
        use: Shares of the part.
        placed: One result per seed; none where nothing was placed.
        refusal: Why the circuit cannot be on the part, or an empty text.
    """

    device: str
    interface: dict[str, Any]
    synth: SynthResult
    use: Utilisation
    placed: tuple[PlaceResult, ...] = ()
    refusal: str = ""

    @property
    def best(self) -> PlaceResult | None:
        """The placed result with the highest clock."""
        return max(self.placed, key=lambda one: one.fmax_mhz, default=None)

    @property
    def fmax_mhz(self) -> float | None:
        """Clock of the best seed; else the assumed one of a part without open timing; None where it was not placed."""
        part = find_device(self.device)
        if self.best is not None:
            return self.best.fmax_mhz
        return None if part.placer else part.clock_mhz

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object: numbers by name, and ``kind`` with the kind of each."""
        part, best = find_device(self.device), self.best
        timing = "placed" if best is not None else "modelled"
        cycles, fmax = self.synth.latency_cycles, self.fmax_mhz
        numbers = {
            "lut": (self.synth.lut, self.synth.kind),
            "ff": (self.synth.ff, self.synth.kind),
            "carry": (self.synth.carry, self.synth.kind),
            "dsp": (self.synth.dsp, self.synth.kind),
            "latency_cycles": (cycles, "exact"),
            "initiation_interval": (self.interface["initiation_interval"], "exact"),
            "fmax_mhz": (fmax, timing),
            "latency_ns": (None if fmax is None else round(1000.0 * cycles / fmax, 1), timing),
        }
        clocks = [one.fmax_mhz for one in self.placed]
        return {
            "device": self.device,
            "part": part.part,
            "family": part.family,
            **{name: value for name, (value, _) in numbers.items()},
            "kind": {name: kind for name, (value, kind) in numbers.items() if value is not None},
            "adders_per_stage": self.interface["adders_per_stage"],
            "utilisation": self.use.to_json(),
            "cells": dict(best.used) if best is not None else {},
            "cells_available": dict(best.available) if best is not None else {},
            "wrapped": best.wrapped if best is not None else False,
            "seeds": {str(one.seed): one.fmax_mhz for one in self.placed},
            "fmax_mhz_mean": round(statistics.mean(clocks), 2) if clocks else None,
            "fmax_mhz_stdev": round(statistics.stdev(clocks), 2) if len(clocks) > 1 else None,
            "tools": {self.synth.tool: self.synth.version} | ({best.tool: best.version} if best is not None else {}),
            "circuit_sha256": self.synth.circuit,
            "refusal": self.refusal,
        }


def measure(
    folder: Path,
    device: str,
    *,
    placing: bool = True,
    seeds: Sequence[int] = (1,),
    target_mhz: float = 150.0,
    timeout_s: float = 3600.0,
    progress: Progress = NO_PROGRESS,
) -> HardwareRow:
    """Synthesise the circuit of a folder for a device; place and route it, once per seed, where an open tool can.

    What does not fit is an answer, no error: the row's ``refusal`` says it.

    Args:
        folder: Written by target `verilog`.
        device: Key in `devices.DEVICES`.
        placing: Whether to place; False counts only.
        seeds: Of the placer.
        target_mhz: Clock that the placer works for.
        timeout_s: Each program is stopped after so many seconds.
        progress: Told of finished programs.

    Raises:
        UnknownNameError: No such device.
        ConfigError: Placing without a seed.
        ArtifactError: The folder holds no circuit.
        MissingToolError: A program is not installed.
        ToolError: A program failed or took too long; logs stay in the folder, and so do finished results.
        StorageError: A result cannot be written.
    """
    part, interface = find_device(device), read_interface(folder)
    place_it = placing and part.placer is not None
    if place_it and not seeds:
        raise ConfigError(f"{device}: placing needs at least one seed, got none.")
    progress.start(device, 1 + (len(seeds) if place_it else 0))
    synth = synthesize(folder, part.family, timeout_s=timeout_s)
    progress.advance(1, "synthesised")
    use = utilisation(synth, device)
    refusal, placed = "", []
    if not use.fits:
        parts = [f"{one.used:,} {name.upper()} of {one.available:,}" for name, one in _uses(use) if one.frac > 1]
        refusal = f"{device}: the circuit takes {', '.join(parts)}. Use fewer bits, prune, or take a larger part."
    for seed in dict.fromkeys(seeds) if place_it and not refusal else ():
        try:
            placed.append(place(folder, device, seed=seed, target_mhz=target_mhz, timeout_s=timeout_s))
        except InfeasibleError as error:
            refusal = str(error)
            break
        progress.advance(1, f"placed, seed {seed}")
    progress.finish()
    return HardwareRow(device, interface, synth, use, tuple(placed), refusal)


def _uses(use: Utilisation) -> list[tuple[str, Any]]:
    return [("lut", use.lut), ("ff", use.ff), ("dsp", use.dsp)]
