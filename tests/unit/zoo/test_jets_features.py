"""Observables of jets against loops over pairs and triples, and on jets whose observables are known by hand."""

import itertools
import math

import numpy as np
import pytest

from dyadiq.core.errors import DataError
from dyadiq.zoo.jets_features import CLASSES, FEATURES, Particles, jet_features

# Sums of up to 10^5 terms in float64, in another order than the loops.
SUM_TOLERANCE = 1e-11


def slow_features(jet, groomed, mass):
    """All observables by their definitions, one triple at a time."""
    z = [pt / sum(groomed.pt) for pt in groomed.pt]

    def distance(i, j):
        gap = abs(groomed.azimuth[i] - groomed.azimuth[j]) % (2 * math.pi)
        gap = min(gap, 2 * math.pi - gap)
        return math.sqrt((groomed.rapidity[i] - groomed.rapidity[j]) ** 2 + gap**2)

    def e2(b):
        return sum(z[i] * z[j] * distance(i, j) ** b for i, j in itertools.combinations(range(len(z)), 2))

    def over_triples(b, n_smallest):
        total = 0.0
        for i, j, k in itertools.combinations(range(len(z)), 3):
            sides = sorted([distance(i, j), distance(i, k), distance(j, k)])
            total += z[i] * z[j] * z[k] * math.prod(sides[:n_smallest]) ** b
        return total

    all_z = [pt / sum(jet.pt) for pt in jet.pt]
    one, two, three = ((over_triples(1, n), over_triples(2, n)) for n in (1, 2, 3))
    return {
        "zlogz": sum(share * math.log(share) for share in all_z),
        "c1_b0_mmdt": e2(0),
        "c1_b1_mmdt": e2(1),
        "c1_b2_mmdt": e2(2),
        "c2_b1_mmdt": three[0] / e2(1) ** 2,
        "c2_b2_mmdt": three[1] / e2(2) ** 2,
        "d2_b1_mmdt": three[0] / e2(1) ** 3,
        "d2_b2_mmdt": three[1] / e2(2) ** 3,
        "d2_a1_b1_mmdt": three[0] / e2(1) ** 3,
        "d2_a1_b2_mmdt": three[0] / e2(2) ** (3 / 2),
        "m2_b1_mmdt": one[0] / e2(1),
        "m2_b2_mmdt": one[1] / e2(2),
        "n2_b1_mmdt": two[0] / e2(1) ** 2,
        "n2_b2_mmdt": two[1] / e2(2) ** 2,
        "mass_mmdt": mass,
        "multiplicity": len(jet.pt),
    }


def random_particles(rng, n):
    azimuth = rng.normal(0.0, 0.3, n) % (2 * np.pi)  # on both sides of zero
    return Particles(rng.exponential(20.0, n) + 1e-3, rng.normal(1.0, 0.3, n), azimuth)


@pytest.mark.parametrize("n", [3, 4, 17, 40, 70])
def test_features_are_those_of_loops(n):
    rng = np.random.default_rng(n)
    groomed = random_particles(rng, n)
    jet = random_particles(rng, n + 5)
    expected = slow_features(jet, groomed, 91.2)
    assert tuple(expected) == FEATURES
    got = jet_features(jet, groomed, 91.2)
    np.testing.assert_allclose(got, list(expected.values()), rtol=SUM_TOLERANCE)


def test_features_do_not_depend_on_the_order_of_particles():
    rng = np.random.default_rng(1)
    jet = random_particles(rng, 30)
    order = rng.permutation(30)
    other = Particles(jet.pt[order], jet.rapidity[order], jet.azimuth[order])
    np.testing.assert_allclose(jet_features(jet, jet, 1.0), jet_features(other, other, 1.0), rtol=SUM_TOLERANCE)


def test_features_are_equal_when_azimuths_are_a_turn_apart():
    rng = np.random.default_rng(2)
    jet = random_particles(rng, 12)
    turned = Particles(jet.pt, jet.rapidity, jet.azimuth + 2 * np.pi * rng.integers(-1, 2, 12))
    np.testing.assert_allclose(jet_features(jet, jet, 1.0), jet_features(turned, turned, 1.0), rtol=1e-9)  # 2 pi rounds


def test_equilateral_triangle_has_the_features_of_the_formulas():
    side = 0.2
    corners = Particles(np.ones(3), np.array([0.0, side, side / 2]), np.array([0.0, 0.0, side * math.sqrt(3) / 2]))
    got = dict(zip(FEATURES, jet_features(corners, corners, 5.0), strict=True))
    e2, e3 = 3 * side / 9, side**3 / 27
    assert got["c1_b1_mmdt"] == pytest.approx(e2)
    assert got["d2_b1_mmdt"] == pytest.approx(e3 / e2**3)
    assert got["n2_b1_mmdt"] == pytest.approx(side**2 / 27 / e2**2)
    assert got["m2_b1_mmdt"] == pytest.approx(side / 27 / e2)
    assert got["zlogz"] == pytest.approx(-math.log(3))


def test_parallel_particles_among_others_give_finite_features():
    jet = Particles(np.ones(4), np.array([0.0, 0.0, 0.0, 0.3]), np.zeros(4))
    assert np.isfinite(jet_features(jet, jet, 1.0)).all()


@pytest.mark.parametrize("n", [1, 2])
def test_no_features_when_grooming_leaves_less_than_three(n):
    rng = np.random.default_rng(0)
    assert jet_features(random_particles(rng, 9), random_particles(rng, n), 1.0) is None


def test_no_features_when_all_particles_fly_in_one_direction():
    jet = Particles(np.ones(5), np.full(5, 0.4), np.full(5, 1.0))
    assert jet_features(jet, jet, 1.0) is None


def test_jet_without_momentum_is_refused():
    jet = Particles(np.array([1.0, 0.0]), np.zeros(2), np.zeros(2))
    with pytest.raises(DataError, match=r"particles of positive transverse momentum, got 2"):
        jet_features(jet, jet, 1.0)
    none = Particles(np.zeros(0), np.zeros(0), np.zeros(0))
    with pytest.raises(DataError, match=r"positive transverse momentum, got 0"):
        jet_features(none, none, 1.0)


def test_names_are_those_of_the_published_set():
    assert len(FEATURES) == len(set(FEATURES)) == 16
    assert tuple(sorted(CLASSES)) == CLASSES
