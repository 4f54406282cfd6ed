"""Samples that a network is unsure about, drawn without labels.

A network at the end of training is certain about almost all its training samples, and says nothing about what
quantization will do to new ones: the divergence is carried by a handful, so that its mean says little. Those it is
unsure about look like the new samples on which plans differ, and equally many of them say more.

Used for the samples of `allocation.refine`, by the pipeline and benchmarks/allocation_quality.py.
Source: this project; the uncertainty is the trace of the metric that `losses` has.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ConfigError, DataError
from dyadiq.core.facts import NetworkFacts
from dyadiq.curvature.losses import check_outputs
from dyadiq.curvature.perturb import Network
from dyadiq.curvature.problem import Problem
from dyadiq.curvature.samples import read_samples
from dyadiq.ir.execute import Batch
from dyadiq.ir.graph import Graph
from dyadiq.ir.sites import find_sites

__all__ = ["draw_unsure", "uncertainty", "uncertainty_of"]

_EVEN_SHARE = 0.1


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


def uncertainty_of(graph: Graph, batches: Iterable[Batch], facts: NetworkFacts) -> NDArray[np.float64]:
    """Return the `uncertainty` of a canonical graph about every sample.

    Raises:
        ConfigError: Outputs that are no logits of classes.
        DataError: No batch, an unusable one, or outputs that are not finite.
    """
    inputs = read_samples(batches, "float32", None, graph.inputs).inputs
    problem = Problem(graph, facts, find_sites(graph), inputs, {})
    return uncertainty(problem, Network(problem))


def draw_unsure(uncertainty: NDArray[np.float64], n: int, *, seed: int) -> NDArray[np.int64]:
    """Return the numbers of ``n`` different samples, drawn with probability by their uncertainty.

    A tenth of the probability is spread evenly, so that none is out of reach.

    Args:
        uncertainty: Of each, as from `uncertainty`; all are drawn alike if none is positive.
        n: How many.
        seed: Of the draws.

    Raises:
        ConfigError: ``n`` is not positive.
        DataError: Fewer samples than ``n``.

    Example:
        >>> draw_unsure(np.array([0.0, 0.0, 0.5]), 1, seed=0)
        array([2])
    """
    if n < 1:
        raise ConfigError(f"draw_unsure: n is a positive number, got {n}.")
    if len(uncertainty) < n:
        raise DataError(f"draw_unsure: {n} samples were asked for, there are {len(uncertainty)} to draw from.")
    even = np.full(len(uncertainty), 1.0 / len(uncertainty))
    total = float(uncertainty.sum())
    by_it = even if total <= 0.0 else (1.0 - _EVEN_SHARE) * uncertainty / total + _EVEN_SHARE * even
    return np.random.default_rng(seed).choice(len(uncertainty), n, replace=False, p=by_it / by_it.sum())
