"""Flip-flops of every layer at every pair of widths: a cost that `allocate` takes.

Used through `costs.HARDWARE_COSTS`. Registers stand every ``depth`` levels of adders, wherever `pipeline` finds the
fewest bits alive; where that is, is known only of the whole circuit. So a layer is counted as

    positions * (levels / depth) * mean of the cheaper half of the bits alive after its levels

with its clipped output, which lives one level, at ``bits / depth``; inputs and outputs are registered besides.

Kind ``estimated``, as `lut_cost`, and coarser: measured against programs calibrated but not trained, up to 31 % too low
and 13 % too high (75 % too high with nine of ten weights pruned); half of it after training.
Where branches are unequally deep, what waits for the longer one is not counted.
A finished program is counted by `estimate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dyadiq.core.facts import NetworkFacts
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.core.tables import CostTable, PairCost
from dyadiq.cost.options import candidate_bits
from dyadiq.fpga.circuit_config import DEFAULT_CIRCUIT, CircuitConfig
from dyadiq.fpga.layer_trace import LayerTrace, joins, traced_layers
from dyadiq.ir.graph import Graph

__all__ = ["ff_cost"]


def ff_cost(
    graph: Graph,
    facts: NetworkFacts,
    weight_bits: Sequence[int],
    activation_bits: Sequence[int],
    *,
    config: CircuitConfig = DEFAULT_CIRCUIT,
    cache: Path | None = None,
    progress: Progress = NO_PROGRESS,
) -> CostTable:
    """Return the flip-flops of every layer by the widths of its weight and of its input, of all else by one width.

    Args:
        graph: Canonical float graph of the network.
        facts: Its facts, with formats.
        weight_bits: Candidate widths of weights.
        activation_bits: Candidate widths of activations.
        config: Of the circuit; ``depth`` and ``max_luts`` matter.
        cache: File of traces.
        progress: Told about traced entries.

    Raises:
        ConfigError: Candidates are empty or out of range.
        MissingDependencyError: da4ml is not installed.
        ProofError: A weight has more than 24 bits.
        StorageError: The cache cannot be written.
        TooLargeError: The network is too large to unroll at any candidate width.
    """
    options = candidate_bits(facts, weight_bits, activation_bits)
    layers = traced_layers(
        graph, facts, weight_bits, activation_bits, cache=cache, max_luts=config.max_luts, progress=progress
    )
    outputs = {layer.output for layer in facts.layers}
    unary = {}
    for decision in facts.decisions:
        if decision.kind == "activation":
            at_port = decision.name in graph.inputs or decision.fixed_bits is not None
            lives = 1.0 if at_port else 1.0 / config.depth if decision.name in outputs else 0.0
            unary[decision.name] = {b: round(b * decision.n_elements * lives) for b in options[decision.name]}
    for join in joins(graph):
        levels = (join.n_operands - 1).bit_length()
        for bits in unary[join.decision]:
            unary[join.decision][bits] += round(join.n_elements * bits * levels / config.depth)
    return CostTable(
        metric="ff",
        unit="FF",
        kind="estimated",
        definition=f"flip-flops of the pipeline with registers every {config.depth} adders: per layer, levels / depth "
        "times the mean of the cheaper half of the bits alive after its levels; input and output registers",
        unary=unary,
        pairs=tuple(
            PairCost(
                layer.facts.weight,
                layer.facts.input,
                {
                    pair: round(_registers(trace, config.depth) * layer.facts.n_positions)
                    for pair, trace in layer.traces.items()
                },
            )
            for layer in layers
        ),
    )


def _registers(trace: LayerTrace, depth: int) -> float:
    cheaper = sorted(trace.alive)[: (len(trace.alive) + 1) // 2]
    return trace.levels / depth * sum(cheaper) / len(cheaper) if cheaper else 0.0
