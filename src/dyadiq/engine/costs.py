"""Costs of networks on this machine's engine by metric, as `allocate` takes them: one file a cost, one line here.

Used by the pipeline and the command line, beside `cost.COSTS` and `fpga.costs.HARDWARE_COSTS`. They are measured, so
they belong to the machine; a percentage of such a budget has no meaning and is refused.
To add one: write a file like `latency_cost`, add its line to `ENGINE_COSTS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from dyadiq.core.facts import NetworkFacts
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.core.tables import CostTable
from dyadiq.engine.latency_cost import latency_cost
from dyadiq.ir.graph import Graph

__all__ = ["ENGINE_COSTS", "EngineCost"]


class EngineCost(Protocol):
    """A function from a float graph and candidate widths to a cost table."""

    def __call__(
        self,
        graph: Graph,
        facts: NetworkFacts,
        weight_bits: Sequence[int],
        activation_bits: Sequence[int],
        *,
        algorithms: str = ...,
        threads: int = ...,
        cache: Path | None = ...,
        progress: Progress = NO_PROGRESS,
    ) -> CostTable:
        """Return the table."""


ENGINE_COSTS: Mapping[str, EngineCost] = MappingProxyType({"latency_us": latency_cost})
