"""Outputs of the network when one decision at a time is quantized: the forward passes of `gram` and `kl`.

One pass for the ranges of activations, then one forward pass per (decision, bits), downstream nodes only.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dyadiq.core.errors import DataError
from dyadiq.curvature.losses import check_outputs
from dyadiq.curvature.perturb import Network, fit_activations, quantized_activation, quantized_weight
from dyadiq.curvature.problem import Problem

__all__ = ["perturbed_outputs"]


def perturbed_outputs(problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, per chunk of samples, the float outputs and those with one decision quantized.

    Shapes:
        float outputs ``[n, C]``; the others ``[len(problem.index), n, C]``, rows as in ``problem.index``; float64.

    Raises:
        DataError: Quantizing one decision makes the outputs NaN or infinite.
        ConfigError: The loss cannot take outputs of this shape.
    """
    network = Network(problem)
    ranges = fit_activations(problem, network)
    weights = {
        (name, bits): torch.from_numpy(quantized_weight(problem, name, bits)).to(problem.dtype)
        for name in problem.weights
        for bits in problem.widths[name]
    }
    problem.progress.start("forward passes", len(problem.batches) * len(problem.index))
    for batch in problem.batches:
        with torch.no_grad():
            values = network.run(batch)
            reference = check_outputs(network.output(values), problem.loss)
            rows = []
            for key in problem.index:
                name = key[0]
                quantized = (
                    weights[key]
                    if key in weights
                    else quantized_activation(values[name], ranges[key]).to(problem.dtype)
                )
                rows.append(network.output(values, {name: quantized}).to(torch.float64).flatten(1))
                problem.progress.advance(note=f"{name} {key[1]} bits")
        perturbed = torch.stack(rows)
        finite = torch.isfinite(perturbed).flatten(1).all(1)
        if not finite.all():
            name, bits = problem.index[int((~finite).nonzero()[0, 0])]
            raise DataError(f"{name}: quantized to {bits} bits the network gives NaN or infinite outputs.")
        yield reference, perturbed
    problem.progress.finish()
