"""The loss of a whole plan, measured: every sample's divergence from the float network with all decisions quantized.

Used with `allocation.refine`, which asks for many plans that differ in one or two decisions. Of one plan, the base,
the tensors that layers start from are kept; of another plan only what lies behind its changed decisions is computed.

    loss_n(plan) = KL(p_n || p_n(plan))      (cross_entropy)
    loss_n(plan) = ||z_n - z_n(plan)||^2     (mse)

The network is fake-quantized as in the methods of this package: weights by `perturb.rounded_parameters`, with the
biases that candidates move, activations by ranges from the float network. Decisions that a plan or the problem leaves
out stay float.
Images are computed 16 at a time with their channels innermost, which is faster on CPUs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dyadiq.core.errors import ConfigError
from dyadiq.curvature.losses import check_outputs, divergence
from dyadiq.curvature.perturb import Network, fit_activations, quantized_activation, rounded_parameters
from dyadiq.curvature.problem import Problem
from dyadiq.ir.execute import run_node

__all__ = ["PlanLoss"]

_AT_ONCE = 16


class PlanLoss:
    """Measures plans on the samples of a problem."""

    def __init__(self, problem: Problem) -> None:
        """Run the float network, fit ranges, quantize every weight at every width.

        Raises:
            DataError: No data, or non-finite outputs.
            ConfigError: Several outputs, or one that the loss cannot take.
        """
        problem.require_one_output("refine")
        problem.require_samples("refine")
        self._problem = problem
        self._network = Network(problem)
        self._ranges = fit_activations(problem, self._network)
        self._rounded = {
            (weight, bits): {name: _channels_innermost(value) for name, value in parameters.items()}
            for (weight, bits), parameters in rounded_parameters(problem).items()
        }
        self._moves_with = {name: weight for (weight, _), found in self._rounded.items() for name in found}
        self._params = {name: _channels_innermost(self._network.parameter(name)) for name in problem.graph.params}
        self._batches = [
            tuple(_channels_innermost(x) for x in part)
            for batch in problem.batches
            for part in zip(*(torch.split(x, _AT_ONCE) for x in batch), strict=True)
        ]
        self._kept = _restart_points(problem)
        self._base: dict[str, int] = {}
        self._values: list[dict[str, Tensor]] = []
        self._references: list[Tensor] = []
        for part in self._batches:
            with torch.no_grad():
                values = self._network.run(part)
                self._references.append(check_outputs(self._network.output(values), problem.loss))
            self._values.append(self._thinned(values))

    def __call__(self, bits: Mapping[str, int]) -> NDArray[np.float64]:
        """Return the loss of every sample, ``[N]``; the base stays. Decisions that are left out are float.

        Raises:
            ConfigError: A width that the problem does not measure.
        """
        losses = []
        for chunk, (values, reference) in enumerate(zip(self._values, self._references, strict=True)):
            changed = self._run(chunk, bits)
            output = self._network.output({**values, **changed}).to(torch.float64).flatten(1)
            losses.append(divergence(reference, output, self._problem.loss).numpy())
        return np.concatenate(losses)

    def rebase(self, bits: Mapping[str, int]) -> None:
        """Make a plan the base, from which others are computed.

        Raises:
            ConfigError: A width that the problem does not measure.
        """
        for chunk, values in enumerate(self._values):
            self._values[chunk] = self._thinned({**values, **self._run(chunk, bits)})
        self._base = {name: bits[name] for name in self._problem.widths if name in bits}

    def _thinned(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value for name, value in values.items() if name in self._kept}

    def _run(self, chunk: int, bits: Mapping[str, int]) -> dict[str, Tensor]:
        """Return the tensors that differ from the base."""
        values = self._values[chunk]
        moved = {name for name in self._problem.widths if self._base.get(name) != bits.get(name)}
        changed: dict[str, Tensor] = {}
        with torch.no_grad():
            for i, name in enumerate(self._problem.graph.inputs):
                if name in moved:
                    changed[name] = self._activation(name, bits, self._batches[chunk][i])
            for node in self._problem.graph.nodes:
                if node.output in moved or any(i in changed or i in moved for i in node.inputs):
                    arguments = [self._argument(i, bits, changed, values) for i in node.inputs]
                    changed[node.output] = self._activation(node.output, bits, run_node(node, arguments))
        return changed

    def _argument(
        self, name: str, bits: Mapping[str, int], changed: Mapping[str, Tensor], values: Mapping[str, Tensor]
    ) -> Tensor:
        if name in changed:
            return changed[name]
        if name in values:
            return values[name]
        weight = self._moves_with.get(name)
        if weight is None or weight not in bits:
            return self._params[name]
        self._require(weight, bits[weight])
        return self._rounded[weight, bits[weight]].get(name, self._params[name])

    def _activation(self, name: str, bits: Mapping[str, int], value: Tensor) -> Tensor:
        if name not in self._problem.widths or name not in bits:
            return value
        self._require(name, bits[name])
        return quantized_activation(value, self._ranges[name, bits[name]]).to(value.dtype)

    def _require(self, name: str, bits: int) -> None:
        if bits not in self._problem.widths[name]:
            raise ConfigError(
                f"{name}: {bits} bits were not measured; measured: "
                f"{', '.join(map(str, self._problem.widths[name]))}. Measure with these bits."
            )


def _restart_points(problem: Problem) -> frozenset[str]:
    """Return the tensors that may be asked for unchanged: outputs, and inputs of what changes by itself or in part."""
    kept = {*problem.graph.inputs, *problem.graph.outputs}
    for node in problem.graph.nodes:
        activations = [name for name in node.inputs if name not in problem.graph.params]
        if len(activations) > 1 or node.output in problem.widths or any(i in problem.widths for i in node.inputs):
            kept.update(activations)
    return frozenset(kept)


def _channels_innermost(value: Tensor) -> Tensor:
    return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
