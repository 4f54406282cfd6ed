"""A program of the right structure before anything is calibrated: for sizes that do not depend on bits.

Used by the public face to fill `NetworkFacts.fixed_size_bytes`. No torch.
"""

from __future__ import annotations

import math

import numpy as np

from dyadiq.core.affine import check_group_size
from dyadiq.core.facts import QuantConfig
from dyadiq.core.qtype import QType
from dyadiq.ir.graph import Graph
from dyadiq.ir.integer import NARROW_BIAS, IntegerProgram
from dyadiq.ir.lower import lower_graph
from dyadiq.ir.quantized import ActivationQuant, WeightQuant
from dyadiq.ir.sites import find_sites

__all__ = ["probe_program"]


def probe_program(graph: Graph, config: QuantConfig) -> IntegerProgram:
    """Return a program of the right structure with meaningless values: all codes 0, all scales 1.

    The structure of a program does not depend on bits or data, so whatever a probe says of it (stored
    constants, file overhead) holds for every plan of this graph and config.

    Raises:
        GraphError: The graph is not canonical.
        QuantError: A group size that does not divide a channel.
    """
    weights: dict[str, WeightQuant] = {}
    for node in graph.nodes:
        if node.op not in ("conv2d", "linear"):
            continue
        shape = graph.params[node.inputs[1]].shape
        n_scales = 1 if config.weight.granularity == "tensor" else shape[0]
        factor = None
        if config.weight.group_size is not None:
            n_weights = math.prod(shape[1:])
            check_group_size(config.weight.group_size, n_weights, name=node.inputs[1])
            factor = np.ones((shape[0], n_weights // config.weight.group_size), dtype=np.int64)
        weights[node.inputs[1]] = WeightQuant(
            np.zeros(shape, dtype=np.int64),
            QType(8, signed=config.weight.scheme == "symmetric" or bool(config.weight.signed)),
            np.ones(n_scales),
            np.full(n_scales, int(config.weight.scheme == "asymmetric"), dtype=np.int64),
            factor,
        )
    symmetric = config.activation.scheme == "symmetric"
    act = ActivationQuant(QType(8, signed=False), 1.0, 0, symmetric)
    blank = {n: np.zeros_like(v) for n, v in graph.params.items()}
    activations = dict.fromkeys(find_sites(graph).decisions, act)
    # What is left of the config is the type of biases; a blank program stays below any product that matters there.
    narrow = config.product_bits is not None and config.product_bits < NARROW_BIAS.bits
    blank_config = QuantConfig(product_bits=NARROW_BIAS.bits - 1 if narrow else None)
    return lower_graph(graph.replace(params=blank), weights, activations, blank_config)
