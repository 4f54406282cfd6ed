"""LUTs of every layer at every pair of widths, traced from its real quantized weights: a cost that `allocate` takes.

Used through `costs.HARDWARE_COSTS`. A layer is one output position (`layer_trace`) times the positions; clips take one
LUT for each bit that they leave; an add takes an adder for each further branch and the multipliers of the branches; a
pool its comparators or adders.

Kind ``estimated``: weights are those of the float network, quantized to the nearest code, and training moves them;
activation scales are not known, so multipliers are of the right width but not the right value. What neighbouring
windows of a convolution share is not taken off. Measured: 1 % below to 13 % above programs calibrated but not trained
(62 % above with nine of ten weights pruned, where whole channels vanish), 23 % below a trained one of 23,309 LUTs: fine
for comparing plans, so leave room in a budget, and measure what came out: a finished program is counted by `estimate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dyadiq.core.facts import NetworkFacts
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.core.tables import CostTable, PairCost
from dyadiq.cost.options import candidate_bits
from dyadiq.fpga.circuit_config import DEFAULT_CIRCUIT, CircuitConfig
from dyadiq.fpga.layer_trace import Join, joins, multiplier_digits, traced_layers
from dyadiq.ir.graph import Graph

__all__ = ["lut_cost"]


def lut_cost(
    graph: Graph,
    facts: NetworkFacts,
    weight_bits: Sequence[int],
    activation_bits: Sequence[int],
    *,
    config: CircuitConfig = DEFAULT_CIRCUIT,
    cache: Path | None = None,
    progress: Progress = NO_PROGRESS,
) -> CostTable:
    """Return the LUTs of every layer by the widths of its weight and of its input, of all else by one width.

    Args:
        graph: Canonical float graph of the network.
        facts: Its facts, with formats.
        weight_bits: Candidate widths of weights.
        activation_bits: Candidate widths of activations.
        config: Of the circuit; its ``max_luts`` is the limit of what is traced.
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
    unary: dict[str, dict[int, int]] = {}
    for layer in facts.layers:
        output = facts.decision(layer.output)
        if output.fixed_bits is None:
            unary[layer.output] = {bits: bits * output.n_elements for bits in options[layer.output]}
    for join in joins(graph):
        row = unary.setdefault(join.decision, dict.fromkeys(options[join.decision], 0))
        for bits in row:
            row[bits] += _join_luts(join, bits, multiplier_digits(facts))
    return CostTable(
        metric="lut",
        unit="LUT",
        kind="estimated",
        definition="LUTs of every layer fully unrolled (adder graph of its quantized weights at its input's width, "
        "requantizer, clip), of adds and pools, as Yosys maps them to UltraScale+; no DSPs; sharing between "
        "neighbouring windows not taken off",
        unary=unary,
        pairs=tuple(
            PairCost(
                layer.facts.weight,
                layer.facts.input,
                {pair: trace.lut * layer.facts.n_positions for pair, trace in layer.traces.items()},
            )
            for layer in layers
        ),
    )


def _join_luts(join: Join, bits: int, digits: int) -> int:
    """Return the LUTs of an add or a pool; the sum of an average pool is a few bits wider than its operands."""
    steps = join.n_operands - 1
    if join.op == "max_pool2d":
        return join.n_elements * steps * 2 * bits
    if join.op == "add":
        return join.n_elements * (steps * (bits + 1) + join.n_operands * digits * bits)
    grown = bits + join.n_operands.bit_length() // 2
    return join.n_elements * (steps * grown + digits * grown)
