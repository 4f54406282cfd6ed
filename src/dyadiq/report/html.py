"""Renders a ReportData to one offline HTML file: inline SVG, no scripts, light and dark.

Used by the pipeline and `dyadiq report`. Template: `report/template.html.j2` beside this file.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from dyadiq.core.artifact import atomic_write_text
from dyadiq.report.model import ReportData
from dyadiq.report.pictures import image_grid
from dyadiq.report.plots import pareto_svg, sensitivity_svg, stability_svg
from dyadiq.report.spectra import spectra_svg

__all__ = ["render_report", "write_report"]


def render_report(data: ReportData) -> str:
    """Return the report as HTML text; the same data give the same bytes."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["thousands"] = lambda value: f"{value:,}"
    environment.filters["percent"] = lambda value: f"{100 * value:.2f} %"
    environment.filters["brief"] = lambda value: "–" if value is None else f"{value:.2g}"
    environment.filters["significant"] = lambda value: "–" if value is None else f"{value:.3g}"
    template = environment.from_string(
        resources.files("dyadiq.report").joinpath("template.html.j2").read_text(encoding="utf-8")
    )
    budget = data.plan.budgets[0] if data.plan.budgets else None
    front = None
    if data.plan.front and budget is not None:
        front = pareto_svg(data.points(), data.plan, budget.metric, budget.unit)
    return template.render(
        data=data,
        summary=data.summary,
        plan=data.plan,
        table=data.table,
        certificate=data.plan.certificate,
        budget=budget,
        pareto=front,
        front_gap=max((p.gap for p in data.plan.front), default=0.0),
        stability=stability_svg(data.plan) if data.plan.stability else None,
        sensitivities=sensitivity_svg(data.table, data.plan) if data.table else None,
        spectra=spectra_svg(data.table.spectra) if data.table and data.table.spectra else None,
        distilled=None if data.distilled is None else image_grid(data.distilled.images),
        widths=sorted(set(data.plan.bits.values())),
    )


def write_report(data: ReportData, path: Path) -> Path:
    """Write the report atomically and return its path.

    Raises:
        StorageError: The file cannot be written.
    """
    atomic_write_text(path, render_report(data))
    return path
