"""The metric of the outputs: a square root S of the Hessian of the loss with respect to the outputs.

Used by `gram` (S^T times a change of the outputs) and `trace` (columns of S, sent backward). Knows no graph.

``S S^T`` is the Hessian of the loss of one sample with respect to its outputs z, independent of the label:

    cross_entropy   S = diag(sqrt p) - p sqrt(p)^T,  S S^T = diag(p) - p p^T,  p = softmax(z)
    mse             S = sqrt(2) I                     (loss ||z - y||^2)

For small changes, ``1/2 ||S^T dz||^2`` is the KL divergence from softmax(z) to softmax(z + dz), respectively
exactly ``||dz||^2``. Outputs here are ``[..., N, C]`` in float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dyadiq.core.errors import ConfigError, DataError
from dyadiq.curvature.problem import Loss

__all__ = ["UNITS", "check_labels", "check_outputs", "divergence", "root_column", "root_times", "root_transposed_times"]

UNITS = {"cross_entropy": "nats", "mse": "squared output error"}


def check_outputs(outputs: Tensor, loss: Loss) -> Tensor:
    """Return the outputs as ``[N, C]`` in float64.

    Raises:
        ConfigError: The loss cannot take outputs of this shape.
        DataError: The float network gives NaN or infinity.
    """
    if loss == "cross_entropy" and (outputs.ndim != 2 or outputs.shape[1] < 2):
        raise ConfigError(
            f"loss 'cross_entropy' needs logits of shape [N, C] with C >= 2, got {list(outputs.shape)}. Use loss 'mse'."
        )
    flat = outputs.detach().to(torch.float64).flatten(1)
    if not torch.isfinite(flat).all():
        raise DataError(
            "the float network gives NaN or infinite outputs on the calibration data. "
            "Check the scale of the inputs, or use precision 'float64'."
        )
    return flat


def check_labels(labels: Tensor, outputs: Tensor, loss: Loss) -> Tensor:
    """Return the labels of samples as `sample_losses` takes them: class numbers, or targets like the outputs.

    Raises:
        DataError: They do not fit the outputs.
    """
    if loss == "mse":
        if labels[0].numel() != outputs.shape[1]:
            raise DataError(
                f"loss 'mse': labels have shape {list(labels.shape)}, expected {outputs.shape[1]} targets a sample."
            )
        return labels.to(torch.float64).reshape(outputs.shape)
    whole = labels.ndim == 1 and not labels.is_floating_point()
    if not whole or int(labels.min()) < 0 or int(labels.max()) >= outputs.shape[1]:
        extent = f", from {labels.min().item()} to {labels.max().item()}" if labels.numel() else ""
        raise DataError(
            f"loss 'cross_entropy': labels are {labels.dtype} of shape {list(labels.shape)}{extent}; "
            f"expected integers [N] in 0 to {outputs.shape[1] - 1}."
        )
    return labels.to(torch.int64)


def divergence(reference: Tensor, outputs: Tensor, loss: Loss) -> Tensor:
    """Return ``KL(p || p')`` of every sample in nats, or ``||z' - z||^2``.

    Shapes:
        reference ``[N, C]``, outputs ``[..., N, C]``, result ``[..., N]``.

    Example:
        >>> z = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
        >>> divergence(z, z + 3.0, "cross_entropy"), divergence(z, z + 3.0, "mse")  # a shift changes no probability
        (tensor([0.], dtype=torch.float64), tensor([18.], dtype=torch.float64))
    """
    if loss == "mse":
        return (outputs - reference).square().sum(-1)
    log_p = reference.log_softmax(-1)
    return (log_p.exp() * (log_p - outputs.log_softmax(-1))).sum(-1).clamp(min=0.0)  # rounding can leave -1e-17


def root_column(outputs: Tensor, column: int, loss: Loss) -> Tensor:
    """Return ``S[:, column]`` of every sample.

    Shapes:
        outputs ``[N, C]``, result ``[N, C]``.

    Example:
        >>> root_column(torch.zeros(1, 2, dtype=torch.float64), 0, "cross_entropy")
        tensor([[ 0.3536, -0.3536]], dtype=torch.float64)
    """
    signs = torch.zeros_like(outputs)
    signs[:, column] = 1.0
    return root_times(outputs, signs, loss)


def root_times(outputs: Tensor, vectors: Tensor, loss: Loss) -> Tensor:
    """Return ``S v`` of every sample: ``sqrt(p) v - p (sqrt(p) . v)``, or ``sqrt(2) v``.

    Shapes:
        outputs and vectors ``[N, C]``, result ``[N, C]``.
    """
    if loss == "mse":
        return math.sqrt(2.0) * vectors
    p = outputs.softmax(-1)
    scaled = p.sqrt() * vectors
    return scaled - p * scaled.sum(-1, keepdim=True)


def root_transposed_times(outputs: Tensor, vectors: Tensor, loss: Loss) -> Tensor:
    """Return ``S^T v`` of every sample: ``sqrt(p) (v - p . v)``, or ``sqrt(2) v``.

    Shapes:
        outputs ``[N, C]``, vectors and result ``[..., N, C]``.

    Example:
        >>> z = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
        >>> root_transposed_times(z, torch.ones_like(z), "cross_entropy").abs().max() < 1e-15  # a shift changes nothing
        tensor(True)
    """
    if loss == "mse":
        return math.sqrt(2.0) * vectors
    p = outputs.softmax(-1)
    return p.sqrt() * (vectors - (p * vectors).sum(-1, keepdim=True))
