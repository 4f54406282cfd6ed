"""Bit operations with additions counted: BOPs as the jet-tagging papers define them.

`bops_cost` is used through the registry `cost.COSTS` and reads facts only; `program_bops` counts a finished program,
with the zeros that its integer weights really have.

Per layer: ``m n ((1 - f_p) b_a b_w + b_a + b_w + log2 n)`` at each output position, where a layer has m output
channels of n inputs each, weights of b_w bits, *input* activations of b_a bits, and a fraction f_p of exact zeros.
Other papers call other things BOPs: see `macs_bops` for ``MACs b_a b_w``. Biases, joins and pools are not counted.
Source: Hawks et al. 2021, "Ps and Qs", eq. (1), after Baskin et al. 2018 (UNIQ).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dyadiq.core.errors import GraphError
from dyadiq.core.facts import NetworkFacts
from dyadiq.core.tables import CostTable, PairCost
from dyadiq.cost.options import candidate_bits
from dyadiq.ir.integer import IntegerProgram, effective_weight

__all__ = ["bops_cost", "layer_bops", "program_bops"]

_FLOAT_BITS = 32


def layer_bops(n: int, m: int, n_positions: int, n_nonzero: float, weight_bits: int, activation_bits: int) -> int:
    """Return ``n_positions (n_nonzero b_a b_w + m n (b_a + b_w + log2 n))``, rounded to the nearest integer.

    Only the logarithm is no integer, so one rounding per layer (half to even) is all there is.

    Args:
        n: Inputs of one dot product.
        m: Output channels.
        n_positions: Output positions.
        n_nonzero: Weights that are not exactly zero, ``(1 - f_p) m n``.
        weight_bits: b_w.
        activation_bits: b_a, of the layer's input.

    Example:
        >>> layer_bops(16, 64, 1, 16 * 64, weight_bits=8, activation_bits=8)
        86016
    """
    products = n_positions * n_nonzero * activation_bits * weight_bits
    additions = n_positions * n * m * (activation_bits + weight_bits)
    return round(products + additions + n_positions * n * m * math.log2(n))


def bops_cost(facts: NetworkFacts, weight_bits: Sequence[int], activation_bits: Sequence[int]) -> CostTable:
    """Return the BOPs of every layer as a cost of its weight and its input activation together.

    Args:
        facts: The network.
        weight_bits: Candidate widths of weights.
        activation_bits: Candidate widths of activations.

    Raises:
        ConfigError: Candidates are empty or out of range.
    """
    options = candidate_bits(facts, weight_bits, activation_bits)
    pairs, reference = [], 0
    for layer in facts.layers:
        nonzero = layer.n_weights - layer.n_zero_weights
        table = {
            (b_w, b_a): layer_bops(layer.n, layer.m, layer.n_positions, nonzero, b_w, b_a)
            for b_w in options[layer.weight]
            for b_a in options[layer.input]
        }
        pairs.append(PairCost(layer.weight, layer.input, table))
        reference += layer_bops(layer.n, layer.m, layer.n_positions, nonzero, _FLOAT_BITS, _FLOAT_BITS)
    return CostTable(
        metric="bops",
        unit="bop",
        kind="exact",
        definition="sum over layers and output positions of m n ((1 - f_p) b_a b_w + b_a + b_w + log2 n), "
        "b_a of the layer's input, rounded to an integer per layer; 100 % = 32-bit weights and activations",
        unary={},
        pairs=tuple(pairs),
        reference=reference,
    )


def program_bops(program: IntegerProgram, *, dense: bool = False) -> int:
    """Return the BOPs of an integer program: ``f_p`` is the share of its weights whose integer is exactly zero.

    Weights become zero by pruning, and by rounding: with few bits many that were small. `bops_cost` cannot know the
    second kind before weights are quantized, so a plan's ``bops`` are an upper bound of its program's.

    Args:
        program: From `lower` or a file.
        dense: Count zero weights as well: what a plan's ``bops`` say.

    Raises:
        GraphError: A layer reads codes of unknown width.

    Example:
        >>> from dyadiq.core.qtype import QType
        >>> from dyadiq.ir.graph import Graph, Node, TensorInfo
        >>> tensors = {"x": TensorInfo((2,), QType(8, True)), "y": TensorInfo((2,), QType(18, True))}
        >>> params = {"w": np.array([[1, 0], [3, -2]]), "b": np.zeros(2, np.int64)}
        >>> node = Node("fc", "linear", ("x", "w", "b"), "y")
        >>> program = IntegerProgram(Graph("integer", ("x",), ("y",), (node,), tensors, params, {"w": QType(4, True)}))
        >>> program_bops(program), program_bops(program, dense=True)
        (148, 180)
    """
    graph, total = program.graph, 0
    for node in graph.nodes:
        if node.op not in ("conv2d", "linear"):
            continue
        weight, source = effective_weight(graph, node), graph.tensors[node.inputs[0]].qtype
        if source is None:
            raise GraphError(f"{node.name}: its input {node.inputs[0]!r} has no code type; quantize inputs first.")
        m = weight.shape[0]
        n_nonzero = weight.size if dense else int(np.count_nonzero(weight))
        n_positions = math.prod(graph.tensors[node.output].shape[1:])
        bits = graph.param_types[node.inputs[1]].bits
        total += layer_bops(weight.size // m, m, n_positions, n_nonzero, bits, source.bits)
    return total
