"""Pythia and FastJet: the same seed gives the same jets, each class looks like itself, grooming keeps two prongs."""

import sys

import numpy as np
import pytest

from dyadiq.core.errors import MissingDependencyError, ToolError, UnknownNameError
from dyadiq.zoo import jets_physics, jets_simulation
from dyadiq.zoo.jets_features import CLASSES, FEATURES
from dyadiq.zoo.jets_physics import SETTINGS, collide
from dyadiq.zoo.jets_simulation import groom, simulate_chunk

MASS = FEATURES.index("mass_mmdt")
WHY = "needs pythia8mc and fastjet: pip install 'dyadiq[jets]'"


@pytest.fixture(scope="module")
def fastjet():
    pytest.importorskip("pythia8mc", reason=WHY)
    return pytest.importorskip("fastjet", reason=WHY)


def test_every_class_has_settings():
    assert tuple(SETTINGS) == CLASSES


@pytest.mark.parametrize("jet_class", ["q", "w"])  # one Pythia, and two
def test_chunk_is_decided_by_its_seed(fastjet, jet_class):
    a, b = (simulate_chunk(jet_class, 4, seed) for seed in (5, 5))
    assert np.array_equal(a.x, b.x)
    assert np.array_equal(a.kinematics, b.kinematics)
    assert a.n_events == b.n_events
    assert a.x.shape == (4, 16)
    assert a.x.dtype == np.float32
    assert np.isfinite(a.x).all()


def test_seeds_give_other_jets(fastjet):
    assert not np.array_equal(simulate_chunk("g", 2, 1).x, simulate_chunk("g", 2, 2).x)


def test_bosons_have_their_mass_and_kept_jets_their_momentum(fastjet):
    chunk = simulate_chunk("z", 40, 3)
    assert 85.0 < np.median(chunk.x[:, MASS]) < 97.0
    assert ((chunk.kinematics[:, 0] > 800.0) & (chunk.kinematics[:, 0] < 1600.0)).all()
    assert (np.abs(chunk.kinematics[:, 1]) <= 2.4).all()


def particle(fastjet, pt, rapidity, azimuth):
    made = fastjet.PseudoJet()
    made.reset_PtYPhiM(pt, rapidity, azimuth, 0.0)
    return made


def test_grooming_drops_soft_wide_particles_and_keeps_two_hard_prongs(fastjet):
    prongs = [(500.0, 0.0, 1.0), (90.0, 0.2, 1.0), (300.0, 0.0, 1.3)]
    soft = [(5.0, 0.6, 1.5), (8.0, -0.5, 0.7)]
    groomed, tree = groom(fastjet, [particle(fastjet, *numbers) for numbers in prongs + soft])
    assert sorted(round(p.pt()) for p in groomed.constituents()) == [90, 300, 500]
    del tree


def test_grooming_ends_at_one_particle_when_all_else_is_soft(fastjet):
    groomed, tree = groom(fastjet, [particle(fastjet, 500.0, 0.0, 1.0), particle(fastjet, 5.0, 0.3, 1.0)])
    assert [round(p.pt()) for p in groomed.constituents()] == [500]
    del tree


def test_unknown_class_is_refused():
    with pytest.raises(UnknownNameError, match=r"unknown class of jets 'b'.* Known: g, q, t, w, z"):
        next(collide("b", 1))


@pytest.mark.parametrize("package", ["pythia8mc", "fastjet"])
def test_missing_package_names_the_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingDependencyError, match=rf"'{package}' is not installed. Run: pip install 'dyadiq\[jets\]'"
    ):
        {"pythia8mc": jets_physics.import_pythia, "fastjet": jets_simulation.import_fastjet}[package]()


class FailingPythia:
    def __init__(self, known=True, starts=True):
        self.known, self.starts = known, starts

    def readString(self, setting):
        return self.known

    def init(self):
        return self.starts

    def next(self):
        return False


@pytest.mark.parametrize(
    ("pythia", "message"),
    [
        (FailingPythia(known=False), r"Pythia does not know the setting 'Print:quiet=on'"),
        (FailingPythia(starts=False), r"Pythia did not start with the settings Beams:eCM=13000"),
        (FailingPythia(), r"Pythia failed to make an event 100 times in a row"),
    ],
)
def test_pythia_that_fails_is_a_tool_error(monkeypatch, pythia, message):
    package = type("package", (), {"Pythia": staticmethod(lambda *_: pythia)})
    monkeypatch.setattr(jets_physics, "import_pythia", lambda: package)
    with pytest.raises(ToolError, match=message):
        next(collide("g", 1))


def test_events_without_jets_end_in_an_error(monkeypatch):
    monkeypatch.setattr(jets_simulation, "import_fastjet", lambda: None)
    monkeypatch.setattr(jets_simulation, "collide", lambda *_: iter(range(100_000)))
    monkeypatch.setattr(jets_simulation, "_selected_jets", lambda *_: iter(()))
    with pytest.raises(ToolError, match=r"class 'q': 0 jets from \d+ events"):
        simulate_chunk("q", 3, 1)
