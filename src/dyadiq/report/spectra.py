"""The report's plot of spectra: one ridge per weight, how many eigenvalues of its curvature lie where.

Used by `report.html` where a table has spectra. Style and finish are those of `plots`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.tables import Spectrum
from dyadiq.report.plots import ACCENT, MUTED, STYLE, finish

__all__ = ["eigenvalues_per_decade", "spectra_svg"]

Floats = NDArray[np.float64]

_DECADES = 8.0
_WIDTH = 0.08
"""Of the bump that a point is drawn as, in decades."""


def eigenvalues_per_decade(spectrum: Spectrum, decades: Floats) -> Floats:
    """Return the density of eigenvalues at powers of ten: how many a decade, each point a Gaussian bump.

    Eigenvalues that are not positive have no place here.

    Example:
        >>> one = Spectrum(np.array([[1.0]]), np.array([[1.0]]), 5)
        >>> grid = np.linspace(-1, 1, 401)
        >>> float(eigenvalues_per_decade(one, grid).sum() * (grid[1] - grid[0])).__round__(6)
        5.0
    """
    seen = (spectrum.points > 0) & (spectrum.weights > 0)
    places, counts = np.log10(spectrum.points[seen]), spectrum.n * spectrum.weights[seen]
    bumps = np.exp(-0.5 * ((decades[:, None] - places) / _WIDTH) ** 2) / (_WIDTH * np.sqrt(2 * np.pi))
    density: Floats = bumps @ counts
    return density


def spectra_svg(spectra: Mapping[str, Spectrum]) -> str:
    """Return one ridge per weight over the eigenvalue, the largest one marked; heights are logarithmic."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    tops = {name: float(found.points[found.weights > 0].max()) for name, found in spectra.items()}
    largest = max(max(tops.values()), 1e-300)
    decades = np.linspace(np.log10(largest) - _DECADES, np.log10(largest) + 0.5, 600)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.0 + 0.32 * len(spectra)), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xscale("log")
        for row, (name, found) in enumerate(spectra.items()):
            height = np.log10(1.0 + eigenvalues_per_decade(found, decades))
            ridge = row - 0.9 * height / max(float(height.max()), 1e-12)
            axes.fill_between(10.0**decades, row, ridge, color=MUTED, alpha=0.35, linewidth=0)
            axes.plot(10.0**decades, ridge, color=MUTED, linewidth=0.8)
            if tops[name] > 0:
                axes.plot([tops[name]], [row], "|", color=ACCENT, markersize=9, markeredgewidth=1.6)
        axes.set_yticks(range(len(spectra)), list(spectra))
        axes.set_ylim(len(spectra) - 0.5, -1.1)
        axes.set_xlim(10.0 ** decades[0], 10.0 ** decades[-1])
        axes.set_xlabel("eigenvalue of the curvature (loss per squared weight)")
        axes.grid(visible=True, axis="x", linewidth=0.5)
        return finish(figure, "Spectra of the curvature")
