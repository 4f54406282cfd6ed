"""Proton collisions at 13 TeV that make jets of one class around 1 TeV: what Pythia is told, and the events it gives.

Used by `jets_simulation`. Knows no jets: gives the visible particles of an event and its two hard partons.
Pythia is silent (``Print:quiet``) and drawn from one explicit seed.

Partons or bosons have 990 to 1010 GeV of transverse momentum, Monash tune with underlying event. Tops and bosons decay
to quarks. Pairs of W or Z are made on shell and handed to a second Pythia, which decays them isotropically and
showers them: a pair made and decayed by one Pythia would carry polarisation that the published jets do not have.

Source: arXiv:1804.06913, section 2.1; Pythia 8.3 (arXiv:2203.11601).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import MissingDependencyError, ToolError, UnknownNameError

__all__ = ["MAX_SEED", "SETTINGS", "Event", "collide", "import_pythia"]

MAX_SEED = 900_000_000
"""Seeds of Pythia go from 1 to this one; each opens a stream of its own. Classes of bosons take two: seed, seed + 1."""

_BEAMS = ("Beams:eCM=13000", "PhaseSpace:pTHatMin=990", "PhaseSpace:pTHatMax=1010")
_QUARKS_FROM_W = ("24:onMode=off", "24:onIfAny=1 2 3 4 5")
_QUARKS_FROM_Z = ("23:onMode=off", "23:onIfAny=1 2 3 4 5")
_NARROW = ("23:doForceWidth=on", "23:mWidth=0.01", "24:doForceWidth=on", "24:mWidth=0.01")
_PROCESS_ONLY = (*_BEAMS, "PartonLevel:all=off", "HadronLevel:all=off", *_NARROW)

SETTINGS: dict[str, tuple[tuple[str, ...], ...]] = {
    "g": ((*_BEAMS, "HardQCD:gg2gg=on", "HardQCD:qqbar2gg=on"),),
    "q": ((*_BEAMS, "HardQCD:gg2qqbar=on", "HardQCD:qqbar2qqbarNew=on"),),
    "t": ((*_BEAMS, "Top:gg2ttbar=on", "Top:qqbar2ttbar=on", *_QUARKS_FROM_W),),
    "w": ((*_PROCESS_ONLY, "WeakDoubleBoson:ffbar2WW=on"), ("Beams:frameType=5", *_QUARKS_FROM_W)),
    "z": (
        (*_PROCESS_ONLY, "WeakDoubleBoson:ffbar2gmZgmZ=on", "WeakZ0:gmZmode=2"),
        ("Beams:frameType=5", *_QUARKS_FROM_Z),
    ),
}
"""Class to settings: of the one Pythia, or of that which makes pairs of bosons and that which decays them."""

_SILENT = ("Print:quiet=on", "Next:numberShowEvent=0", "Random:setSeed=on")
_NEUTRINOS = frozenset((12, 14, 16))
_HARD = (5, 6)  # places of the two outgoing partons or bosons in the record of the hard process
_INCOMING = (3, 4)
_MAX_FAILURES = 100  # in a row; one in some thousand events fails


@dataclass(frozen=True, eq=False)
class Event:
    """What a collision left.

    Attributes:
        momenta: Visible particles as rows of px, py, pz, energy in GeV.
        hard: Rapidity and azimuth of the two hard partons or bosons, ``[2, 2]``.
    """

    momenta: NDArray[np.float64]
    hard: NDArray[np.float64]


class _Pythia(Protocol):
    process: Any
    event: Any

    def next(self) -> bool:
        """Make an event."""


def import_pythia() -> ModuleType:
    """Return the package ``pythia8mc``.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        return importlib.import_module("pythia8mc")
    except ModuleNotFoundError as err:
        raise MissingDependencyError("pythia8mc", "jets") from err


def collide(jet_class: str, seed: int) -> Iterator[Event]:
    """Yield events without end; the same class and seed give the same events.

    Args:
        jet_class: One of the classes.
        seed: 1 to `MAX_SEED`.

    Raises:
        UnknownNameError: No such class.
        MissingDependencyError: Pythia is not installed.
        ToolError: Pythia refuses its settings, or fails many times in a row.
    """
    if jet_class not in SETTINGS:
        raise UnknownNameError("class of jets", jet_class, SETTINGS)
    package = import_pythia()
    if len(SETTINGS[jet_class]) == 1:
        pythia = _start(package, SETTINGS[jet_class][0], seed, None)
    else:
        making, decaying = SETTINGS[jet_class]
        source = _pairs_as_input(package, _start(package, making, seed, None))
        pythia = _start(package, decaying, seed % MAX_SEED + 1, source)
    while True:
        _next(pythia)
        particles = [p for p in pythia.event if p.isFinal() and p.idAbs() not in _NEUTRINOS]
        hard = [pythia.process[i] for i in _HARD]
        yield Event(
            momenta=np.array([(p.px(), p.py(), p.pz(), p.e()) for p in particles]),
            hard=np.array([(p.y(), p.phi()) for p in hard]),
        )


def _start(package: ModuleType, settings: tuple[str, ...], seed: int, source: Any) -> _Pythia:
    pythia: Any = package.Pythia("", False)
    for setting in (*_SILENT, f"Random:seed={seed}", *settings):
        if not pythia.readString(setting):
            raise ToolError(f"Pythia does not know the setting {setting!r}. Run: pip install 'dyadiq[jets]'")
    if source is not None:
        pythia.setLHAupPtr(source)
    if not pythia.init():
        raise ToolError(f"Pythia did not start with the settings {', '.join(settings)}. Check its installation.")
    started: _Pythia = pythia
    return started


def _next(pythia: _Pythia) -> None:
    for _ in range(_MAX_FAILURES):
        if pythia.next():
            return
    raise ToolError(f"Pythia failed to make an event {_MAX_FAILURES} times in a row. Check its installation.")


def _pairs_as_input(package: ModuleType, maker: _Pythia) -> Any:
    """Return the events of one Pythia, undecayed, as the input of another (the Les Houches interface, in memory)."""
    base: Any = package.LHAup
    process_id, weights_given = 9999, 3
    coupling_qed, coupling_qcd, scale_gev = 0.00782, 0.1, 1000.0
    no_spin = 9.0

    class Pairs(base):  # type: ignore[misc]  # the base is only known when Pythia is installed
        def setInit(self) -> bool:  # noqa: N802  # names that Pythia calls
            for set_beam in (self.setBeamA, self.setBeamB):
                set_beam(2212, 6500.0)
            self.setStrategy(weights_given)
            self.addProcess(process_id, 1.0, 0.1, 1.0)
            return True

        def setEvent(self, chosen: int = 0) -> bool:  # noqa: N802
            del chosen
            _next(maker)
            self.setProcess(process_id, 1.0, scale_gev, coupling_qed, coupling_qcd)
            for i in _INCOMING:
                p = maker.process[i]
                colours = (501, 0) if p.id() > 0 else (0, 501)
                self.addParticle(p.id(), -1, 0, 0, *colours, 0.0, 0.0, p.pz(), p.e(), 0.0, 0.0, no_spin, -1.0)
            for i in _HARD:
                p = maker.process[i]
                momentum = (p.px(), p.py(), p.pz(), p.e(), p.m())
                self.addParticle(p.id(), 1, 1, 2, 0, 0, *momentum, 0.0, no_spin, -1.0)
            return True

    return Pairs(weights_given)
