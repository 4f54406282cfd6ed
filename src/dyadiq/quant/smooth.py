"""Method ``smooth``: channels of activations given alike ranges, against the columns of the weights that read them.

Used by `quant.reconstruct`, first of the methods. As in `equalize` a positive factor a channel moves freely through
relu and pooling, but it is chosen by what the channel was seen to reach, not by weights alone:

    x_j' = x_j / s_j,  W_oj' = W_oj s_j       s_j = max|x_j|^a / w_j^(1 - a),  w_j = max_o |W_oj| / max_k |W_ok|

With a = 1/2 half of the difference is taken from the activation, which has one scale, and given to weights, which have
one a channel; rows of the layer that makes a channel are scaled too, which costs weights nothing. Channels are followed
through concats and to several readers, which `equalize`'s pairs of layers are not. A channel that an add, an upper
limit or the network's own output reads stays as it is. Ranges are calibrated again afterwards.
Sources: Meller et al. 2019, Same, same but different (ranges of activations through relu); Xiao et al. 2023,
SmoothQuant, eq. (4) (there between a layer norm and linears, w_j not relative to the largest of its row).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor

from dyadiq.core.errors import ConfigError
from dyadiq.ir.execute import graph_params, run_graph
from dyadiq.quant.equalize import calibrate_again_, scalable, scale_inputs_, scale_outputs_
from dyadiq.quant.fold import Layer, fold
from dyadiq.quant.module import QuantModule
from dyadiq.quant.reconstruction import Reconstruction
from dyadiq.quant.write_back import own_layers

__all__ = ["follow_channels", "smooth_"]

_SHARE = 0.5  # of the difference that activations are relieved of
_LIMIT = 2.0**8  # no factor beyond: a channel hardly ever seen must not blow up the other side
_KEEPS = ("relu", "max_pool2d", "avg_pool2d", "flatten")


@torch.no_grad()
def smooth_(job: Reconstruction) -> None:
    """Divide every free channel by its factor, multiply it back where it is read, and calibrate again.

    Raises:
        ConfigError: Another method has run before.
    """
    module = job.module
    own = module.model_tensors()
    if any(not torch.equal(own[name], tensor) for name, tensor in job.reference.items()):
        raise ConfigError("smooth: the weights were changed by a method before it. Put 'smooth' first.")
    layers, _ = own_layers(module)
    made, read = follow_channels(module)
    if not made:
        job.notes.append("smooth: no channel is free between two layers; nothing to do.")
        return
    factor = _factors(job, layers, made, read)
    for name, layer in layers.items():
        if name in read:
            weight, _ = fold(layer, own)
            scale_inputs_(module, layer, weight, factor[read[name]])
        if name in made:
            scale_outputs_(layer, own, 1 / factor[made[name]])
    job.reference = {name: tensor.detach().clone() for name, tensor in module.model_tensors().items()}
    calibrate_again_(job)


def follow_channels(module: QuantModule) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the channels that may be scaled: numbers from 1, by the layer that makes them and by those that read them.

    Returns:
        Per layer the number of every output channel, and of every input (a flatten of maps repeats them); 0 is a
        channel that stays as it is.
    """
    layers, _ = own_layers(module)
    graph = module.canonical
    numbers: dict[str, Tensor] = {n: torch.zeros(graph.tensors[n].shape[0], dtype=torch.int64) for n in graph.inputs}
    made: dict[str, Tensor] = {}
    read: dict[str, Tensor] = {}
    fixed, count = {0}, 0
    for node in graph.nodes:
        sources = [numbers[name] for name in graph.activations(node)]
        size = int(graph.tensors[node.output].shape[0])
        found = torch.zeros(size, dtype=torch.int64)
        if node.name in layers and not layers[node.name].input_norms:
            read[node.name] = sources[0]
            if scalable(layers[node.name]) and node.attrs.get("activation") != "clamp":
                found = torch.arange(count + 1, count + 1 + size)
                made[node.name], count = found, count + size
        elif node.op == "concat":
            found = torch.cat(sources)
        elif node.op == "pad":
            found = F.pad(sources[0], (node.attrs["before"][0], node.attrs["after"][0]))
        elif node.op in _KEEPS and node.attrs.get("activation") != "clamp":
            found = sources[0].repeat_interleave(size // len(sources[0]))
        else:
            fixed |= {int(i) for source in sources for i in source}
        numbers[node.output] = found
    fixed |= {int(i) for name in graph.outputs for i in numbers[name]}
    free = torch.zeros(count + 1, dtype=torch.bool)
    for of in read.values():
        free[of] = True
    free[torch.tensor(sorted(fixed))] = False
    made = {name: torch.where(free[of], of, 0) for name, of in made.items() if bool(free[of].any())}
    return made, {name: torch.where(free[of], of, 0) for name, of in read.items() if bool(free[of].any())}


@torch.no_grad()
def _factors(
    job: Reconstruction, layers: Mapping[str, Layer], made: Mapping[str, Tensor], read: Mapping[str, Tensor]
) -> Tensor:
    """Return the factor of every numbered channel, float64; 1 for those that stay."""
    module = job.module
    own = {name: tensor.detach() for name, tensor in module.model_tensors().items()}
    n_channels = 1 + max(int(of.max()) for of in made.values())
    seen = torch.zeros(n_channels, dtype=torch.float64)
    reader = torch.zeros(n_channels, dtype=torch.float64)
    graph = module.folded_graph()
    numbered = {node.output: made[node.name] for node in graph.nodes if node.name in made}

    def observe(name: str, value: Tensor) -> None:
        if name in numbered:
            largest = value.double().abs().transpose(0, 1).flatten(1).amax(1).cpu()
            seen[numbered[name]] = torch.maximum(seen[numbered[name]], largest)

    params = graph_params(graph, device=job.inputs[0][0].device)
    for chunk in job.inputs:
        run_graph(graph, chunk, params, observe)
    for name, of in read.items():
        weight = fold(layers[name], own)[0].double().abs().cpu()
        largest = weight.flatten(1).amax(1).reshape(-1, *[1] * (weight.ndim - 1))
        if module.weight_quantizers()[layers[name].weight].fmt.granularity == "tensor":
            largest = weight.max()
        groups = layers[name].node.attrs.get("groups", 1)
        share = (weight / largest.clamp(min=torch.finfo(torch.float32).tiny)).reshape(
            groups, len(weight) // groups, weight.shape[1], -1
        )
        reader.scatter_reduce_(0, of, share.amax((1, 3)).reshape(-1), "amax")
    dead = (seen == 0) | (reader == 0)
    factor = torch.where(dead, 1.0, seen**_SHARE / torch.where(dead, 1.0, reader) ** (1 - _SHARE))
    for of in made.values():  # around 1 in every layer: what matters are ratios
        live = of[~dead[of] & (of > 0)]
        if len(live):
            factor[live] /= factor[live].log().mean().exp()
    factor[0] = 1.0
    return factor.clamp(1 / _LIMIT, _LIMIT)
