"""Squared norms of every sample's gradient, in each weight and activation, along given directions of the outputs.

Used by `trace` (columns of the metric's root, or random signs) and `fisher` (the gradient of the loss at the label).
One backward pass per direction to the outputs of layers; gradients of weights are never summed over samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from dyadiq.curvature.problem import Problem
from dyadiq.curvature.weight_gradient import squared_norm, weight_gradient
from dyadiq.ir.execute import passing_mask

__all__ = ["sample_norms"]


def sample_norms(
    problem: Problem, output: Tensor, values: Mapping[str, Tensor], vectors: Iterator[Tensor], n_vectors: int
) -> dict[str, Tensor]:
    """Return ``sum over vectors of ||J_n^T vector_n||^2`` of every decision to measure.

    Args:
        problem: Which decisions.
        output: Of the network, with its autograd graph.
        values: Every tensor of the same pass.
        vectors: Directions in the space of the outputs, ``[n, C]`` each.
        n_vectors: Their number.

    Shapes:
        result ``[n]`` each, float64.
    """
    graph = problem.graph
    users = {name: [node for node in graph.nodes if name in node.inputs] for name in problem.weights}
    tensors = sorted({node.output for nodes in users.values() for node in nodes} | set(problem.activations))
    sources = [values[name] for name in tensors]
    traces = {name: torch.zeros(len(output), dtype=torch.float64) for name in problem.widths}
    for i, vector in enumerate(vectors):
        gradients = dict(
            zip(
                tensors,
                torch.autograd.grad(
                    output,
                    sources,
                    grad_outputs=vector.to(output.dtype).reshape(output.shape),
                    retain_graph=i + 1 < n_vectors,
                    allow_unused=True,
                    materialize_grads=True,
                ),
                strict=True,
            )
        )
        for name in problem.activations:
            traces[name] += gradients[name].to(torch.float64).square().flatten(1).sum(1)
        for name, nodes in users.items():
            shape = graph.params[name].shape
            parts = []
            for node in nodes:
                delta = gradients[node.output]
                mask = passing_mask(node, values[node.output])
                if mask is not None:
                    delta = delta * mask
                parts.append((node, shape, values[node.inputs[0]].detach(), delta))
            if len(parts) == 1:
                norms = squared_norm(*parts[0])
            else:  # One weight in several places: its gradient is the sum of theirs.
                total = torch.stack([weight_gradient(*part) for part in parts]).to(torch.float64).sum(0)
                norms = total.square().flatten(1).sum(1)
            traces[name] += norms
    return traces
