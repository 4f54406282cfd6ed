"""Samples that a network is unsure about, made of those it is sure about: blends of two.

A network at the end of training is certain about almost all its training samples, and says nothing about what
quantization will do to new ones: the divergence is carried by a handful. Blends ``(1 - share) a + share b`` of two
samples are new to it, and it is about as unsure about them as about held-out data; no labels are needed.
They rank whole plans better than as many plain samples (docs/validation.md).

Used by `allocation.refine` through the pipeline. Knows no network.
Source: Zhang et al. 2018, mixup, for the blends; their use here is this project's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ConfigError, DataError

__all__ = ["blend"]


def blend(samples: NDArray[np.float32], *, seed: int, share: float = 0.35) -> NDArray[np.float32]:
    """Return as many blends as there are samples, each of a sample and another one.

    Args:
        samples: ``[N, ...]``, at least two.
        seed: Of the pairing.
        share: Of the second sample, in (0, 0.5].

    Raises:
        DataError: A single sample.
        ConfigError: The share is out of its range.

    Example:
        >>> blend(np.array([[0.0], [1.0]], np.float32), seed=0, share=0.25)
        array([[0.25],
               [0.75]], dtype=float32)
    """
    if not 0.0 < share <= 0.5:
        raise ConfigError(f"blend: share is in (0, 0.5], got {share}.")
    if len(samples) < 2:
        raise DataError(f"blend: expected at least 2 samples, got {len(samples)}.")
    order = np.random.default_rng(seed).permutation(len(samples))
    partner = np.empty_like(order)
    partner[order] = np.roll(order, 1)  # One cycle through all: nobody is paired with itself.
    return ((1.0 - share) * samples + share * samples[partner]).astype(samples.dtype)
