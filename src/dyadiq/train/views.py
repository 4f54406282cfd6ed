"""What a teacher is shown of a sample: several views, whose logits are averaged.

Used by `batches`. A network that is asked twice, once for the image and once for its mirror image, is right more often
than it is when asked once (docs/validation.md, "What 4 bits cost ResNet-20"). It is for images whose class survives
mirroring; nothing here checks that. New views are one line in `VIEWS` and a name in `TrainConfig` and recipes.
Sources: Krizhevsky et al. 2012, section 4.1 (averages over mirrored crops); Radosavovic et al. 2018, Data distillation
(a student learns what one network says of several transformations).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from torch import Tensor, nn

from dyadiq.core.errors import DataError

__all__ = ["VIEWS", "AveragedViews"]

Views: TypeAlias = Callable[[Tensor], tuple[Tensor, ...]]


def _mirror(x: Tensor) -> tuple[Tensor, ...]:
    if x.ndim != 4:
        raise DataError(
            f"teacher_views: 'mirror' takes images [N, C, H, W], got samples of shape {list(x.shape[1:])}. Use 'one'."
        )
    return x, x.flip(3)


VIEWS: Mapping[str, Views] = MappingProxyType({"one": lambda x: (x,), "mirror": _mirror})


class AveragedViews(nn.Module):
    """A network that says the mean of what another one says of every view: ``mean_v f(v(x))``.

    Args:
        network: f, asked for each view.
        views: A name in `VIEWS`.

    Shapes:
        As the network's: samples ``[N, ...]``, logits ``[N, C]``.

    Raises:
        DataError: In ``forward``, samples that are no images, for ``mirror``.

    Example:
        >>> import torch
        >>> left = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False))
        >>> left[1].weight = nn.Parameter(torch.tensor([[1.0, 0.0]]))
        >>> AveragedViews(left, "mirror")(torch.tensor([[[[3.0, 5.0]]]]))
        tensor([[4.]], grad_fn=<DivBackward0>)
    """

    def __init__(self, network: nn.Module, views: str) -> None:
        super().__init__()
        self.network = network
        self._views = VIEWS[views]

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean of the logits of every view."""
        logits = [self.network(view) for view in self._views(x)]
        total: Tensor = sum(logits[1:], start=logits[0])
        return total / len(logits)
