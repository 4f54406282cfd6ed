"""Samples that a network is unsure about: blends of two, and those of many that it is unsure about as they are.

A network at the end of training is certain about almost all its training samples, and says nothing about what
quantization will do to new ones: the divergence is carried by a handful. Blends ``(1 - share) a + share b`` of two
samples are new to it, and it is about as unsure about them as about held-out data; no labels are needed.
Seen to rank whole plans better than as many plain samples, on one network in scratch: no number is claimed.

`unsure_samples` takes blends and real samples by turns: what holds on both is more than a trait of blends.

Used with `allocation.refine`, by benchmarks/allocation_quality.py.
Source: Zhang et al. 2018, mixup, for the blends; their use here is this project's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ConfigError, DataError
from dyadiq.curvature.losses import check_outputs
from dyadiq.curvature.perturb import Network
from dyadiq.curvature.problem import Problem

__all__ = ["blend", "uncertainty", "unsure_samples"]


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


def uncertainty(problem: Problem, network: Network) -> NDArray[np.float64]:
    """Return ``1 - sum_c p_nc^2`` of every sample of a problem: 0 where the network is certain. One forward pass.

    Raises:
        ConfigError: Outputs that are no logits of classes.
        DataError: Outputs that are not finite.
    """
    parts = []
    for batch in problem.batches:
        p = check_outputs(network.output_of(batch), "cross_entropy").softmax(1)
        parts.append((1.0 - p.square().sum(1)).clamp(min=0.0).numpy())
    return np.concatenate(parts)


def unsure_samples(
    samples: NDArray[np.float32], uncertainty: NDArray[np.float64], n: int, *, seed: int
) -> NDArray[np.float32]:
    """Return ``n`` samples, by turns a blend and one drawn, without repeats, with probability by its uncertainty.

    Args:
        samples: ``[N, ...]``; half of ``n`` at least.
        uncertainty: Of each, as from `uncertainty`; all drawn alike if none is positive.
        n: How many, even.
        seed: Of draws and pairing.

    Raises:
        ConfigError: ``n`` is odd or not positive.
        DataError: Fewer samples than half of ``n``.

    Example:
        >>> x = np.array([[0.0], [1.0], [2.0]], np.float32)
        >>> unsure_samples(x, np.array([0.0, 0.0, 0.5]), 2, seed=0).shape
        (2, 1)
    """
    if n < 2 or n % 2:
        raise ConfigError(f"unsure_samples: n is a positive even number, got {n}.")
    if len(samples) < max(n // 2, 2):
        raise DataError(f"unsure_samples: {n} need at least {max(n // 2, 2)} samples to draw from, got {len(samples)}.")
    rng = np.random.default_rng(seed)
    even = np.full(len(samples), 1.0 / len(samples))
    total = float(uncertainty.sum())
    probability = even if total <= 0.0 else 0.9 * uncertainty / total + 0.1 * even
    drawn = rng.choice(len(samples), n // 2, replace=False, p=probability / probability.sum())
    blends = blend(samples[rng.permutation(len(samples))[: max(n // 2, 2)]], seed=seed)[: n // 2]
    return np.stack([blends, samples[drawn]], axis=1).reshape(n, *samples.shape[1:])
