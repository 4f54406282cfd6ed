"""Layers of a network with the batch norms that belong to them: folding in torch, differentiable, also while training.

Used by `quant.module`. Says the same as `ir.passes.fold_batchnorm` bit for bit (float64 arithmetic, result in the
weight's dtype; only the sum ``W t`` of a forward fold may take another order), but from tensors, and with batch
statistics while a batch norm is live.
Source: Jacob et al. 2018, section 3.2 (figure C.7: fold with the statistics of an unquantized convolution).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dyadiq.core.errors import DataError
from dyadiq.ir.execute import run_node
from dyadiq.ir.graph import Graph, Node

__all__ = ["DEFAULT_MOMENTUM", "Layer", "counter_name", "find_layers", "fold", "scale_and_shift"]

DEFAULT_MOMENTUM = 0.1


@dataclass(frozen=True, slots=True)
class Layer:
    """A conv2d or linear of the canonical graph and where its parameters come from.

    Attributes:
        node: The canonical node.
        source: The captured node of the same name; a batch_norm where the canonical node is its depthwise form.
        norms: Captured batch norms on its result, folded into it, in order.
        input_norms: Captured batch norms on its input, folded into it, in order.
    """

    node: Node
    source: Node
    norms: tuple[Node, ...]
    input_norms: tuple[Node, ...] = ()

    @property
    def weight(self) -> str:
        """Name of the folded weight: the decision."""
        return self.node.inputs[1]


def counter_name(norm: Node) -> str:
    """Return the name of a batch norm's counter of batches, as torch names it."""
    return norm.inputs[3].removesuffix("running_mean") + "num_batches_tracked"


def find_layers(graph: Graph, canonical: Graph) -> dict[str, Layer]:
    """Return the layers of a captured graph by node name, given its canonical form.

    A batch norm that is no node of the canonical graph was folded into the linear that reads it, where that linear now
    reads what the batch norm read; else into the layer whose result it reads.
    """
    kept = {node.name: node for node in canonical.nodes}
    input_norms = {n.name: _input_norms(graph, n, kept) for n in graph.nodes if n.op == "linear" and n.name in kept}
    forward = {norm.name for found in input_norms.values() for norm in found}
    owner: dict[str, str] = {}  # tensor to the layer whose result it is, batch norms applied
    norms: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.op in ("conv2d", "linear"):
            owner[node.output] = node.name
        elif node.op == "batch_norm" and node.name in kept:
            owner[node.output] = node.name
            norms[node.name] = [node]
        elif node.op == "batch_norm" and node.inputs[0] in owner and node.name not in forward:
            owner[node.output] = owner[node.inputs[0]]
            norms.setdefault(owner[node.output], []).append(node)
    return {
        node.name: Layer(kept[node.name], node, tuple(norms.get(node.name, ())), input_norms.get(node.name, ()))
        for node in graph.nodes
        if node.name in kept and kept[node.name].op in ("conv2d", "linear")
    }


def _input_norms(graph: Graph, layer: Node, kept: Mapping[str, Node]) -> tuple[Node, ...]:
    """Return the batch norms between what a linear reads in the captured graph and in the canonical one."""
    found: list[Node] = []
    tensor = layer.inputs[0]
    while tensor != kept[layer.name].inputs[0]:
        producer = graph.producer(tensor)
        if producer is None or producer.op != "batch_norm" or producer.name in kept:
            break
        found.insert(0, producer)
        tensor = producer.inputs[0]
    return tuple(found)


