"""Nanoseconds from input to output, by layer and widths: a cost that `allocate` takes.

Used through `costs.HARDWARE_COSTS`. With registers every ``d`` adders and a clock period ``t`` that is assumed, a
circuit of ``L`` adders in a row takes ``(ceil(L / d) + 1) t`` (`pipeline`), at most ``L t / d + (2 - 1 / d) t``.
The first term is counted per layer, its levels of adders with bias and clip, rounded up to whole ns; the second is
fixed.

Where a network branches, the levels of all branches are added, so that the sum is above the longest path, never below:
an upper bound for the weights that were traced. Kind ``modelled``: no tool timed it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from dyadiq.core.facts import NetworkFacts
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.core.tables import CostTable, PairCost
from dyadiq.cost.options import candidate_bits
from dyadiq.fpga.circuit_config import DEFAULT_CIRCUIT, CircuitConfig
from dyadiq.fpga.layer_trace import joins, multiplier_digits, traced_layers
from dyadiq.ir.graph import Graph

__all__ = ["latency_cost"]

_CLIP_LEVELS = 1


def latency_cost(
    graph: Graph,
    facts: NetworkFacts,
    weight_bits: Sequence[int],
    activation_bits: Sequence[int],
    *,
    config: CircuitConfig = DEFAULT_CIRCUIT,
    cache: Path | None = None,
    progress: Progress = NO_PROGRESS,
) -> CostTable:
    """Return the nanoseconds of every layer by the widths of its weight and of its input.

    Args:
        graph: Canonical float graph of the network.
        facts: Its facts, with formats.
        weight_bits: Candidate widths of weights.
        activation_bits: Candidate widths of activations.
        config: Of the circuit; all of it matters.
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

    def nanoseconds(levels: int) -> int:
        return math.ceil(levels * config.period_ns / config.depth)

    unary: dict[str, dict[int, int]] = {}
    for join in joins(graph):
        levels = (join.n_operands - 1).bit_length()
        if join.op != "max_pool2d":  # rescaled and clipped
            levels += multiplier_digits(facts).bit_length() + 1 + _CLIP_LEVELS
        row = unary.setdefault(join.decision, dict.fromkeys(options[join.decision], 0))
        for bits in row:
            row[bits] += nanoseconds(levels)
    return CostTable(
        metric="latency_ns",
        unit="ns",
        kind="modelled",
        definition=f"adders in a row of all layers, branches added, / {config.depth} a cycle of {config.period_ns:g} "
        f"ns ({config.device}, an assumed clock), plus input and output registers and an unfilled stage: an upper "
        "bound",
        unary=unary,
        pairs=tuple(
            PairCost(
                layer.facts.weight,
                layer.facts.input,
                {pair: nanoseconds(trace.levels + _CLIP_LEVELS) for pair, trace in layer.traces.items()},
            )
            for layer in layers
        ),
        fixed=math.ceil((2.0 - 1.0 / config.depth) * config.period_ns),
    )
