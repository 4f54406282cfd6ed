"""Bit operations of the products alone: ``MACs b_a b_w``.

Used through the registry `cost.COSTS`; reads facts only.

This is what HAWQ-V3 and many later papers call BOPs (some divide by 1024, some by 64). qonnx's inference cost is the
same sum with zero weights left out; here every weight counts. For the definition with additions see `bops`.
"""

from __future__ import annotations

from collections.abc import Sequence

from dyadiq.core.facts import NetworkFacts
from dyadiq.core.tables import CostTable, PairCost
from dyadiq.cost.options import candidate_bits

__all__ = ["macs_bops_cost"]

_FLOAT_BITS = 32


def macs_bops_cost(facts: NetworkFacts, weight_bits: Sequence[int], activation_bits: Sequence[int]) -> CostTable:
    """Return ``MACs b_a b_w`` of every layer as a cost of its weight and its input activation together.

    Args:
        facts: The network.
        weight_bits: Candidate widths of weights.
        activation_bits: Candidate widths of activations.

    Raises:
        ConfigError: Candidates are empty or out of range.
    """
    options = candidate_bits(facts, weight_bits, activation_bits)
    pairs = tuple(
        PairCost(
            layer.weight,
            layer.input,
            {(b_w, b_a): layer.n_macs * b_w * b_a for b_w in options[layer.weight] for b_a in options[layer.input]},
        )
        for layer in facts.layers
    )
    return CostTable(
        metric="macs_bops",
        unit="bop",
        kind="exact",
        definition="sum over layers of MACs b_a b_w, b_a of the layer's input, zero weights included; "
        "100 % = 32-bit weights and activations",
        unary={},
        pairs=pairs,
        reference=sum(layer.n_macs for layer in facts.layers) * _FLOAT_BITS * _FLOAT_BITS,
    )