def fold(
    layer: Layer, tensors: Mapping[str, Tensor], *, live_input: Tensor | None = None, momentum: float | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of a layer with its batch norms folded in.

    Args:
        layer: From `find_layers`.
        tensors: Parameters and running statistics by name.
        live_input: Given while batch norms are live: statistics are those of the unquantized layer on this input,
            and the running ones are updated.
        momentum: Weight of the new statistics in the running ones, torch's convention; None: each batch norm's own.

    Raises:
        DataError: Live, and a channel has a single value.

    Shapes:
        weight ``[O, ...]``; bias ``[O]`` or None where the layer has none.
    """
    weight, bias, dtype = _raw(layer, tensors)
    before = []
    for norm in layer.input_norms:
        scale, shift = scale_and_shift(norm, tensors, live_input, momentum)
        before.append((scale, shift))
        live_input = None if live_input is None else live_input * scale.to(dtype) + shift.to(dtype)
    result = None if live_input is None else _unquantized(layer, live_input, weight, bias, dtype)
    for norm in layer.norms:
        scale, shift = scale_and_shift(norm, tensors, result, momentum)
        # As the pass does, round to the parameters' dtype after each batch norm.
        weight = (weight * scale.reshape(-1, *([1] * (weight.ndim - 1)))).to(dtype).double()
        bias = ((0.0 if bias is None else bias) * scale + shift).to(dtype).double()
        if result is not None:
            per_channel = (1, -1, *([1] * (result.ndim - 2)))
            result = result * scale.reshape(per_channel).to(dtype) + shift.reshape(per_channel).to(dtype)
    for scale, shift in reversed(before):
        bias = ((0.0 if bias is None else bias) + weight @ shift).to(dtype).double()
        weight = (weight * scale).to(dtype).double()
    return weight.to(dtype), None if bias is None else bias.to(dtype)


def scale_and_shift(
    norm: Node, tensors: Mapping[str, Tensor], live: Tensor | None = None, momentum: float | None = None
) -> tuple[Tensor, Tensor]:
    """Return s and t of ``y = s * x + t``, float64 ``[C]``, from the statistics of a live input if there is one."""
    gamma, beta, mean, var = (tensors[name].double() for name in norm.inputs[1:])
    if live is not None:
        mean, var = _batch_statistics(norm, live, tensors, momentum)
    scale = gamma / torch.sqrt(var + norm.attrs["eps"])
    return scale, beta - mean * scale


def _raw(layer: Layer, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None, torch.dtype]:
    source = layer.source
    if source.op == "batch_norm":  # in its depthwise form: the identity, scaled
        gamma = tensors[source.inputs[1]]
        return gamma.new_ones((len(gamma), 1, 1, 1), dtype=torch.float64), None, gamma.dtype
    weight = tensors[source.inputs[1]]
    bias = tensors[source.inputs[2]].double() if len(source.inputs) > 2 else None
    return weight.double(), bias, weight.dtype


def _unquantized(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if not layer.norms:
        return None
    if layer.source.op == "batch_norm":
        return x
    arguments = [x, weight.to(dtype), *([] if bias is None else [bias.to(dtype)])]
    return run_node(layer.source, arguments)


def _batch_statistics(
    norm: Node, x: Tensor, tensors: Mapping[str, Tensor], momentum: float | None
) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of a batch, after updating the running ones (unbiased) and their counter.

    As torch does: the weight of a batch is the momentum, or ``1 / number of batches`` if the batch norm has none.

    Raises:
        DataError: A channel has a single value.
    """
    axes = [axis for axis in range(x.ndim) if axis != 1]
    count = math.prod(x.shape[axis] for axis in axes)
    if count < 2:
        raise DataError(
            f"{norm.name}: batch norm in training needs more than one value per channel, got shape {list(x.shape)}. "
            "Use a larger batch, or freeze_batchnorm_()."
        )
    # A convolution's result has the rounding errors of float32 anyway; wider sums would take half of a step's time.
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    var, mean = (statistic.double() for statistic in torch.var_mean(wide, axes, correction=0))
    running_mean, running_var = (tensors[name] for name in norm.inputs[3:])
    counter = tensors.get(counter_name(norm))
    with torch.no_grad():
        if counter is not None:
            counter.add_(1)
        if momentum is None:
            momentum = norm.attrs.get("momentum", DEFAULT_MOMENTUM)
        if momentum is None:
            momentum = 0.0 if counter is None else 1.0 / int(counter)
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((var * count / (count - 1)).to(running_var.dtype), momentum)
    return mean, var
