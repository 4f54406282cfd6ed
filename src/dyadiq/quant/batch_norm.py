"""Method ``batch_norm``: running statistics corrected by what rounding changed.

Used by `quant.reconstruct`. A batch norm with the statistics of the float network no longer normalises the rounded
convolution before it. Layer after layer, mean and variance of every channel change by as much as rounding changed
them on the given samples, so that the normalised outputs have the moments of the float network's; gamma and beta
stay. Taking statistics anew, as published, would also take in how the samples differ from those of training, which were
augmented: docs/validation.md has both.
The folded weight of a channel then changes by a factor, and its scale takes that factor: codes stay. So scales must
be free, per channel (or group).
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
    """Correct the statistics of every batch norm that is folded into a layer before it.

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
                _correct_(job, layers[node.name], *walk.pre_activations(node))
                job.progress.advance(1, node.name)
    finally:
        job.progress.finish()


@torch.no_grad()
def _correct_(job: Reconstruction, layer: Layer, outputs: list[Tensor], reference: list[Tensor]) -> None:
    """Set the statistics of a layer's last batch norm, given what comes out of it, and of the float network's."""
    tensors = job.module.model_tensors()
    norm = layer.norms[-1]
    scale, shift = scale_and_shift(norm, tensors)
    (mean, variance), (float_mean, float_variance) = _moments(outputs), _moments(reference)
    live = (scale != 0) & (variance > 0) & (float_variance > 0)
    # The new scale is scale * sqrt(ratio), the new shift float_mean - sqrt(ratio) * (mean - shift); as statistics:
    ratio = torch.where(live, float_variance / variance, 1.0)
    divisor = torch.where(live, scale, 1.0)
    running_mean, running_var = (tensors[name] for name in norm.inputs[3:])
    beta = shift + running_mean.double() * scale
    new_scale, new_shift = divisor * ratio.sqrt(), float_mean - ratio.sqrt() * (mean - shift)
    epsilon = float(norm.attrs["eps"])
    running_mean.copy_(torch.where(live, (beta - new_shift) / new_scale, running_mean.double()))
    # Not below 0, so that a channel without variance stays one.
    running_var.copy_(((running_var.double() + epsilon) / ratio - epsilon).clamp(min=0.0))
    after, _ = scale_and_shift(norm, tensors)
    quantizer = job.module.weight_quantizers()[layer.weight]
    factor = torch.where(live, (after / divisor).abs(), 1.0)
    quantizer.scale.copy_(quantizer.scale.double() * factor)


def _moments(chunks: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and variance of every channel ``[C]`` over all chunks ``[N, C, ...]``, float64."""
    mean = channel_means(chunks)
    return mean, channel_means([(x.double() - mean.reshape(1, -1, *([1] * (x.ndim - 2)))).square() for x in chunks])
