"""Bit operations with additions counted: BOPs as the jet-tagging papers define them.

Used through the registry `cost.COSTS`; reads facts only.

Per layer: ``m n ((1 - f_p) b_a b_w + b_a + b_w + log2 n)`` at each output position, where a layer has m output
channels of n inputs each, weights of b_w bits, *input* activations of b_a bits, and a fraction f_p of exact zeros.
Other papers call other things BOPs: see `macs_bops` for ``MACs b_a b_w``. Biases, joins and pools are not counted.
Source: Hawks et al. 2021, "Ps and Qs", eq. (1), after Baskin et al. 2018 (UNIQ).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dyadiq.core.facts import NetworkFacts
from dyadiq.core.tables import CostTable, PairCost
from dyadiq.cost.options import candidate_bits

__all__ = ["bops_cost", "layer_bops"]

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
