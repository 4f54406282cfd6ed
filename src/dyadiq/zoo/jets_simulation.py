"""Events to jets: anti-kT clustering, grooming, selection, observables. One call makes one reproducible chunk.

Used by `jets_job`, in processes of their own (FastJet prints its banner once a process). Knows no files.

The two leading anti-kT jets (R = 0.8) of an event are kept if 0.8 < pT < 1.6 TeV, |y| < 2.4, and a hard parton lies
within 0.6. Grooming is the modified mass drop (soft drop with beta = 0, zcut = 0.1) on the Cambridge/Aachen tree.

Sources: arXiv:1804.06913, section 2.1; arXiv:1402.2657 (soft drop); FastJet, arXiv:1111.6097.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import MissingDependencyError, ToolError
from dyadiq.zoo.jets_features import FEATURES, Particles, jet_features
from dyadiq.zoo.jets_physics import Event, collide

__all__ = ["SELECTION", "Chunk", "groom", "import_fastjet", "simulate_chunk"]

SELECTION = {
    "radius": 0.8,
    "min_clustered_pt_gev": 400.0,
    "jets_per_event": 2,
    "min_pt_gev": 800.0,
    "max_pt_gev": 1600.0,
    "max_rapidity": 2.4,
    "max_distance_to_parton": 0.6,
    "zcut": 0.1,
}
"""Clustering, selection and grooming, as written into the document of a sample."""

_TREE_RADIUS = 10.0  # larger than any jet, so that the tree has one root
_MIN_YIELD = 0.05  # jets an event; measured: 1.4 to 1.9


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some jets of one class, in the order they were made.

    Attributes:
        x: Observables, float32 ``[n, 16]``.
        kinematics: pT in GeV, rapidity, mass before grooming in GeV: float32 ``[n, 3]``.
        n_events: Collisions it took.
    """

    x: NDArray[np.float32]
    kinematics: NDArray[np.float32]
    n_events: int


def import_fastjet() -> ModuleType:
    """Return the package ``fastjet``.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        return importlib.import_module("fastjet")
    except ModuleNotFoundError as err:
        raise MissingDependencyError("fastjet", "jets") from err


def simulate_chunk(jet_class: str, n_jets: int, seed: int) -> Chunk:
    """Return ``n_jets`` simulated jets of a class; the same arguments give the same jets.

    Args:
        jet_class: One of the classes.
        n_jets: How many jets; the second jet of the last event is dropped if it would be one too many.
        seed: Of Pythia, 1 to `jets_physics.MAX_SEED`.

    Raises:
        UnknownNameError: No such class.
        MissingDependencyError: Pythia or FastJet is not installed.
        ToolError: Pythia fails, or hardly any event gives a jet.
    """
    fastjet = import_fastjet()
    rows: list[NDArray[np.float64]] = []
    kinematics: list[tuple[float, float, float]] = []
    n_events = 0
    for event in collide(jet_class, seed):
        n_events += 1
        for jet in _selected_jets(fastjet, event):
            features = _features(fastjet, jet)
            if features is not None:
                rows.append(features)
                kinematics.append((jet.pt(), jet.rap(), jet.m()))
        if len(rows) >= n_jets:
            break
        if len(rows) < _MIN_YIELD * n_events - 10:
            raise ToolError(f"class {jet_class!r}: {len(rows)} jets from {n_events} events; expected one or more.")
    return Chunk(
        np.asarray(rows[:n_jets], np.float32).reshape(n_jets, len(FEATURES)),
        np.asarray(kinematics[:n_jets], np.float32).reshape(n_jets, 3),
        n_events,
    )


def groom(fastjet: ModuleType, particles: Any, zcut: float = SELECTION["zcut"]) -> Any:
    """Return what the modified mass drop leaves of a jet: the first subjet whose softer branch has a share over zcut.

    Args:
        fastjet: The package.
        particles: ``PseudoJet`` of all particles.
        zcut: Share of the softer branch in the transverse momentum.

    Returns:
        A ``PseudoJet`` with its constituents, and the clustering it lives in (which must be kept alive).
    """
    tree = fastjet.ClusterSequence(particles, fastjet.JetDefinition(fastjet.cambridge_algorithm, _TREE_RADIUS))
    jet = tree.inclusive_jets()[0]
    while True:
        harder, softer = fastjet.PseudoJet(), fastjet.PseudoJet()
        if not jet.has_parents(harder, softer):
            return jet, tree
        if harder.pt() < softer.pt():
            harder, softer = softer, harder
        if softer.pt() / (harder.pt() + softer.pt()) > zcut:
            return jet, tree
        jet = harder


def _selected_jets(fastjet: ModuleType, event: Event) -> Iterator[Any]:
    """Yield the jets that are kept. A generator, since jets can only be asked while their clustering is alive."""
    cuts = SELECTION
    particles = [fastjet.PseudoJet(*momentum) for momentum in event.momenta.tolist()]
    clusters = fastjet.ClusterSequence(particles, fastjet.JetDefinition(fastjet.antikt_algorithm, cuts["radius"]))
    jets = sorted(clusters.inclusive_jets(cuts["min_clustered_pt_gev"]), key=lambda jet: -jet.pt())
    for jet in jets[: int(cuts["jets_per_event"])]:
        if (
            cuts["min_pt_gev"] < jet.pt() < cuts["max_pt_gev"]
            and abs(jet.rap()) <= cuts["max_rapidity"]
            and _distance(event.hard, jet.rap(), jet.phi_std()) <= cuts["max_distance_to_parton"]
        ):
            yield jet


def _distance(hard: NDArray[np.float64], rapidity: float, azimuth: float) -> float:
    """Return the distance to the nearer of the two hard partons."""
    gap = (azimuth - hard[:, 1] + np.pi) % (2 * np.pi) - np.pi
    return float(np.hypot(rapidity - hard[:, 0], gap).min())


def _features(fastjet: ModuleType, jet: Any) -> NDArray[np.float64] | None:
    particles = list(jet.constituents())
    groomed, tree = groom(fastjet, particles)
    features = jet_features(_arrays(particles), _arrays(groomed.constituents()), groomed.m())
    del tree  # kept alive until here: the constituents are looked up in it
    return features


def _arrays(particles: Any) -> Particles:
    rows = np.array([(p.pt(), p.rap(), p.phi()) for p in particles])
    return Particles(rows[:, 0], rows[:, 1], rows[:, 2])
