"""Method ``batch_norm``: running statistics measured again, on what the quantized layers really give.

Used by `quant.reconstruct`. A batch norm with the statistics of the float network no longer normalises the rounded
convolution before it. Mean and variance of every channel are taken again, layer after layer; gamma and beta stay. The
folded weight of a channel then changes by a factor, and its scale takes that factor: codes stay. So scales must be
free, per channel (or group).
Sources: Sun et al. 2019, Hybrid 8-bit floating point (batch norm re-tuning for inference); Peters et al. 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dyadiq.core.errors import ConfigError
from dyadiq.quant.bias_correction import channel_means
from dyadiq.quant.fold import Layer, scale_and_shift
from dyadiq.quant.reconstruction import Reconstruction
from dyadiq.quant.walk import Walk
from dyadiq.quant.write_back import own_layers

__all__ = ["batch_norm_"]


def batch_norm_(job: Reconstruction) -> None:
    """Re-estimate the statistics of every batch norm that is folded into a layer before it.

    Raises:
        ConfigError: Scales of weights are one a tensor, or powers of two: they cannot take the factors.
    """
    module = job.module
    layers, _ = own_layers(module)
    layers = {name: layer for name, layer in layers.items() if layer.norms}
    for layer in layers.values():
        fmt = module.weight_quantizers()[layer.weight].fmt
        if fmt.granularity == "tensor" or fmt.scale == "pow2":
            raise ConfigError(
                f"batch_norm: {layer.weight}: a channel's scale must take what its batch norm changes, got granularity "
                f"{fmt.granularity!r} with scale {fmt.scale!r}. Use granularity 'channel' and scale 'float', or the "
                "method 'bias_correction'."
            )
    walk = Walk(module, job.inputs, job.reference)
    job.progress.start("batch norm", len(layers))
    try:
        for node in walk:
            if node.name in layers:
                _reestimate_(job, layers[node.name], walk.pre_activations(node)[0])
                job.progress.advance(1, node.name)
    finally:
        job.progress.finish()


@torch.no_grad()
def _reestimate_(job: Reconstruction, layer: Layer, outputs: list[Tensor]) -> None:
    """Set the statistics of a layer's last batch norm, given what comes out of it."""
    tensors = job.module.model_tensors()
    norm = layer.norms[-1]
    scale, shift = scale_and_shift(norm, tensors)
    mean = channel_means(outputs)
    variance = channel_means([(x.double() - mean.reshape(1, -1, *([1] * (x.ndim - 2)))).square() for x in outputs])
    live = (scale != 0) & (variance > 0)
    divisor = torch.where(live, scale, 1.0)
    running_mean, running_var = (tensors[name] for name in norm.inputs[3:])
    running_mean.copy_(torch.where(live, (mean - shift) / divisor, running_mean.double()))
    running_var.copy_(torch.where(live, variance / divisor.square(), running_var.double()))
    after, _ = scale_and_shift(norm, tensors)
    quantizer = job.module.weight_quantizers()[layer.weight]
    factor = torch.where(live, (after / divisor).abs(), 1.0)
    quantizer.scale.copy_(quantizer.scale.double() * factor)
