"""A program of a float network at any widths, without calibration: to learn how long it takes, not what it answers.

Used by `latency_cost`. Weights are the network's own, quantized to the nearest code, since zeros and large sums decide
which kernels run. Activations are taken to fill -4 to 4 (0 to 4 behind a relu): kernels take as long on any others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from dyadiq.core.affine import fit_affine, quantize
from dyadiq.core.facts import Decision, NetworkFacts
from dyadiq.ir.graph import Graph
from dyadiq.ir.integer import IntegerProgram
from dyadiq.ir.lower import lower_graph
from dyadiq.ir.quantized import ActivationQuant, WeightQuant

__all__ = ["typical_program"]

_REACH = 4.0


def typical_program(graph: Graph, facts: NetworkFacts, bits: Mapping[str, int]) -> IntegerProgram:
    """Return the program of a canonical float graph at these widths, its ranges assumed.

    Args:
        graph: Canonical float graph of the network.
        facts: Its facts, with formats.
        bits: Width by decision name.

    Raises:
        GraphError: The graph is not canonical.
        QuantError: Weights that are not finite, or biases far larger than they.
        ProofError: No multiplier keeps a product below ``2**product_bits``.
    """
    weights = {d.name: _weight(graph, facts, d, bits[d.name]) for d in facts.decisions if d.kind == "weight"}
    activations = {d.name: _activation(facts, d, bits[d.name]) for d in facts.decisions if d.kind == "activation"}
    return lower_graph(graph, weights, activations, facts.config)


def _weight(graph: Graph, facts: NetworkFacts, decision: Decision, bits: int) -> WeightQuant:
    values = graph.params[decision.name]
    params = fit_affine(values, facts.config.weight.with_bits(bits), name=decision.name)
    codes = quantize(values, params, name=decision.name)
    return WeightQuant(codes, params.qtype, params.scale, params.zero_point, params.group_factor)


def _activation(facts: NetworkFacts, decision: Decision, bits: int) -> ActivationQuant:
    fmt = facts.config.activation.with_bits(bits)
    qtype = fmt.qtype(nonnegative=decision.nonnegative)
    symmetric = fmt.scheme == "symmetric"
    low = 0.0 if decision.nonnegative else -_REACH
    scale = _REACH / max(qtype.qmax, 1) if symmetric else (_REACH - low) / (qtype.qmax - qtype.qmin)
    if fmt.scale == "pow2":
        scale = math.ldexp(1.0, round(math.log2(scale)))
    zero_point = 0 if symmetric else int(np.clip(round(qtype.qmin - low / scale), qtype.qmin, qtype.qmax))
    return ActivationQuant(qtype, scale, zero_point, symmetric)
