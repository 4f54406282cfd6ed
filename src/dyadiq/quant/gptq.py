"""Method ``gptq``: weights rounded layer by layer, on what each layer sees once those before it are quantized.

Used by `quant.reconstruct`. The arithmetic is in `rounding`; here are the order, the batch norms and the biases. The
float network is imitated on its own inputs (asymmetric), so that a layer also makes up for errors before it, and the
bias takes the difference of means: bias correction is part of the same least squares.
Source: Frantar et al. 2022, GPTQ; see `rounding.layer`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from dyadiq.core.affine import dequantize
from dyadiq.quant.fold import Layer, fold
from dyadiq.quant.moments import layer_moments
from dyadiq.quant.reconstruction import Reconstruction
from dyadiq.quant.walk import Walk
from dyadiq.quant.write_back import check_codes, has_bias, own_layers, set_params_, shift_bias_, write_weight_
from dyadiq.rounding import RoundedWeight, round_weight

__all__ = ["gptq_"]

_SNAPS = 4  # scales that depend on codes, and codes on scales: rounds until they agree


def gptq_(job: Reconstruction) -> None:
    """Round every weight of a module in place."""
    module = job.module
    layers, left = own_layers(module)
    job.notes.extend(f"gptq: {name}: rounded to nearest; {reason}." for name, reason in left.items())
    walk = Walk(module, job.inputs, job.reference)
    job.progress.start("gptq", len(layers))
    try:
        for node in walk:
            if node.name in layers:
                _round_layer(job, layers[node.name], walk)
                job.progress.advance(1, node.name)
    finally:
        job.progress.finish()


def _round_layer(job: Reconstruction, layer: Layer, walk: Walk) -> None:
    module, node = job.module, layer.node
    with torch.no_grad():
        weight, _ = fold(layer, job.reference)
    values = weight.double().cpu().numpy()
    quantized, reference = walk.at(node.inputs[0])
    positions = math.prod(module.canonical.tensors[node.output].shape[1:])
    moments = layer_moments(node, values.shape[2:], positions, quantized, reference, seed=job.seed)
    with_bias = has_bias(layer)
    quantizer = module.weight_quantizers()[layer.weight]
    params = quantizer.affine_params()
    for attempt in range(_SNAPS):
        # The first search is free; then the scale is what `quant.snap` made of it, until codes and scale agree.
        config = replace(job.config.rounding, search_steps=job.config.rounding.search_steps and attempt == 0)
        found = round_weight(values, params, moments, with_bias=with_bias, config=config, name=layer.weight)
        _write(job, layer, found)
        if check_codes(module, layer, found.codes) == 0:
            break
        params = replace(found.params, scale=_scale_now(job, layer))
    else:
        job.notes.append(f"gptq: {layer.weight}: scales and codes did not settle; a few codes differ from GPTQ's.")
    job.errors[layer.weight] = (found.nearest_error, found.error)


def _write(job: Reconstruction, layer: Layer, found: RoundedWeight) -> None:
    """Write codes, scales and the bias, which starts from the float network's."""
    module = job.module
    set_params_(module.weight_quantizers()[layer.weight], found.params)
    write_weight_(module, layer, dequantize(found.codes, found.params))
    if has_bias(layer):
        own = {n: t.detach() for n, t in module.model_tensors().items()}
        now, wanted = fold(layer, own)[1], fold(layer, job.reference)[1]
        assert now is not None  # it has a bias
        assert wanted is not None
        shift_bias_(module, layer, (wanted - now).double().cpu().numpy() + found.bias_shift)


def _scale_now(job: Reconstruction, layer: Layer) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    own = {n: t.detach() for n, t in job.module.model_tensors().items()}
    weight, bias = fold(layer, own)
    scale = job.module.weight_scale(layer, weight, bias, job.module.quantizers_by_name())
    return np.asarray(scale.detach().cpu().numpy(), dtype=np.float64)
