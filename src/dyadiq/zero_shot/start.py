"""Where distillation starts: noise with the statistics of photographs, or plain noise where there is no image.

Used by `distill`. The amplitude of natural images falls as one over the spatial frequency, and their colours go
together; from such noise the statistics of batch norms are reached in a fraction of the steps that white noise takes.
Source: Field 1987, "Relations between the statistics of natural images and the response properties of cortical cells".
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["starting_inputs"]

_SHARED = 0.7  # of the variance of each colour is common to all three


def starting_inputs(shape: tuple[int, ...], n: int, mean: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Return ``n`` inputs, each channel with this mean and deviation over the whole set.

    Args:
        shape: Of one input: ``[C, H, W]`` with more than one pixel gives images, everything else white noise.
        n: How many.
        mean: ``[C]`` or one number.
        std: Likewise.
        generator: Of the noise.

    Shapes:
        Result ``[n, *shape]``, float32.

    Example:
        >>> x = starting_inputs((3, 8, 8), 4, torch.zeros(3), torch.ones(3), torch.Generator().manual_seed(0))
        >>> x.shape, bool(x.mean((0, 2, 3)).abs().max() < 1e-6)
        (torch.Size([4, 3, 8, 8]), True)
    """
    if len(shape) == 3 and shape[1] * shape[2] > 1:
        x = _pink((n, *shape), generator)
        if shape[0] == 3:
            x = _SHARED**0.5 * _pink((n, 1, *shape[1:]), generator) + (1 - _SHARED) ** 0.5 * x
    else:
        x = torch.randn((n, *shape), generator=generator)
    per_channel = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
    axes = [axis for axis in range(x.ndim) if axis != 1]
    spread = x.std(axes, correction=0, keepdim=True).clamp_min(1e-12)
    x = (x - x.mean(axes, keepdim=True)) / spread
    return x * std.view(per_channel if std.ndim else ()) + mean.view(per_channel if mean.ndim else ())


def _pink(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return noise of unit variance whose amplitude falls as one over the frequency."""
    height, width = shape[-2:]
    white = torch.randn(shape, generator=generator)
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])
    spectrum = torch.fft.rfft2(white) / frequency.clamp_min(1 / max(height, width))
    x: Tensor = torch.fft.irfft2(spectrum, s=(height, width))
    return x / x.std()
