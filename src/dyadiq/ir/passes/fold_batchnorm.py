"""Fold batch norm into the layer before it, or the linear after it, or turn it into a 1x1 depthwise convolution.

Eval-mode batch norm is ``y = s * x + t`` per channel with ``s = gamma / sqrt(var + eps)``, ``t = beta - mean * s``
(biased variance, the module's own eps). After a conv2d or linear that nobody else reads:
``weight' = s * weight``, ``bias' = s * bias + t``. On ``[N, C]`` before a linear that alone reads it:
``weight' = weight * diag(s)``, ``bias' = bias + weight t``. Arithmetic in float64, result in the weight's own dtype.
Ranges are chosen after folding, never before. `quant.module` reuses `find_batchnorm_pairs`, to train through the
batch norms before it folds them. Source: Jacob et al. 2018, section 3.2.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import GraphError
from dyadiq.ir.graph import Graph, Node

__all__ = ["convert_batchnorm", "find_batchnorm_pairs", "fold_batchnorm", "fold_batchnorm_forward"]


def find_batchnorm_pairs(graph: Graph) -> list[tuple[Node, Node]]:
    """Return every (layer, batch norm) where the batch norm alone reads the result of a conv2d or linear.

    Example:
        >>> from dyadiq.ir.graph import TensorInfo
        >>> norm = Node("bn", "batch_norm", ("fc", "bn.weight", "bn.bias", "bn.mean", "bn.var"), "bn", {"eps": 0.0})
        >>> nodes = (Node("fc", "linear", ("x", "fc.weight"), "fc"), norm)
        >>> values = {"bn.weight": [1.0], "bn.bias": [5.0], "bn.mean": [1.0], "bn.var": [4.0], "fc.weight": [[3.0]]}
        >>> graph = Graph("float", ("x",), ("bn",), nodes, dict.fromkeys(("x", "fc", "bn"), TensorInfo((1,))),
        ...               {name: np.array(value) for name, value in values.items()})
        >>> [(layer.name, norm.name) for layer, norm in find_batchnorm_pairs(graph)]
        [('fc', 'bn')]
        >>> fold_batchnorm(graph).params
        {'fc.weight': array([[1.5]]), 'fc.bias': array([4.5])}
    """
    pairs = []
    for node in graph.nodes:
        if node.op != "batch_norm":
            continue
        layer = graph.producer(node.inputs[0])
        if (
            layer is not None
            and layer.op in ("conv2d", "linear")
            and "activation" not in layer.attrs
            and layer.output not in graph.outputs
            and len(graph.consumers(layer.output)) == 1
        ):
            pairs.append((layer, node))
    return pairs


def fold_batchnorm(graph: Graph) -> Graph:
    """Return the graph with every pair of `find_batchnorm_pairs` made one layer.

    The layer keeps its node name and takes the batch norm's output tensor. Its parameters keep their names; a bias
    that was not there is called like the weight, ``conv1.weight`` to ``conv1.bias``. Where several layers share a
    weight, each gets its own, named after its node.

    Raises:
        GraphError: A running variance is negative.
    """
    while pairs := find_batchnorm_pairs(graph):  # Again for a batch norm that follows a batch norm.
        graph = _fold_pairs(graph, pairs)
    return graph


def fold_batchnorm_forward(graph: Graph) -> Graph:
    """Return the graph with every batch norm on ``[N, C]`` that only a linear reads folded into that linear.

    After `fold_batchnorm`, so these are the ones on a graph input, after a relu, or on a layer with several readers.
    Names as there; the linear reads what the batch norm read. (On images a depthwise convolution does as well, and
    needs no care at the zeros of a padding.)

    Raises:
        GraphError: A running variance is negative.

    Example:
        >>> from dyadiq.ir.graph import TensorInfo
        >>> norm = Node("bn", "batch_norm", ("x", "bn.weight", "bn.bias", "bn.mean", "bn.var"), "bn", {"eps": 0.0})
        >>> nodes = (norm, Node("fc", "linear", ("bn", "fc.weight"), "fc"))
        >>> values = {"bn.weight": [1.0], "bn.bias": [5.0], "bn.mean": [1.0], "bn.var": [4.0], "fc.weight": [[3.0]]}
        >>> graph = Graph("float", ("x",), ("fc",), nodes, dict.fromkeys(("x", "fc", "bn"), TensorInfo((1,))),
        ...               {name: np.array(value) for name, value in values.items()})
        >>> fold_batchnorm_forward(graph).params
        {'fc.weight': array([[1.5]]), 'fc.bias': array([13.5])}
    """
    while pair := _find_forward_pair(graph):  # Again for a batch norm that follows a batch norm.
        graph = _fold_forward(graph, *pair)
    return graph


def convert_batchnorm(graph: Graph) -> Graph:
    """Return the graph with each remaining batch norm as a depthwise 1x1 conv2d that does the same.

    These are the ones after a concat, add, pool or relu, or on a layer with several readers. The node keeps its name;
    ``bn.weight`` becomes s as ``[C, 1, 1, 1]`` and ``bn.bias`` becomes t.

    Raises:
        GraphError: The input of batch norms is ``[N, C]``, all of them listed; or a running variance is negative.
    """
    _check_convertible(graph)
    params = dict(graph.params)
    nodes: list[Node] = []
    made: dict[tuple[Any, ...], tuple[str, str]] = {}  # A module called twice keeps one weight.
    for node in graph.nodes:
        if node.op != "batch_norm":
            nodes.append(node)
            continue
        key = (*node.inputs[1:], node.attrs["eps"])
        if key not in made:
            others = [n for n in graph.nodes if (*n.inputs[1:], n.attrs.get("eps")) != key]
            taken = (
                {name for n in others for name in n.inputs} | set(graph.tensors) | {n for m in made.values() for n in m}
            )
            weight, bias = (_free_name(name, taken) for name in node.inputs[1:3])
            scale, shift = _scale_and_shift(graph, node)
            dtype = graph.params[node.inputs[1]].dtype
            params[weight], params[bias] = scale.reshape(-1, 1, 1, 1).astype(dtype), shift.astype(dtype)
            made[key] = weight, bias
        attrs = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": graph.tensors[node.output].shape[0]}
        nodes.append(replace(node, op="conv2d", inputs=(node.inputs[0], *made[key]), attrs=attrs))
    return graph.replace(params=params).without_unused(nodes)


def _fold_pairs(graph: Graph, pairs: Iterable[tuple[Node, Node]]) -> Graph:
    """Fold these pairs, all from the graph's own parameters."""
    norm_of = {layer.name: norm for layer, norm in pairs}
    norms = {norm.name for norm in norm_of.values()}
    taken = {name for n in graph.nodes if n.name not in norm_of and n.name not in norms for name in n.inputs}
    taken |= set(graph.tensors)
    params = dict(graph.params)
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.name in norms:
            continue
        if node.name not in norm_of:
            nodes.append(node)
            continue
        norm = norm_of[node.name]
        scale, shift = _scale_and_shift(graph, norm)
        old_weight = graph.params[node.inputs[1]]
        old_bias = graph.params[node.inputs[2]] if len(node.inputs) > 2 else np.zeros(len(scale))
        weight, bias = (_free_name(name, taken) for name in _folded_names(graph, node))
        taken |= {weight, bias}
        factor = scale.reshape(-1, *([1] * (old_weight.ndim - 1)))
        params[weight] = (old_weight.astype(np.float64) * factor).astype(old_weight.dtype)
        params[bias] = (old_bias.astype(np.float64) * scale + shift).astype(old_weight.dtype)
        nodes.append(replace(node, inputs=(node.inputs[0], weight, bias), output=norm.output))
    return graph.replace(params=params).without_unused(nodes)


