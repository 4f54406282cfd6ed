"""Method ``bias_correction``: every layer's mean output made that of the float network, channel by channel.

Used by `quant.reconstruct`. Rounding shifts the mean of a channel, and shifts add up; here layers are taken in order,
each on inputs from the layers already corrected, and the bias takes the difference of the means before the
activation function. ``gptq`` does it already, as part of its least squares; use this one after others.
Source: Nagel et al. 2019, Data-free quantization, section 4.2 and appendix D (empirical bias correction).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dyadiq.quant.reconstruction import Reconstruction
from dyadiq.quant.walk import Walk
from dyadiq.quant.write_back import has_bias, own_layers, shift_bias_

__all__ = ["bias_correction_", "channel_means"]


def bias_correction_(job: Reconstruction) -> None:
    """Correct the bias of every layer that has one."""
    module = job.module
    layers, left = own_layers(module)
    job.notes.extend(f"bias_correction: {name}: left; {reason}." for name, reason in left.items())
    walk = Walk(module, job.inputs, job.reference)
    job.progress.start("bias correction", len(layers))
    try:
        for node in walk:
            if node.name not in layers:
                continue
            job.progress.advance(1, node.name)
            if not has_bias(layers[node.name]):
                job.notes.append(f"bias_correction: {node.name}: left; the layer has no bias and no batch norm.")
                continue
            quantized, reference = walk.pre_activations(node)
            shift_bias_(module, layers[node.name], channel_means(reference) - channel_means(quantized))
    finally:
        job.progress.finish()


def channel_means(chunks: list[Tensor]) -> Tensor:
    """Return the mean of every channel ``[C]`` over all chunks ``[N, C, ...]``, float64.

    Example:
        >>> channel_means([torch.tensor([[1.0, 5.0]]), torch.tensor([[2.0, 6.0], [3.0, 7.0]])])
        tensor([2., 6.], dtype=torch.float64)
    """
    total = sum((x.double().transpose(0, 1).flatten(1).sum(1) for x in chunks), torch.zeros((), dtype=torch.float64))
    count = sum(x.shape[0] * x[0, 0].numel() for x in chunks)
    return total / count
