"""From a canonical float graph to the numbers that allocation needs: decisions and layer shapes.

Used by analyze, cost, allocate and quantize, so that all of them name the same tensors.
Reads a Graph; knows nothing of bits that are still to be chosen, and no torch.

Order of decisions: network inputs first, then in execution order each layer's weight and the activation it ends in,
joins (add, concat) and pools. Which activations are decisions is decided in `ir.sites`.
"""

from __future__ import annotations

import math

import numpy as np

from dyadiq.core.errors import GraphError, QuantError
from dyadiq.core.facts import Decision, LayerFacts, NetworkFacts, QuantConfig
from dyadiq.ir.graph import Graph, Node
from dyadiq.ir.packed import packed_size_parts
from dyadiq.ir.probe import probe_program
from dyadiq.ir.residuals import check_separated, find_streams
from dyadiq.ir.sites import Sites, find_clipped, find_looked_up, find_sites

__all__ = ["MAC_OPS", "network_facts"]

MAC_OPS = ("conv2d", "linear")
_BYTES_PER_FLOAT = 4


def network_facts(
    graph: Graph, config: QuantConfig | None = None, *, fixed_size_bytes: int | None = None
) -> NetworkFacts:
    """Return the decisions and layers of a canonical float graph.

    A weight that two nodes share is one decision with two layers; an activation with several consumers is one
    decision. The output of a layer whose accumulator goes straight into a join is the join's decision.

    Args:
        graph: Float dialect, batch norm folded (`ir.passes.canonicalize`).
        config: Formats without bits; ``input_bits``, ``output_bits`` and ``residual_bits`` become fixed widths.
        fixed_size_bytes: Bytes of the packed file that no choice changes (header, scales, biases, program); None:
            found by lowering a blank program of the same structure.

    Returns:
        The facts. ``float_size_bytes`` counts 4 bytes for every parameter of the canonical graph, so batch norm
        parameters are already folded into weights and biases.

    Raises:
        GraphError: Integer dialect, unfolded batch norm, or a layer whose weight is no parameter.
        ConfigError: ``residual_bits`` is given and layers read what adds read.
        QuantError: The config's group size does not divide the fan-in of every layer (all such layers are listed), or
            the fixed width of an input or output is one that the tensor cannot have.

    Example:
        >>> from dyadiq.ir.graph import TensorInfo
        >>> graph = Graph(
        ...     "float", ("x",), ("fc",), (Node("fc", "linear", ("x", "fc.weight"), "fc"),),
        ...     {"x": TensorInfo((2,)), "fc": TensorInfo((3,))}, {"fc.weight": np.ones((3, 2), np.float32)},
        ... )
        >>> facts = network_facts(graph)
        >>> [(d.name, d.fixed_bits) for d in facts.decisions], facts.layers[0].n_macs, facts.float_size_bytes
        ([('x', 8), ('fc.weight', None), ('fc', 16)], 6, 24)
    """
    if graph.dialect != "float":
        raise GraphError(f"network facts are read from a float graph, got the {graph.dialect} dialect.")
    config = QuantConfig() if config is None else config
    sites = find_sites(graph)
    _check_group_size(graph, config)
    clipped, looked_up = find_clipped(graph, sites), find_looked_up(graph, sites)
    streams: frozenset[str] = frozenset()
    if config.residual_bits is not None:
        check_separated(graph)
        streams = find_streams(graph, sites)

    def activation(name: str, fixed_bits: int | None) -> Decision:
        shape = graph.tensors[name].shape
        found = Decision(
            name, "activation", shape, fixed_bits, name in sites.nonnegative, name in clipped, name in looked_up
        )
        why = "" if fixed_bits is None else found.why_not(config.activation.with_bits(fixed_bits))
        if why:
            key = "input_bits" if name in sites.inputs else "output_bits"
            raise QuantError(f"{name}: {key} fixes its width at {fixed_bits} bits, but {why}")
        return found

    decisions = {name: activation(name, config.input_bits) for name in graph.inputs}
    layers = []
    activations = set(sites.decisions)
    for node in graph.nodes:
        if node.op in MAC_OPS:
            layer = _layer(graph, node, sites)
            layers.append(layer)
            decisions.setdefault(layer.weight, Decision(layer.weight, "weight", graph.params[layer.weight].shape))
        if node.output in activations:
            fixed = config.residual_bits if node.output in streams else None
            fixed = config.output_bits if node.output in sites.outputs else fixed
            decisions[node.output] = activation(node.output, fixed)
    if fixed_size_bytes is None:
        fixed_size_bytes, _ = packed_size_parts(probe_program(graph, config))
    n_parameters = sum(int(p.size) for p in graph.params.values())
    return NetworkFacts(
        decisions=tuple(decisions.values()),
        layers=tuple(layers),
        fixed_size_bytes=fixed_size_bytes,
        float_size_bytes=_BYTES_PER_FLOAT * n_parameters,
        config=config,
    )


def _check_group_size(graph: Graph, config: QuantConfig) -> None:
    """Refuse a group size that some layer cannot have, before any work is done.

    Raises:
        QuantError: It does not divide the fan-in of a layer; lists them all and the sizes that every layer can have.
    """
    size = config.weight.group_size
    if size is None:
        return
    weights = dict.fromkeys(n.inputs[1] for n in graph.nodes if n.op in MAC_OPS and n.inputs[1] in graph.params)
    fan_in = {name: math.prod(graph.params[name].shape[1:]) for name in weights}
    wrong = [f"{name} ({n})" for name, n in fan_in.items() if n % size]
    if wrong:
        shared = math.gcd(*fan_in.values())
        legal = ", ".join(str(d) for d in range(1, shared + 1) if shared % d == 0)
        raise QuantError(
            f"group_size {size} must divide the weights of an output channel in every layer; it does not in "
            f"{', '.join(wrong)}. Sizes that all layers can have: {legal}; or use granularity 'channel'."
        )


def _layer(graph: Graph, node: Node, sites: Sites) -> LayerFacts:
    weight_name = node.inputs[1]
    if weight_name not in graph.params:
        raise GraphError(
            f"{node.name}: the weight of a {node.op} must be a parameter, got the activation {weight_name!r}. "
            "Products of two activations are not supported."
        )
    weight = graph.params[weight_name]
    if node.output in sites.wide:
        (join,) = graph.consumers(node.output)
        output = sites.decision_of[join.output]
    else:
        output = sites.decision_of[node.output]
    return LayerFacts(
        name=node.name,
        op=node.op,
        weight=weight_name,
        input=sites.decision_of[node.inputs[0]],
        output=output,
        n=math.prod(weight.shape[1:]),
        m=weight.shape[0],
        n_positions=math.prod(graph.tensors[node.output].shape[1:]),
        n_zero_weights=int(np.count_nonzero(weight == 0)),
    )
