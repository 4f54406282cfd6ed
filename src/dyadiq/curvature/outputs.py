"""Outputs of the network when one decision at a time is quantized: the forward passes of `gram`, `kl` and `loss`.

One pass for the ranges of activations, then one forward pass per (decision, bits), downstream nodes only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dyadiq.core.errors import DataError
from dyadiq.curvature.losses import check_outputs
from dyadiq.curvature.perturb import Network, fit_activations, quantized_activation, rounded_parameters
from dyadiq.curvature.problem import Problem

__all__ = ["PerturbedOutputs"]


class PerturbedOutputs:
    """Makes the outputs of any chunk of samples, with one decision quantized at a time."""

    def __init__(self, problem: Problem) -> None:
        """Fit the ranges of activations, from all samples, and quantize the weights."""
        self._problem = problem
        self._network = Network(problem)
        self._ranges = fit_activations(problem, self._network)
        self._parameters = rounded_parameters(problem)

    def __call__(self, chunk: int) -> tuple[Tensor, Tensor]:
        """Return the float outputs of a chunk, and those with one decision quantized.

        Shapes:
            float outputs ``[n, C]``; the others ``[len(problem.index), n, C]``, rows as in ``problem.index``; float64.

        Raises:
            DataError: Quantizing one decision makes the outputs NaN or infinite.
            ConfigError: The loss cannot take outputs of this shape.
        """
        problem, network = self._problem, self._network
        with torch.no_grad():
            values = network.run(problem.batches[chunk])
            reference = check_outputs(network.output(values), problem.loss)
            rows = []
            for key in problem.index:
                name = key[0]
                changed = (
                    self._parameters[key]
                    if key in self._parameters
                    else {name: quantized_activation(values[name], self._ranges[key]).to(problem.dtype)}
                )
                rows.append(network.output(values, changed).to(torch.float64).flatten(1))
        perturbed = torch.stack(rows)
        finite = torch.isfinite(perturbed).flatten(1).all(1)
        if not finite.all():
            name, bits = problem.index[int((~finite).nonzero()[0, 0])]
            raise DataError(f"{name}: quantized to {bits} bits the network gives NaN or infinite outputs.")
        return reference, perturbed
