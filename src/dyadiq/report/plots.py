"""The report's plots as inline SVG that follows the page's light or dark colours.

Used by `report.html`, and by `report.spectra` for its style. matplotlib draws with placeholder colours, which are
replaced by CSS variables, so that one SVG serves both themes. Output is deterministic: fixed hash salt, no dates, text
kept as text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from dyadiq.core.plan import BitPlan, ParetoPoint
from dyadiq.core.tables import SensitivityTable

__all__ = ["ACCENT", "MUTED", "STYLE", "finish", "pareto_svg", "sensitivity_svg", "stability_svg"]

FG, MUTED, ACCENT, GRID, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {FG: "--fg", MUTED: "--muted", ACCENT: "--accent", GRID: "--grid", SECOND: "--second"}
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "dyadiq",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": FG,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": FG,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def _bits_colour(bits: int) -> str:
    return f"#10{bits:02x}00"


def _legend_of_widths(figure: Any, axes: Any) -> None:
    """Add a legend of labels such as ``4 bit``, by width."""
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: int(labels[i].split()[0]))
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        frameon=False,
        loc="outside upper center",
        fontsize=9,
        ncols=max(1, min(8, len(order))),
    )


def finish(figure: Any, title: str) -> str:
    """Turn a figure into an SVG string with CSS variables for colours and a title for screen readers."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r"#10([0-9a-f]{2})00", lambda m: f"var(--b{int(m[1], 16)})", svg)
    svg = re.sub(r' width="[0-9.]+pt"', ' width="100%"', svg, count=1)
    svg = re.sub(r' height="[0-9.]+pt"', "", svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # The id keeps the clip paths of several figures on one page apart.
    prefix = re.sub(r"[^a-z]", "", title.lower())[:12]
    svg = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1{prefix}-", svg)
    return svg.replace(">", f' role="img" aria-label="{title}"><title>{title}</title>', 1)


def pareto_svg(points: Sequence[ParetoPoint], chosen: BitPlan, metric: str, unit: str) -> str:
    """Return the Pareto plot: cost against predicted loss, uniform plans and the chosen plan marked."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        axes = figure.add_subplot()
        front = sorted((p for p in points if not p.label), key=lambda p: p.cost)
        uniform = sorted((p for p in points if p.label.startswith("uniform")), key=lambda p: p.cost)
        floor = min((p.objective for p in points if p.objective > 0), default=1e-12)
        axes.set_yscale("log")
        if front:
            axes.plot(
                [p.cost for p in front],
                [max(p.objective, floor / 2) for p in front],
                "-o",
                color=MUTED,
                markersize=3,
                linewidth=1,
                label="certified Pareto front",
            )
        if uniform:
            axes.plot(
                [p.cost for p in uniform],
                [max(p.objective, floor / 2) for p in uniform],
                "s",
                color=SECOND,
                markersize=6,
                label="uniform",
            )
            # Where several uniform plans cost the same, only the best is named: labels would cover each other.
            best = {
                cost: min((p for p in uniform if p.cost == cost), key=lambda p: p.objective)
                for cost in {p.cost for p in uniform}
            }
            for p in sorted(best.values(), key=lambda p: p.cost):
                axes.annotate(
                    p.label.removeprefix("uniform").strip(),
                    (p.cost, max(p.objective, floor / 2)),
                    textcoords="offset points",
                    xytext=(7, 4),
                    fontsize=9,
                    color=SECOND,
                )
        if chosen.certificate is not None and metric in chosen.costs:
            axes.plot(
                [chosen.costs[metric]],
                [
                    max(
                        next((p.objective for p in front if p.label == "chosen"), chosen.certificate.objective),
                        floor / 2,
                    )
                ],
                "*",
                color=ACCENT,
                markersize=15,
                label="chosen",
            )
        for budget in chosen.budgets:
            if budget.metric == metric:
                axes.axvline(budget.limit, color=ACCENT, linewidth=1, linestyle="--", label="budget")
        axes.set_xlabel(f"{metric} ({unit})")
        axes.set_ylabel("predicted loss increase")
        axes.grid(visible=True, linewidth=0.5)
        axes.legend(frameon=False, loc="upper right", fontsize=9)
        axes.ticklabel_format(axis="x", style="plain")
        return finish(figure, f"Pareto front of {metric}")


def sensitivity_svg(table: SensitivityTable, plan: BitPlan) -> str:
    """Return one row per decision: loss increase at each width with two standard errors; chosen width ringed."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = [d.name for d in table.facts.decisions if d.name in table.entries]
    bits = plan.bits
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.8 + 0.24 * len(names)), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xscale("log")
        seen: set[int] = set()
        for row, name in enumerate(names):
            for width, cell in sorted(table.entries[name].items()):
                if cell.value <= 0:
                    continue
                low = min(2 * cell.stderr, 0.9 * cell.value)  # a log axis has no place for zero
                axes.errorbar(
                    [cell.value],
                    [row],
                    xerr=[[low], [2 * cell.stderr]],
                    fmt="o",
                    color=_bits_colour(width),
                    markersize=6,
                    capsize=2,
                    linewidth=1,
                    label=None if width in seen else f"{width} bit",
                )
                seen.add(width)
                if bits.get(name) == width:
                    axes.plot([cell.value], [row], "o", markersize=11, markerfacecolor="none", color=ACCENT)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel(f"loss increase of this tensor alone ({table.unit}); bars: two standard errors")
        axes.grid(visible=True, axis="x", linewidth=0.5)
        _legend_of_widths(figure, axes)
        return finish(figure, "Sensitivities")


def stability_svg(plan: BitPlan) -> str:
    """Return one bar per free decision, split by the probability of each width; the chosen width is outlined.

    The plan must have a stability.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    assert plan.stability is not None  # the caller asks only then
    bits = plan.bits
    rows = {n: row for n, row in plan.stability.probabilities.items() if len(row) > 1 and n in bits}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.9 + 0.24 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        seen: set[int] = set()
        for y, (name, row) in enumerate(rows.items()):
            left = 0.0
            for width, share in sorted(row.items()):
                if share > 0:
                    label = None if width in seen else f"{width} bit"
                    axes.barh(y, share, left=left, height=0.7, color=_bits_colour(width), label=label)
                    seen.add(width)
                if bits[name] == width:
                    axes.barh(y, share, left=left, height=0.7, fill=False, edgecolor=ACCENT, linewidth=1.6, zorder=3)
                left += share
        axes.set_yticks(range(len(rows)), list(rows))
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xlabel(f"share of {plan.stability.n_replicas:,} redrawn tables")
        _legend_of_widths(figure, axes)
        return finish(figure, "How sure each width is")
