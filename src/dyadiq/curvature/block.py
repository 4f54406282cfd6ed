"""The curvature of the loss in one tensor as a linear operator: products with vectors, never a matrix.

Used by `eigenvalue`, `hessian_trace` and `spectrum`. Knows layers only through `perturb.Network`; no quantization.

For a weight w and samples n with outputs z_n, Jacobians J_n = dz_n/dw and S_n from `losses`,

    gauss_newton(v) = 1/N sum_n J_n^T S_n S_n^T J_n v       J v by two reverse passes (J^T u is linear in u), J^T by one
    hessian(v)      = 1/N sum_n H_n v                        true Hessian of the loss at the labels, double backward
    quadratic(v)_n  = v^T H_n v                              every sample alone, without one backward pass to w:

the layer's output is made a function of one number per sample, ``op(x_n, w + t_n v)``, which is
``op(x_n, w) + t_n op(x_n, v)``, so that d^2 loss_n / dt_n^2 comes from two backward passes to t.

An activation has a block per sample: vectors are ``[N, d]`` and every row meets the matrix of its own sample.
Chunks are run again for every product, so memory is that of one chunk and of the tensors that enter the part of the
network behind the block.

Sources: Schraudolph 2002 (Gauss-Newton products); Pearlmutter 1994 (Hessian products).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from numpy.typing import NDArray
from torch import Tensor

from dyadiq.core.errors import DataError
from dyadiq.curvature.losses import check_labels, check_outputs, root_times, root_transposed_times
from dyadiq.curvature.perturb import Network
from dyadiq.curvature.problem import Loss, Problem
from dyadiq.ir.execute import run_node
from dyadiq.ir.graph import Graph, Node

__all__ = ["Block", "sample_losses"]

Floats = NDArray[np.float64]


class Block:
    """Curvature in one weight or activation of a problem.

    Attributes:
        name: The tensor.
        n_rows: 1 for a weight, the number of samples for an activation.
        n_elements: Elements of a row.
        n_samples: Samples.
    """

    def __init__(self, problem: Problem, network: Network, name: str) -> None:
        """Run the network once and keep what enters the part behind the tensor."""
        self.name = name
        self._problem, self._network = problem, network
        self._is_weight = name in problem.graph.params
        self._entering = _entering(problem.graph, name)
        self._chunks: list[dict[str, Tensor]] = []
        for batch in problem.batches:
            with torch.no_grad():
                values = network.run(batch)
                check_outputs(network.output(values), problem.loss)
            self._chunks.append({key: values[key] for key in self._entering})
        self.n_samples = problem.n_samples
        self.n_rows = 1 if self._is_weight else self.n_samples
        self.n_elements = problem.facts.decision(name).n_elements

    def gauss_newton(self, vector: Floats) -> tuple[Floats, Floats]:
        """Return the product with the Gauss-Newton block, and ``||S_n^T J_n v||^2`` of every sample.

        Shapes:
            vector ``[n_rows, n_elements]``, products the same, squares ``[n_samples]``.

        Raises:
            DataError: A product is not finite.
        """
        product, squares = np.zeros_like(vector), []
        for rows, chunk, _ in self._each():
            variable, outputs = self._run(chunk)
            dummy = torch.zeros_like(outputs, requires_grad=True)
            (back,) = torch.autograd.grad(outputs, variable, dummy, create_graph=True)
            direction = self._vector(vector[rows], variable)
            moved = torch.autograd.grad(back, dummy, direction)[0] if back.requires_grad else torch.zeros_like(outputs)
            flat, shape = outputs.detach().to(torch.float64).flatten(1), outputs.shape
            rooted = root_transposed_times(flat, moved.to(torch.float64).flatten(1), self._problem.loss)
            squares.append(rooted.square().sum(1).numpy())
            metric = root_times(flat, rooted, self._problem.loss).to(outputs.dtype).reshape(shape)
            (result,) = torch.autograd.grad(outputs, variable, metric)
            self._add(product, rows, result)
        return self._mean(product), self._finite(np.concatenate(squares))

    def hessian(self, vector: Floats) -> Floats:
        """Return the product with the Hessian block of the loss at the problem's labels.

        Shapes:
            vector and product ``[n_rows, n_elements]``.

        Raises:
            DataError: The problem has no labels, or a product is not finite.
        """
        product = np.zeros_like(vector)
        for rows, chunk, labels in self._each():
            variable, outputs = self._run(chunk)
            loss = sample_losses(outputs, self._labels(labels, outputs), self._problem.loss).sum()
            (gradient,) = torch.autograd.grad(loss, variable, create_graph=True)
            if gradient.requires_grad:
                (result,) = torch.autograd.grad(
                    gradient, variable, self._vector(vector[rows], variable), allow_unused=True, materialize_grads=True
                )
                self._add(product, rows, result)
        return self._mean(product)

    def quadratic(self, vector: Floats) -> Floats:
        """Return ``v^T H_n v`` of every sample, H_n the Hessian of its loss at its label.

        Shapes:
            vector ``[n_rows, n_elements]``, result ``[n_samples]``.

        Raises:
            DataError: The problem has no labels, or a product is not finite.
        """
        values = []
        for rows, chunk, labels in self._each():
            step = torch.zeros(len(next(iter(chunk.values()))), dtype=self._problem.dtype, requires_grad=True)
            outputs = self._along(chunk, self._vector(vector[rows], self._start(chunk)), step)
            loss = sample_losses(outputs, self._labels(labels, outputs), self._problem.loss).sum()
            (slope,) = torch.autograd.grad(loss, step, create_graph=True)
            second = torch.zeros_like(slope)
            if slope.requires_grad:
                (second,) = torch.autograd.grad(slope.sum(), step, allow_unused=True, materialize_grads=True)
            values.append(second.detach().to(torch.float64).numpy())
        return self._finite(np.concatenate(values))

    def _each(self) -> Iterator[tuple[slice, dict[str, Tensor], Tensor | None]]:
        """Yield the rows of the vectors that a chunk belongs to, its tensors and its labels."""
        first = 0
        labels = self._problem.labels
        for i, chunk in enumerate(self._chunks):
            n = len(self._problem.batches[i][0])
            yield slice(0, 1) if self._is_weight else slice(first, first + n), chunk, labels[i] if labels else None
            first += n

    def _start(self, chunk: Mapping[str, Tensor]) -> Tensor:
        return self._network.parameter(self.name) if self._is_weight else chunk[self.name]

    def _run(self, chunk: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        variable = self._start(chunk).clone().requires_grad_()
        return variable, self._network.output(chunk, {self.name: variable})

    def _along(self, chunk: Mapping[str, Tensor], direction: Tensor, step: Tensor) -> Tensor:
        """Return the outputs where the tensor has moved by ``step[n]`` times the direction."""
        if not self._is_weight:
            moved = chunk[self.name] + _of_samples(step, direction) * direction
            return self._network.output(chunk, {self.name: moved})

        def layer(node: Node, arguments: list[Tensor]) -> Tensor:
            if self.name not in node.inputs:
                return run_node(node, arguments)
            attrs = {key: value for key, value in node.attrs.items() if key != "activation"}
            bare = Node(node.name, node.op, node.inputs, node.output, attrs)
            base = run_node(bare, arguments)
            change = run_node(bare, [arguments[0], direction])
            moved = base + _of_samples(step, base) * change
            if "activation" not in node.attrs:
                return moved
            return run_node(Node(node.name, node.attrs["activation"], (node.output,), node.output, attrs), [moved])

        return self._network.output(chunk, {self.name: self._network.parameter(self.name)}, layer)

    def _labels(self, labels: Tensor | None, outputs: Tensor) -> Tensor:
        if labels is None:
            raise DataError(
                "the Hessian of the loss needs labels, got batches without them. Give batches as (inputs, labels), or "
                "use the Gauss-Newton form (method 'trace' or 'eigenvalue'), which is the expectation over the "
                "network's own labels."
            )
        return check_labels(labels, outputs.detach().flatten(1), self._problem.loss)

    def _vector(self, rows: Floats, like: Tensor) -> Tensor:
        return torch.from_numpy(rows).to(like.dtype).reshape(like.shape)

    def _add(self, product: Floats, rows: slice, result: Tensor) -> None:
        flat = result.detach().to(torch.float64).numpy()
        product[rows] += flat.reshape(1 if self._is_weight else len(flat), -1)

    def _mean(self, product: Floats) -> Floats:
        return self._finite(product / self.n_samples if self._is_weight else product)

    def _finite(self, values: Floats) -> Floats:
        if not np.isfinite(values).all():
            raise DataError(
                f"{self.name}: a product with the curvature of the loss in this tensor is NaN or infinite in "
                f"{self._problem.precision}. Use precision 'float64', or method 'gram', which takes no derivatives."
            )
        return values


def sample_losses(outputs: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    """Return the loss of every sample: cross entropy of class numbers, or the sum of squared differences to targets.

    Shapes:
        outputs ``[N, C]``, labels ``[N]`` or as outputs, result ``[N]``.

    Example:
        >>> sample_losses(torch.tensor([[0.0, 0.0]]), torch.tensor([1]), "cross_entropy")
        tensor([0.6931])
    """
    if loss == "cross_entropy":
        return F.cross_entropy(outputs, labels, reduction="none")
    return (outputs - labels.to(outputs.dtype)).square().flatten(1).sum(1)


def _of_samples(step: Tensor, like: Tensor) -> Tensor:
    return step.reshape(-1, *([1] * (like.ndim - 1)))


def _entering(graph: Graph, name: str) -> tuple[str, ...]:
    """Return the activations that the part of the network behind a tensor reads, the tensor itself included."""
    behind, read = {name}, [] if name in graph.params else [name]
    for node in graph.nodes:
        if any(i in behind for i in node.inputs):
            behind.add(node.output)
            read += [i for i in node.inputs if i not in behind and i not in graph.params]
    return tuple(dict.fromkeys(read))
