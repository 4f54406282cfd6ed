"""What a report shows, read out of results. Computes nothing that a result does not already say.

Made by the pipeline (or a user) from a run's artifacts; read by `report.html` and `report.plots`.
Imports plain data only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dyadiq.core.plan import BitPlan, ParetoPoint
from dyadiq.core.tables import SensitivityTable
from dyadiq.ir.integer import IntegerProgram
from dyadiq.zero_shot.distilled import Distilled

__all__ = ["LayerRow", "ReportData", "StripCell"]


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One line of the layer table."""

    name: str
    op: str
    shape: str
    n_weights: int
    n_macs: int
    weight_bits: int
    input_bits: int
    output_bits: int
    accumulator_bits: int | None
    loss: float | None
    loss_stderr: float | None


@dataclass(frozen=True, slots=True)
class StripCell:
    """One decision on the strip of bits along the network."""

    name: str
    kind: str
    bits: int
    n_elements: int


@dataclass(frozen=True)
class ReportData:
    """Everything the report reads.

    Attributes:
        summary: The document of schema ``dyadiq.run/1``.
        plan: The chosen bits with their certificate.
        table: The sensitivities the choice was made from; None if the plan was uniform.
        program: The integer program, for accumulator widths.
        command: The command line that makes this report again.
        notes: Anything degraded, skipped or assumed on the way.
        distilled: What stood in for training samples; None if nothing did.
    """

    summary: Mapping[str, Any]
    plan: BitPlan
    table: SensitivityTable | None
    program: IntegerProgram
    command: str
    notes: tuple[str, ...] = field(default=())
    distilled: Distilled | None = None

    def verdict(self) -> str:
        """Return the result in one sentence."""
        s = self.summary
        accuracy = s["accuracy"]
        drop = 100 * (accuracy["integer"] - accuracy["float"])
        exact = [v for v in s["verify"].values() if v["exact"] and not v.get("missing")]
        mismatches = sum(v["mismatches"] for v in exact)
        unproven = [name for name, v in s["verify"].items() if v["exact"] and not v["proven"]]
        if not exact:
            checked = "was compared with no other executor"
        elif mismatches:
            checked = f"differed in {mismatches:,} integers between executors"
        else:
            checked = f"gave the same integers in all {len(exact)} exact executors"
        if unproven:
            checked += f", not proven for {', '.join(unproven)}"
        return (
            f"The integer program classifies {100 * accuracy['integer']:.2f} % of {s['n_eval']:,} test samples "
            f"({drop:+.2f} points against float), takes {s['size_bytes']:,} bytes "
            f"({100 * s['size_bytes'] / s['size_float_bytes']:.1f} % of float32), and {checked}."
        )

    def strip(self) -> list[StripCell]:
        """Return every decision in order of execution with its bits."""
        if self.table is None:
            return [StripCell(n, "", b, 0) for n, b in self.plan.bits.items()]
        bits = self.plan.bits
        return [StripCell(d.name, d.kind, bits[d.name], d.n_elements) for d in self.table.facts.decisions]

    def layers(self) -> list[LayerRow]:
        """Return the layer table."""
        if self.table is None:
            return []
        bits, rows = self.plan.bits, []
        accumulators = {n.name: self.program.graph.tensors[n.output].qtype for n in self.program.graph.nodes}
        for layer in self.table.facts.layers:
            accumulator = accumulators.get(layer.name)
            cell = self.table.entries.get(layer.weight, {}).get(bits[layer.weight])
            shape = "×".join(map(str, self.table.facts.decision(layer.weight).shape))
            rows.append(
                LayerRow(
                    layer.name,
                    layer.op,
                    shape,
                    layer.n_weights,
                    layer.n_macs,
                    bits[layer.weight],
                    bits[layer.input],
                    bits[layer.output],
                    accumulator.bits if accumulator else None,
                    cell.value if cell else None,
                    cell.stderr if cell else None,
                )
            )
        return rows

    def points(self) -> list[ParetoPoint]:
        """Return the points of the Pareto plot: the front, uniform plans, and the chosen plan."""
        return list(self.plan.front)