def _find_forward_pair(graph: Graph) -> tuple[Node, Node] | None:
    """Return the first (batch norm, linear) to fold."""
    for node in graph.nodes:
        if node.op != "batch_norm" or len(graph.tensors[node.output].shape) != 1 or node.output in graph.outputs:
            continue
        readers = graph.consumers(node.output)
        if len(readers) == 1 and readers[0].op == "linear":
            return node, readers[0]
    return None


def _fold_forward(graph: Graph, norm: Node, layer: Node) -> Graph:
    scale, shift = _scale_and_shift(graph, norm)
    old_weight = graph.params[layer.inputs[1]]
    old_bias = graph.params[layer.inputs[2]] if len(layer.inputs) > 2 else np.zeros(len(old_weight))
    taken = {name for n in graph.nodes if n.name not in (norm.name, layer.name) for name in n.inputs}
    taken |= set(graph.tensors)
    weight = _free_name(_folded_names(graph, layer)[0], taken)
    bias = _free_name(_folded_names(graph, layer)[1], taken | {weight})
    wide = old_weight.astype(np.float64)
    params = {
        **graph.params,
        weight: (wide * scale).astype(old_weight.dtype),
        bias: (old_bias.astype(np.float64) + wide @ shift).astype(old_weight.dtype),
    }
    folded = replace(layer, inputs=(norm.inputs[0], weight, bias))
    nodes = [folded if node.name == layer.name else node for node in graph.nodes if node.name != norm.name]
    return graph.replace(params=params).without_unused(nodes)


