"""The training samples of a step: in seeded order, augmented, with what the teacher says of them.

Used by `loop`. Everything random comes from ``(seed, epoch)``. Without augmentation the teacher is asked once for all
samples; with it, for every batch as it is, since a teacher that saw another crop says something else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dyadiq.core.errors import ConfigError
from dyadiq.train.augment import AUGMENTATIONS, MIXING
from dyadiq.train.config import TrainConfig
from dyadiq.train.distributed import World
from dyadiq.train.evaluate import device_of, evaluation_mode, predict, single_output
from dyadiq.train.precision import autocast
from dyadiq.train.views import AveragedViews
from dyadiq.zoo.data import Split

__all__ = ["Batches", "Step", "seed_of"]


class Step(NamedTuple):
    """Samples ``[N, ...]``, labels ``[N]``, and logits of the teacher ``[N, C]`` if there is one."""

    x: Tensor
    y: Tensor
    teacher: Tensor | None


class Batches:
    """The training tensors on the model's device, and the batches of each epoch.

    Attributes:
        count: Batches of an epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        split: Split,
        config: TrainConfig,
        teacher: nn.Module | None,
        world: World | None = None,
    ) -> None:
        """Move the samples to the model's device; ask the teacher if there is no augmentation.

        Raises:
            ConfigError: Several processes, and they would not do what one does; or samples without labels are to be
                learned from their labels.
        """
        if config.augment in MIXING and (teacher is None or config.distill_weight < 1):
            raise ConfigError(
                f"training: augment {config.augment!r} makes samples without labels, so it needs a teacher and "
                f"distill_weight = 1, got {'no teacher' if teacher is None else config.distill_weight}."
            )
        device = device_of(model)
        # Never written to, so that on the CPU it may be the user's own memory.
        self._x = torch.as_tensor(split.x, device=device)
        self._y = torch.as_tensor(split.y, device=device)
        self._augment = None if config.augment == "none" else AUGMENTATIONS[config.augment]
        self._black = self._x.amin([0, *range(2, self._x.ndim)])
        if teacher is not None and config.teacher_views != "one":
            teacher = AveragedViews(teacher, config.teacher_views)
        self._teacher, self._logits = teacher, None
        if teacher is not None and self._augment is None:
            self._logits = predict(teacher, split.x).to(device)
        self._size = min(config.batch_size, len(split))
        self.count = len(split) // self._size
        self._world = World(0, 1) if world is None else world
        self._world.check(model, config, self._size)
        self._config = config

    def of_epoch(self, epoch: int) -> Iterator[Step]:
        """Yield the batches of an epoch, or this process's share; the same for the same seed and epoch."""
        generator = torch.Generator().manual_seed(seed_of(self._config.seed, epoch, "augment"))
        for index in self._order(epoch):
            x = self._x[index]
            if self._augment is not None:
                x = self._augment(x, self._black, generator)
            x, index = self._world.share(x), self._world.share(index)
            yield Step(x, self._y[index], self._teacher_logits(x, index))

    def _teacher_logits(self, x: Tensor, index: Tensor) -> Tensor | None:
        if self._logits is not None:
            return self._logits[index]
        if self._teacher is None:
            return None
        with evaluation_mode(self._teacher), autocast(x.device, self._config.precision):
            return single_output(self._teacher, x.to(device_of(self._teacher))).float().to(x.device)

    def _order(self, epoch: int) -> Tensor:
        """Return the sample indices of each batch, ``[count, size]``."""
        generator = torch.Generator().manual_seed(seed_of(self._config.seed, epoch, "order"))
        order = torch.randperm(len(self._y), generator=generator).to(self._y.device)
        return order[: self.count * self._size].reshape(self.count, self._size)


def seed_of(seed: int, epoch: int, use: str) -> int:
    """Return a 63-bit seed that differs between epochs and uses.

    Example:
        >>> seed_of(0, 1, "order") == seed_of(0, 1, "order"), seed_of(0, 1, "order") == seed_of(0, 2, "order")
        (True, False)
    """
    words = np.random.SeedSequence([seed, epoch, *use.encode()]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))
