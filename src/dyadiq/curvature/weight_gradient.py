"""Per-sample weight gradients of a layer and their squared norms, without autograd over parameters.

Used by `trace`. For sample n with layer input x_n and gradient d_n at the layer's output (before activation):

    linear      G_n = d_n x_n^T                     ||G_n||^2 = ||x_n||^2 ||d_n||^2, never formed
    conv2d      G_n = D_n U_n^T per group           direct: form G_n; ghost: <U_n^T U_n, D_n^T D_n>

U_n ``[K, P]`` are the unfolded patches (K inputs of a dot product, P positions), D_n ``[O, P]``. Direct costs
O K P per sample, ghost P P (O + K): the cheaper one is taken, both give the same number.

Source: Rochette et al. 2019, "Efficient per-example gradient computations in CNNs"; Bu et al. 2022 (ghost norm).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor

from dyadiq.core.errors import GraphError
from dyadiq.ir.graph import Node

__all__ = ["squared_norm", "weight_gradient"]


def squared_norm(node: Node, weight_shape: tuple[int, ...], x: Tensor, delta: Tensor) -> Tensor:
    """Return ``||G_n||^2`` of every sample, in float64.

    Args:
        node: A ``linear`` or ``conv2d`` node.
        weight_shape: Shape of its weight.
        x: Its input.
        delta: Gradient at its output, before any fused activation.

    Shapes:
        x ``[N, ...]``, delta ``[N, O, ...]``, result ``[N]``.

    Raises:
        GraphError: The node has no weight.

    Example:
        >>> x, delta = torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0]])
        >>> squared_norm(Node("fc", "linear", ("x", "w"), "fc"), (1, 2), x, delta)
        tensor([100.], dtype=torch.float64)
    """
    if node.op == "linear":
        return _squared(x) * _squared(delta)
    u, d = _patches(node, weight_shape, x, delta)
    n_inputs, n_positions, n_outputs = u.shape[2], u.shape[3], d.shape[2]
    if n_positions * (n_inputs + n_outputs) < n_inputs * n_outputs:
        products = (u.transpose(2, 3) @ u) * (d.transpose(2, 3) @ d)
        return products.to(torch.float64).flatten(1).sum(1)
    return _squared(d @ u.transpose(2, 3))


def weight_gradient(node: Node, weight_shape: tuple[int, ...], x: Tensor, delta: Tensor) -> Tensor:
    """Return ``G_n`` of every sample; arguments as in `squared_norm`.

    Shapes:
        result ``[N, *weight_shape]``.

    Raises:
        GraphError: The node has no weight.
    """
    if node.op == "linear":
        return delta[:, :, None] * x[:, None, :]
    u, d = _patches(node, weight_shape, x, delta)
    return (d @ u.transpose(2, 3)).reshape(len(x), *weight_shape)


def _patches(node: Node, weight_shape: tuple[int, ...], x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Return U ``[N, g, K, P]`` and D ``[N, g, O/g, P]``.

    Raises:
        GraphError: The node has no weight.
    """
    if node.op != "conv2d":
        raise GraphError(f"{node.name}: weight gradients are known for conv2d and linear, got {node.op!r}.")
    groups = int(node.attrs["groups"])
    u = F.unfold(
        x,
        kernel_size=weight_shape[2:],
        dilation=tuple(node.attrs["dilation"]),
        padding=tuple(node.attrs["padding"]),
        stride=tuple(node.attrs["stride"]),
    )
    n, n_positions = len(x), u.shape[2]
    return u.reshape(n, groups, -1, n_positions), delta.reshape(n, groups, -1, n_positions)


def _squared(values: Tensor) -> Tensor:
    return values.to(torch.float64).square().flatten(1).sum(1)