def _folded_names(graph: Graph, layer: Node) -> tuple[str, str]:
    """Return the wished names of a folded layer's parameters: its own, where nobody else reads them."""

    def is_own(name: str) -> bool:
        return all(node.name == layer.name for node in graph.consumers(name))

    weight = layer.inputs[1] if is_own(layer.inputs[1]) else f"{layer.name}.weight"
    if len(layer.inputs) > 2 and is_own(layer.inputs[2]):
        return weight, layer.inputs[2]
    stem = weight.removesuffix("weight") if weight.endswith(".weight") else f"{layer.name}."
    return weight, f"{stem}bias"


def _free_name(name: str, taken: Collection[str]) -> str:
    """Return the name, marked if a node that stays as it is needs what is called so now."""
    while name in taken:
        name += ":folded"
    return name


def _scale_and_shift(graph: Graph, norm: Node) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return s and t of ``y = s * x + t``.

    Raises:
        GraphError: ``var + eps`` is not positive.
    """
    gamma, beta, mean, var = (graph.params[name].astype(np.float64) for name in norm.inputs[1:])
    variance = var + norm.attrs["eps"]
    if not (variance > 0).all():
        channel = int(np.argmin(variance > 0))
        raise GraphError(
            f"{norm.name}: running variance + eps is {variance[channel]:g} in channel {channel}, expected > 0. "
            "Is the checkpoint damaged?"
        )
    scale = gamma / np.sqrt(variance)
    return scale, beta - mean * scale


def _check_convertible(graph: Graph) -> None:
    """Refuse the batch norms that no convolution can stand for.

    Raises:
        GraphError: The input of batch norms is ``[N, C]``; all of them are listed.
    """
    reasons = [
        f"{node.name}: batch norm on [N, {graph.tensors[node.output].shape[0]}] that cannot be folded into a layer, "
        f"because {_obstacle(graph, node)}, and its result is not read by one linear alone"
        for node in graph.nodes
        if node.op == "batch_norm" and len(graph.tensors[node.output].shape) != 3
    ]
    if reasons:
        raise GraphError(
            "; ".join(reasons) + ". Put it directly after a linear that nothing else reads, or directly before the one "
            "linear that reads it."
        )


def _obstacle(graph: Graph, norm: Node) -> str:
    producer = graph.producer(norm.inputs[0])
    if producer is None:
        return "it reads a graph input"
    if producer.op in ("conv2d", "linear") and "activation" not in producer.attrs:
        return f"other nodes or outputs read {producer.name!r} too"
    return f"it reads the result of {producer.name!r} ({producer.op})"
