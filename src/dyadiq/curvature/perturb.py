"""What quantizing one decision does to its tensor: the perturbations all methods measure.

Used by the methods of this package. The arithmetic is `core.affine`, in float64; networks run through
`ir.execute`. Weights are those of the canonical graph, batch norm folded in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dyadiq.core.affine import AffineParams, dequantize, fit_affine, quantize
from dyadiq.core.ranges import make_observer
from dyadiq.curvature.problem import Problem
from dyadiq.ir.biases import weight_biases
from dyadiq.ir.execute import graph_params, run_graph, run_node
from dyadiq.ir.graph import Node

__all__ = [
    "Network",
    "fit_activations",
    "quantized_activation",
    "quantized_weight",
    "rounded_parameters",
    "squared_activation_error",
]


class Network:
    """The float network of a problem, with all its tensors at hand and cheap re-runs after a change."""

    def __init__(self, problem: Problem) -> None:
        """Convert the parameters once."""
        self._graph = problem.graph
        self._params = graph_params(problem.graph, problem.dtype)
        self._output = problem.graph.outputs[0]

    def run(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return every activation tensor by name, given those of the inputs in order; differentiable if these are."""
        values: dict[str, Tensor] = {}
        run_graph(self._graph, inputs, self._params, lambda name, value: values.setdefault(name, value))
        return values

    def run_only(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return what `run` does, without derivatives."""
        with torch.no_grad():
            return self.run(inputs)

    def output_of(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the network's output alone, without derivatives; tensors are let go of as soon as possible."""
        with torch.no_grad():
            return run_graph(self._graph, inputs, self._params)[0]

    def parameter(self, name: str) -> Tensor:
        """Return a parameter of the float network."""
        return self._params[name]

    def output(
        self,
        values: Mapping[str, Tensor],
        changed: Mapping[str, Tensor] | None = None,
        layer: Callable[[Node, list[Tensor]], Tensor] = run_node,
    ) -> Tensor:
        """Return the network's output when some tensors or parameters are replaced.

        Only nodes downstream of a change are computed, by ``layer``; the others come from ``values``.
        """
        changed = dict(changed or {})
        for node in self._graph.nodes:
            if any(name in changed for name in node.inputs):
                arguments = [self._look_up(name, values, changed) for name in node.inputs]
                changed[node.output] = layer(node, arguments)
        return self._look_up(self._output, values, changed)

    def _look_up(self, name: str, values: Mapping[str, Tensor], changed: Mapping[str, Tensor]) -> Tensor:
        for source in (changed, values):
            if name in source:
                return source[name]
        return self._params[name]


def quantized_weight(problem: Problem, name: str, bits: int) -> NDArray[np.float64]:
    """Return ``Q_b(w)`` of a weight, in float64: the problem's candidate, or nearest rounding."""
    if problem.candidates is not None and (name, bits) in problem.candidates:
        return problem.candidates[name, bits]
    weight = np.asarray(problem.graph.params[name], dtype=np.float64)
    params = fit_affine(weight, problem.facts.config.weight.with_bits(bits), name=name)
    return dequantize(quantize(weight, params, name=name), params)


def rounded_parameters(problem: Problem) -> dict[tuple[str, int], dict[str, Tensor]]:
    """Return, for every weight and width, the parameters that change with it, by name, in the problem's precision.

    These are the weight itself, `quantized_weight`, and the bias of its layer where the candidates move it.
    """
    biases, given = weight_biases(problem.graph), problem.candidates or {}
    found = {}
    for name in problem.weights:
        for bits in problem.widths[name]:
            changed = {name: quantized_weight(problem, name, bits)}
            if (bias := biases.get(name)) is not None and (bias, bits) in given:
                changed[bias] = given[bias, bits]
            found[name, bits] = {n: torch.from_numpy(value).to(problem.dtype) for n, value in changed.items()}
    return found


def fit_activations(problem: Problem, network: Network) -> dict[tuple[str, int], AffineParams]:
    """Return the quantizer of every activation at every width: the problem's, or from one pass over its data.

    As in `quant.calibrate`: unsigned where values are >= 0 by construction, or where network inputs turn out so;
    headroom for network outputs of 16 bits.
    """
    if problem.ranges is not None:
        return {(n, bits): problem.ranges[n, bits] for n in problem.activations for bits in problem.widths[n]}
    observers = {
        (name, bits): make_observer(
            problem.facts.config.activation.with_bits(bits),
            nonnegative=True if name in problem.sites.nonnegative else None if name in problem.sites.inputs else False,
            name=name,
            seed=problem.seed,
            answer=name in problem.sites.outputs,
        )
        for name in problem.activations
        for bits in problem.widths[name]
    }
    if not observers:
        return {}
    problem.progress.start("ranges of activations", len(problem.batches))
    for batch in problem.batches:
        with torch.no_grad():
            values = network.run(batch)
        arrays = {name: values[name].to(torch.float64).numpy() for name in problem.activations}
        for (name, _), observer in observers.items():
            observer.update(arrays[name])
        problem.progress.advance()
    problem.progress.finish()
    return {key: observer.params() for key, observer in observers.items()}


def quantized_activation(value: Tensor, params: AffineParams) -> Tensor:
    """Return ``Q_b(a)`` in float64."""
    array = value.detach().to(torch.float64).numpy()
    return torch.from_numpy(dequantize(quantize(array, params), params))


def squared_activation_error(value: Tensor, params: AffineParams) -> NDArray[np.float64]:
    """Return ``||Q_b(a) - a||^2`` of every sample.

    Shapes:
        value ``[N, ...]``, result ``[N]``.
    """
    error = quantized_activation(value, params) - value.detach().to(torch.float64)
    return error.flatten(1).square().sum(1).numpy()
