"""Costs of circuits by metric, as `allocate` takes them: one file a cost, one line here.

Used by the pipeline and the command line, beside `cost.COSTS`, which need no weights and no da4ml:

    allocate(table, {"lut": 8000}, costs=hardware_cost_tables(graph, table.facts, bits, activation_bits, ["lut"]))

A percentage of such a budget has no meaning, since the float32 network is no circuit: it is refused.
To add one: write a file like `lut_cost`, add its line to `HARDWARE_COSTS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from dyadiq.core.errors import UnknownNameError
from dyadiq.core.facts import NetworkFacts
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.core.tables import CostTable
from dyadiq.fpga.circuit_config import DEFAULT_CIRCUIT, CircuitConfig
from dyadiq.fpga.ff_cost import ff_cost
from dyadiq.fpga.latency_cost import latency_cost
from dyadiq.fpga.lut_cost import lut_cost
from dyadiq.ir.graph import Graph

__all__ = ["HARDWARE_COSTS", "HardwareCost", "hardware_cost_tables"]


class HardwareCost(Protocol):
    """A function from a float graph and candidate widths to a cost table."""

    def __call__(
        self,
        graph: Graph,
        facts: NetworkFacts,
        weight_bits: Sequence[int],
        activation_bits: Sequence[int],
        *,
        config: CircuitConfig = ...,
        cache: Path | None = ...,
        progress: Progress = ...,
    ) -> CostTable:
        """Return the table."""


HARDWARE_COSTS: Mapping[str, HardwareCost] = MappingProxyType(
    {
        "lut": lut_cost,
        "ff": ff_cost,
        "latency_ns": latency_cost,
    }
)


def hardware_cost_tables(
    graph: Graph,
    facts: NetworkFacts,
    weight_bits: Sequence[int],
    activation_bits: Sequence[int],
    metrics: Iterable[str] | None = None,
    *,
    config: CircuitConfig = DEFAULT_CIRCUIT,
    cache: Path | None = None,
    progress: Progress = NO_PROGRESS,
) -> dict[str, CostTable]:
    """Return cost tables by metric name; with a cache, layers are traced once for all of them.

    Args:
        graph: Canonical float graph of the network.
        facts: Its facts, with formats.
        weight_bits: Candidate widths of weights.
        activation_bits: Candidate widths of activations.
        metrics: Names in `HARDWARE_COSTS`; None means all of them.
        config: Of the circuit.
        cache: File of traces; made if missing.
        progress: Told about traced entries.

    Raises:
        UnknownNameError: A metric is not registered.
        ConfigError: Candidates are empty or out of range.
        MissingDependencyError: da4ml is not installed.
        ProofError: A weight has more than 24 bits.
        StorageError: The cache cannot be written.
        TooLargeError: The network is too large to unroll at any candidate width.

    Example:
        >>> empty = Graph("float", (), (), (), {}, {})
        >>> hardware_cost_tables(empty, NetworkFacts((), ()), [8], [8], ["latency_ns"])["latency_ns"].unit
        'ns'
    """
    names = tuple(HARDWARE_COSTS) if metrics is None else tuple(metrics)
    for name in names:
        if name not in HARDWARE_COSTS:
            raise UnknownNameError("cost metric", name, HARDWARE_COSTS)
    return {
        name: HARDWARE_COSTS[name](
            graph, facts, weight_bits, activation_bits, config=config, cache=cache, progress=progress
        )
        for name in names
    }
