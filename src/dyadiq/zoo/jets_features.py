"""The sixteen observables of a jet that the five-class task is defined on, from its particles, in numpy.

Used by `jets_simulation`; `FEATURES` and `CLASSES` by everything that writes or reads jets. Knows no simulator.

Momentum fractions ``z`` are of transverse momentum, distances ``R`` are in rapidity and azimuth. With sums over all
pairs and triples of particles (each once) and the three distances of a triple sorted, ``R1 <= R2 <= R3``:

    e2(b) = sum z z R^b       e3(b) = sum z z z (R1 R2 R3)^b
    v1(b) = sum z z z R1^b    v2(b) = sum z z z (R1 R2)^b
    C1 = e2(b)    C2 = e3(b) / e2(b)^2    D2 = e3(a) / e2(b)^(3 a / b)    M2 = v1(b) / e2(b)    N2 = v2(b) / e2(b)^2

All are of the groomed jet but ``zlogz`` = sum z log z and ``multiplicity``, which are of the whole one.
Triples of ``n`` particles are the first ``n (n-1) (n-2) / 6`` of one table, which all jets share.

Sources: Larkoski, Salam, Thaler 2013 (C2); Larkoski, Moult, Neill 2014 (D2); Moult, Necib, Thaler 2016 (M2, N2,
generalised correlators); the list: Duarte et al. 2018, arXiv:1804.06913, with the names and order of OpenML 42468.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import DataError

__all__ = ["CLASSES", "FEATURES", "Particles", "jet_features"]

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

CLASSES = ("g", "q", "t", "w", "z")
"""Gluon, light quark, top quark, W boson, Z boson; label ``k`` means ``CLASSES[k]``."""

FEATURES = (
    "zlogz",
    "c1_b0_mmdt",
    "c1_b1_mmdt",
    "c1_b2_mmdt",
    "c2_b1_mmdt",
    "c2_b2_mmdt",
    "d2_b1_mmdt",
    "d2_b2_mmdt",
    "d2_a1_b1_mmdt",
    "d2_a1_b2_mmdt",
    "m2_b1_mmdt",
    "m2_b2_mmdt",
    "n2_b1_mmdt",
    "n2_b2_mmdt",
    "mass_mmdt",
    "multiplicity",
)
"""Names and order of the columns."""

_BLOCK = 8192  # triples at a time: their arrays stay in the cache, which makes large jets four times faster


@dataclass(frozen=True, eq=False)
class Particles:
    """The particles of a jet, or of its groomed part.

    Attributes:
        pt: Transverse momenta, GeV, ``[n]``.
        rapidity: Rapidities, ``[n]``.
        azimuth: Azimuths in radians, of any period, ``[n]``.
    """

    pt: Floats
    rapidity: Floats
    azimuth: Floats


def jet_features(jet: Particles, groomed: Particles, groomed_mass_gev: float) -> Floats | None:
    """Return the observables in the order of `FEATURES`, or None for a jet that has none.

    None: fewer than three particles are left after grooming, or all of them fly in one direction.

    Args:
        jet: All particles of the jet.
        groomed: Those left after grooming.
        groomed_mass_gev: Their invariant mass.

    Raises:
        DataError: No particle, or a transverse momentum that is not positive.

    Example:
        >>> three = Particles(np.ones(3), np.array([0.0, 0.3, 0.0]), np.array([0.0, 0.0, 0.4]))
        >>> features = jet_features(three, three, 80.0)
        >>> dict(zip(FEATURES, features.round(4).tolist()))["c1_b1_mmdt"]  # (0.3 + 0.4 + 0.5) / 9
        0.1333
    """
    fractions = _fractions(jet.pt)
    z = _fractions(groomed.pt)
    if len(z) < 3:
        return None
    first, second = _pairs(len(z))
    gap = np.abs(groomed.azimuth[first] - groomed.azimuth[second]) % (2 * np.pi)
    gap = np.minimum(gap, 2 * np.pi - gap)
    distance = np.hypot(groomed.rapidity[first] - groomed.rapidity[second], gap)
    weight = z[first] * z[second]
    e2 = [float(weight.sum()), float((weight * distance).sum()), float((weight * distance**2).sum())]
    if e2[1] <= 0.0 or e2[2] <= 0.0:
        return None
    e3, v1, v2 = _triple_sums(z, distance)
    return np.array(
        [
            (fractions * np.log(fractions)).sum(),
            *e2,
            e3[0] / e2[1] ** 2,
            e3[1] / e2[2] ** 2,
            e3[0] / e2[1] ** 3,
            e3[1] / e2[2] ** 3,
            e3[0] / e2[1] ** 3,
            e3[0] / e2[2] ** 1.5,
            v1[0] / e2[1],
            v1[1] / e2[2],
            v2[0] / e2[1] ** 2,
            v2[1] / e2[2] ** 2,
            groomed_mass_gev,
            len(fractions),
        ]
    )


def _fractions(pt: Floats) -> Floats:
    if len(pt) == 0 or not (pt > 0.0).all():
        raise DataError(
            f"a jet needs particles of positive transverse momentum, got {len(pt)} with {pt[:3]} GeV first."
        )
    return np.asarray(pt / pt.sum())


def _triple_sums(z: Floats, distance: Floats) -> tuple[Floats, Floats, Floats]:
    """Return e3, v1 and v2, each for b = 1 and 2; ``distance`` is that of all pairs, in the order of `_pairs`."""
    first, second = _pairs(len(z))
    pair_weight = z[first] * z[second]
    table = _triples(len(z))
    sums = np.zeros((3, 2))
    for start in range(0, len(table[0]), _BLOCK):
        third, near, far, across = (column[start : start + _BLOCK] for column in table)
        weight = pair_weight[across] * z[third]
        a, b, c = distance[near], distance[far], distance[across]
        product = a * b * c
        largest = np.maximum(np.maximum(a, b), c)
        two = np.divide(product, largest, out=np.zeros_like(product), where=largest > 0.0)
        one = np.minimum(np.minimum(a, b), c)
        for k, values in enumerate((product, one, two)):
            weighted = weight * values
            sums[k] += weighted.sum(), (weighted * values).sum()
    return sums[0], sums[1], sums[2]


def _pairs(n: int) -> tuple[Indices, Indices]:
    """Return ``i > j`` of all pairs, ordered by ``i`` then ``j``: pair ``(i, j)`` is number ``i (i-1) / 2 + j``."""
    first, second = _pair_table(_capacity(n))
    count = n * (n - 1) // 2
    return first[:count], second[:count]


def _triples(n: int) -> tuple[Indices, Indices, Indices, Indices]:
    """Return ``i`` of all triples ``i > j > k``, ordered by ``i``, and the numbers of pairs (i, j), (i, k), (j, k)."""
    count = n * (n - 1) * (n - 2) // 6
    third, near, far, across = _triple_table(_capacity(n))
    return third[:count], near[:count], far[:count], across[:count]


def _capacity(n: int) -> int:
    """Return the size of the table that serves ``n`` particles: few tables serve all."""
    return 64 if n <= 64 else 1 << (n - 1).bit_length()


@functools.cache
def _pair_table(n: int) -> tuple[Indices, Indices]:
    first, second = np.tril_indices(n, -1)
    return first, second


@functools.cache
def _triple_table(n: int) -> tuple[Indices, Indices, Indices, Indices]:
    first, second = _pair_table(n)
    # For each largest index i, the pairs (j, k) below it are the first i (i-1) / 2 of all pairs.
    counts = [i * (i - 1) // 2 for i in range(n)]
    third = np.repeat(np.arange(n), counts)
    across = np.concatenate([np.arange(count) for count in counts])
    base = third * (third - 1) // 2
    return third, base + first[across], base + second[across], across
