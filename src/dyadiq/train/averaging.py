"""Exponential moving average of weights: what is validated and kept in place of the last step's weights.

Used by `loop`. Averages every floating tensor of the state dict (weights, batch norm statistics, quantizer ranges);
counters are taken as they are. The decay grows with the steps, so that early weights do not linger:

    a <- d a + (1 - d) w,   d = min(decay, (1 + t) / (10 + t)),   t = steps so far

Source: Polyak and Juditsky 1992; the growing decay as in Izmailov et al. 2018 and common practice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Average", "decay_of_step"]


def decay_of_step(decay: float, step: int) -> float:
    """Return the decay after so many steps.

    Example:
        >>> decay_of_step(0.999, 0), decay_of_step(0.999, 10**6)
        (0.1, 0.999)
    """
    return min(decay, (1 + step) / (10 + step))


class Average:
    """Averages of a model's tensors.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> average = Average(model, 0.5)
        >>> average.decay
        0.5
    """

    def __init__(self, model: nn.Module, decay: float, state: Mapping[str, Tensor] | None = None) -> None:
        """Start from the model's weights, or from the state of an earlier average."""
        self.decay = decay
        self._model = model
        self._tensors = {name: value.detach().clone() for name, value in (state or self._floating()).items()}

    def _floating(self) -> dict[str, Tensor]:
        return {name: value for name, value in self._model.state_dict().items() if value.is_floating_point()}

    def state(self) -> dict[str, Tensor]:
        """Return the averages by name."""
        return dict(self._tensors)

    def update(self, step: int) -> None:
        """Move towards the model's weights after a step."""
        share = 1.0 - decay_of_step(self.decay, step)
        with torch.no_grad():
            for name, value in self._floating().items():
                self._tensors[name].lerp_(value, share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages into the model, and its own weights back afterwards."""
        own = {name: value.clone() for name, value in self._floating().items()}
        self._load(self._tensors)
        try:
            yield
        finally:
            self._load(own)

    def apply_(self) -> None:
        """Put the averages into the model for good."""
        self._load(self._tensors)

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self._floating().items():
                value.copy_(tensors[name])
