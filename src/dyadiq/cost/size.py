"""Bytes of the packed file (`dyq`), as written on disk.

Used through the registry `cost.COSTS`; reads facts and the container's layout rule, writes nothing.

A weight of N elements at b bits takes its packed payload, padded to the container's alignment; everything that no
choice changes (header, records, scales, biases, the program) is ``facts.fixed_size_bytes``.
"""

from __future__ import annotations

from collections.abc import Sequence

from dyadiq.core.container import tensor_payload_bytes
from dyadiq.core.facts import NetworkFacts
from dyadiq.core.tables import CostTable
from dyadiq.cost.options import candidate_bits

__all__ = ["size_cost"]


def size_cost(facts: NetworkFacts, weight_bits: Sequence[int], activation_bits: Sequence[int] = (8,)) -> CostTable:
    """Return the packed bytes of every weight decision; a weight that layers share is stored once.

    Args:
        facts: The network; its ``fixed_size_bytes`` is the constant part.
        weight_bits: Candidate widths of weights.
        activation_bits: Candidate widths of activations; they take no space in the file.

    Raises:
        ConfigError: Candidates are empty or out of range.
    """
    options = candidate_bits(facts, weight_bits, activation_bits)
    return CostTable(
        metric="size",
        unit="byte",
        kind="exact",
        definition="bytes of the dyq file: each weight packed at its width and padded to 64 bytes, plus scales, "
        "biases, program and header; 100 % = 4 bytes for every float parameter, batch norm folded",
        unary={
            d.name: {b: tensor_payload_bytes(d.n_elements, b) for b in options[d.name]}
            for d in facts.decisions
            if d.kind == "weight"
        },
        fixed=facts.fixed_size_bytes,
        reference=facts.float_size_bytes,
    )
