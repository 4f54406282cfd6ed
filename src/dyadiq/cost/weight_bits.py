"""Bits of all weights together: the average width, without its division.

Used through the registry `cost.COSTS`; reads facts only. A budget of ``"12.5%"`` means 4 bits on average, because
100 % is 32 bits for every weight. Padding and metadata are not counted; `size` counts them.
"""

from __future__ import annotations

from collections.abc import Sequence

from dyadiq.core.facts import NetworkFacts
from dyadiq.core.tables import CostTable
from dyadiq.cost.options import candidate_bits

__all__ = ["weight_bits_cost"]

_FLOAT_BITS = 32


def weight_bits_cost(facts: NetworkFacts, weight_bits: Sequence[int], activation_bits: Sequence[int]) -> CostTable:
    """Return ``elements * bits`` of every weight decision.

    Args:
        facts: The network.
        weight_bits: Candidate widths of weights.
        activation_bits: Candidate widths of activations; they do not count.

    Raises:
        ConfigError: Candidates are empty or out of range.
    """
    options = candidate_bits(facts, weight_bits, activation_bits)
    weights = [d for d in facts.decisions if d.kind == "weight"]
    return CostTable(
        metric="weight_bits",
        unit="bit",
        kind="exact",
        definition="sum over weights of elements times bits, biases and metadata not counted; 100 % = 32 bits each",
        unary={d.name: {b: d.n_elements * b for b in options[d.name]} for d in weights},
        reference=sum(d.n_elements for d in weights) * _FLOAT_BITS,
    )
