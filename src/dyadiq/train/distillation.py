"""The distillation loss: a student learns the softened class probabilities of a teacher.

Used by `loop`. Source: Hinton, Vinyals and Dean 2015, section 2; the factor ``T^2`` keeps the gradient's size
independent of the temperature, and the divergence is averaged over the batch (not over batch times classes).
"""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor

__all__ = ["distillation_loss"]


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return ``T^2 * mean_n sum_c p_nc * log(p_nc / q_nc)``, ``p`` and ``q`` softmax of logits over T.

    Args:
        student: Logits that get the gradient.
        teacher: Logits to imitate.
        temperature: T; larger values weigh the unlikely classes more.

    Shapes:
        Both ``[N, C]``; the result is a scalar.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> float(distillation_loss(logits, logits, 3.0))
        0.0
    """
    log_q = F.log_softmax(student / temperature, dim=1)
    log_p = F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2
