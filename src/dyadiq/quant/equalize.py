"""Method ``equalize``: the channels between two layers given equal ranges; what the network computes stays.

Used by `quant.reconstruct`, first of the methods. Between layers W1 and W2 with a relu (and pooling) between them, a
positive factor a channel moves freely, since ``relu(a x) = a relu(x)``:

    W1' = W1 / s,  b1' = b1 / s,  W2' = W2 s       s_i = sqrt(r1_i / r2_i),  r = largest magnitude of the channel

so that one scale a tensor suits all channels of an activation and of a weight. High biases are absorbed where the
second layer has no padding: ``c = max(0, beta - 3 |gamma|)`` moves through the relu, which is linear there.
Chains only: a tensor that two layers read, or an add, ends one. Ranges are calibrated again afterwards.
Source: Nagel et al. 2019, Data-free quantization, sections 4.1.1 to 4.1.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dyadiq.core.errors import ConfigError
from dyadiq.quant.calibrate import calibrate_activations, fit_weights
from dyadiq.quant.fold import Layer, fold, scale_and_shift
from dyadiq.quant.module import QuantModule
from dyadiq.quant.reconstruction import Reconstruction
from dyadiq.quant.write_back import has_bias, own_layers, set_params_, shift_bias_, write_weight_

__all__ = ["Pair", "calibrate_again_", "equalize_", "find_pairs", "scalable", "scale_inputs_", "scale_outputs_"]

_SWEEPS = 20
_SETTLED = 1e-3
_LIMIT = 2.0**10  # no factor beyond: a dead channel must not blow up the other side
_BETWEEN = ("relu", "max_pool2d", "avg_pool2d", "flatten")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two layers with only positively homogeneous operators between them.

    Attributes:
        first: Its output channels are scaled.
        second: Its input channels are scaled back.
        repeat: Inputs of the second a channel of the first became (a flatten of maps), else 1.
        linear: Whether no relu is between them.
    """

    first: Layer
    second: Layer
    repeat: int
    linear: bool


def equalize_(job: Reconstruction) -> None:
    """Equalize all pairs, absorb biases, and calibrate again.

    Raises:
        ConfigError: Another method has run before.
    """
    module = job.module
    own = module.model_tensors()
    if any(not torch.equal(own[name], tensor) for name, tensor in job.reference.items()):
        raise ConfigError("equalize: the weights were changed by a method before it. Put 'equalize' first.")
    pairs = find_pairs(module)
    if not pairs:
        job.notes.append("equalize: no two layers in a chain; nothing to do.")
        return
    job.progress.start("equalize", _SWEEPS)
    try:
        for _ in range(_SWEEPS):
            largest = max(_balance_(module, pair) for pair in pairs)
            job.progress.advance(1, f"{largest:.3g}")
            if largest < _SETTLED:
                break
    finally:
        job.progress.finish()
    for pair in pairs:
        _absorb_bias_(module, pair)
    job.reference = {name: tensor.detach().clone() for name, tensor in module.model_tensors().items()}
    calibrate_again_(job)


