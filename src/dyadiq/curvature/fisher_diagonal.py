"""Diagonal of the Fisher information of single weights, for any differentiable classifier.

Used by `train.sparsify`, which asks for every weight how much its rounding costs. With labels drawn from the network's
own softmax, gradients have mean zero, so for a batch of m samples

    E[(sum_n dL_n/dw)^2] = m F_ww,    F_ww = E[(dL_n/dw)^2] = the diagonal of the Gauss-Newton matrix of cross entropy.

The mean over K batches has a relative standard error of about ``sqrt(2 / K)``; small batches cost time, not bias.
Source: Martens 2020, "New insights and perspectives on the natural gradient method", section 9.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor

from dyadiq.core.errors import DataError

__all__ = ["fisher_diagonal"]


def fisher_diagonal(
    model: Callable[[Tensor], Tensor],
    parameters: Mapping[str, Tensor],
    x: Tensor,
    *,
    micro_batch: int = 32,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return ``F_ww`` of every weight, float64, by name.

    Args:
        model: Returns logits ``[N, C]``.
        parameters: Tensors the logits depend on, that ask for gradients.
        x: Samples; a rest smaller than a micro batch is left out.
        micro_batch: Samples of one gradient.
        seed: Of the labels drawn.

    Raises:
        DataError: Fewer samples than a micro batch; logits that are no ``[N, C]`` or not finite.

    Example:
        >>> weight = torch.zeros(2, 1, requires_grad=True)  # p = 1/2 each: F = p (1 - p) x^2 = 1/4 exactly
        >>> fisher_diagonal(lambda x: x @ weight.T, {"w": weight}, torch.ones(8, 1), micro_batch=1)["w"].tolist()
        [[0.25], [0.25]]
    """
    count = len(x) // micro_batch
    if count < 1:
        raise DataError(f"Fisher diagonal: got {len(x)} samples, expected at least {micro_batch}. Give it more data.")
    generator = torch.Generator(device=x.device).manual_seed(seed)
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in parameters.items()}
    for chunk in x[: count * micro_batch].reshape(count, micro_batch, *x.shape[1:]):
        logits = model(chunk)
        if logits.ndim != 2 or not bool(logits.isfinite().all()):
            raise DataError(
                f"Fisher diagonal: the model returns shape {list(logits.shape)}, expected finite logits [N, classes]. "
                "Build it with one output per class, and look for NaN in its weights."
            )
        labels = torch.multinomial(logits.detach().softmax(1), 1, generator=generator)[:, 0]
        loss = F.cross_entropy(logits, labels, reduction="sum")
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            total[name] += gradient.double().square()
    return {name: value / (count * micro_batch) for name, value in total.items()}