def find_pairs(module: QuantModule) -> list[Pair]:
    """Return the pairs of a module's network, in order of execution."""
    layers, _ = own_layers(module)
    graph = module.canonical
    pairs = []
    for name, first in layers.items():
        if first.node.attrs.get("activation") == "clamp":
            continue  # an upper limit does not scale with a channel
        tensor, linear = first.node.output, first.node.attrs.get("activation") != "relu"
        while tensor not in graph.outputs and len(graph.consumers(tensor)) == 1:
            (reader,) = graph.consumers(tensor)
            if reader.name in layers:
                second = layers[reader.name]
                if not second.input_norms and scalable(first):
                    n_first, n_second = _n_outputs(module, first), _n_inputs(module, second)
                    pairs.append(Pair(layers[name], second, n_second // n_first, linear))
                break
            if reader.op not in _BETWEEN or reader.attrs.get("activation") == "clamp":
                break
            linear = linear and reader.op != "relu" and reader.attrs.get("activation") != "relu"
            tensor = reader.output
    return pairs


def scalable(layer: Layer) -> bool:
    """Return whether a channel can be scaled: by its own weight, or by a batch norm that the model really has."""
    return not layer.norms or not set(layer.norms[-1].attrs.get("neutral", ())) & set(layer.norms[-1].inputs[1:3])


def _n_outputs(module: QuantModule, layer: Layer) -> int:
    return int(module.canonical.tensors[layer.node.output].shape[0])


def _n_inputs(module: QuantModule, layer: Layer) -> int:
    return int(module.canonical.tensors[layer.node.inputs[0]].shape[0])


@torch.no_grad()
def _balance_(module: QuantModule, pair: Pair) -> float:
    """Give one pair equal ranges; return the largest relative change of a channel."""
    tensors = {name: tensor.detach() for name, tensor in module.model_tensors().items()}
    weight, _ = fold(pair.first, tensors)
    following, _ = fold(pair.second, tensors)
    first_range = weight.double().abs().flatten(1).amax(1)
    second_range = _input_view(pair, following.double(), len(first_range)).abs().amax((0, 2))
    dead = (first_range == 0) | (second_range == 0)
    factor = torch.where(dead, 1.0, torch.sqrt(first_range / torch.where(dead, 1.0, second_range)))
    factor = factor.clamp(1 / _LIMIT, _LIMIT)
    scale_outputs_(pair.first, tensors, 1 / factor)
    scale_inputs_(module, pair.second, following, factor.repeat_interleave(pair.repeat))
    return float((factor - 1).abs().max())


def _input_view(pair: Pair, weight: Tensor, n_channels: int) -> Tensor:
    """Return the second layer's weight as ``[rows, channels of the first, rest]``."""
    groups = pair.second.node.attrs.get("groups", 1)
    if groups == 1:
        return weight.reshape(len(weight), n_channels, -1)
    per_group = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
    return per_group.permute(1, 0, 2, 3).reshape(len(weight) // groups, n_channels, -1)


def scale_inputs_(module: QuantModule, layer: Layer, folded: Tensor, factor: Tensor) -> None:
    """Multiply what a layer does with every input by its factor ``[C_in]``; ``folded`` is its weight as it is."""
    groups = layer.node.attrs.get("groups", 1)
    per_input = factor.reshape(groups, 1, -1, 1)
    scaled = folded.double().reshape(groups, len(folded) // groups, per_input.shape[2], -1) * per_input
    write_weight_(module, layer, scaled.reshape(folded.shape))


@torch.no_grad()
def scale_outputs_(layer: Layer, tensors: Mapping[str, Tensor], factor: Tensor) -> None:
    """Multiply every output channel of a layer by its factor, through its last batch norm if it has one."""
    if layer.norms:
        for name in layer.norms[-1].inputs[1:3]:
            tensors[name].copy_(tensors[name].double() * factor)
        return
    own = tensors[layer.source.inputs[1]]
    own.copy_(own.double() * factor.reshape(-1, *([1] * (own.ndim - 1))))
    for name in layer.source.inputs[2:]:
        tensors[name].copy_(tensors[name].double() * factor)


@torch.no_grad()
def _absorb_bias_(module: QuantModule, pair: Pair) -> None:
    """Move what a relu never cuts from the first bias to the second."""
    padded = any(pair.second.node.attrs.get("padding", (0, 0)))
    if pair.linear or padded or pair.repeat != 1 or not pair.first.norms or not has_bias(pair.second):
        return
    tensors = {name: tensor.detach() for name, tensor in module.model_tensors().items()}
    norm = pair.first.norms[-1]
    gamma, beta = (tensors[name].double() for name in norm.inputs[1:3])
    deviation = (
        gamma
        * torch.sqrt(tensors[norm.inputs[4]].double())
        / torch.sqrt(tensors[norm.inputs[4]].double() + norm.attrs["eps"])
    )
    excess = (beta - 3 * deviation.abs()).clamp(min=0) * (scale_and_shift(norm, tensors)[0] != 0)
    if not bool((excess > 0).any()):
        return
    weight, _ = fold(pair.second, tensors)
    groups = pair.second.node.attrs.get("groups", 1)
    sums = weight.double().reshape(groups, len(weight) // groups, weight.shape[1], -1).sum(3)
    shift = torch.einsum("grc,gc->gr", sums, excess.reshape(groups, -1)).reshape(-1)
    shift_bias_(module, pair.first, -excess)
    shift_bias_(module, pair.second, shift)


def calibrate_again_(job: Reconstruction) -> None:
    """Fit all ranges again, as `quantize` does."""
    module = job.module
    graph, formats = module.folded_graph(), module.plan.formats
    batches = [dict(zip(module.graph.inputs, chunk, strict=True)) for chunk in job.inputs]
    params = fit_weights(graph, formats) | calibrate_activations(graph, formats, batches, seed=job.seed)
    for name, quantizer in module.quantizers_by_name().items():
        set_params_(quantizer, params[name])
        quantizer.zero_point.copy_(torch.as_tensor(params[name].zero_point))
        if quantizer.group_factor is not None:
            quantizer.group_factor.copy_(torch.as_tensor(params[name].group_factor))
