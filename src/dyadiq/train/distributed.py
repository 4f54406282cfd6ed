"""Training in several processes: each takes its share of every batch, gradients are averaged by torch's DDP.

Used by `loop` and `batches`. Nothing is started here: run under ``torchrun`` and call
``torch.distributed.init_process_group`` first (``gloo`` on CPUs). The result is that of one process on the same
batches, up to the order of sums. Batch statistics are not shared between processes, so batch norms must be frozen.
Dropout draws the same numbers in every process.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dyadiq.core.errors import ConfigError
from dyadiq.core.processes import is_alone
from dyadiq.train.config import TrainConfig

__all__ = ["World"]


@dataclass(frozen=True, slots=True)
class World:
    """The processes that train together.

    Attributes:
        rank: Of this process.
        size: How many there are.

    Example:
        >>> World.current()
        World(rank=0, size=1)
        >>> World(rank=1, size=2).share(torch.arange(6))
        tensor([3, 4, 5])
    """

    rank: int
    size: int

    @classmethod
    def current(cls) -> World:
        """Return those of the default process group; this process alone if there is none."""
        if is_alone() or not (dist.is_available() and dist.is_initialized()):
            return cls(0, 1)
        return cls(dist.get_rank(), dist.get_world_size())

    def check(self, model: nn.Module, config: TrainConfig, batch_size: int) -> None:
        """Check that several processes give what one would.

        Raises:
            ConfigError: Batch norms are live, or a batch has no equal shares.
        """
        if self.size == 1:
            return
        if batch_size % self.size:
            raise ConfigError(
                f"training: batches of {batch_size} samples have no equal shares for {self.size} processes. Use a "
                f"batch_size that {self.size} divides."
            )
        norms = [name for name, _ in model.named_buffers() if name.endswith("running_mean")]
        if norms and config.freeze_bn_epoch != 0:
            raise ConfigError(
                f"training: {len(norms)} batch norms would take statistics from the shares of {self.size} processes "
                "apart. Freeze them with freeze_bn_epoch = 0, or train in one process."
            )

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return what to call in a training step: the model, or DDP around it."""
        if self.size == 1:
            return model
        return DistributedDataParallel(model, find_unused_parameters=True, broadcast_buffers=False)

    def share(self, batch: Tensor) -> Tensor:
        """Return this process's part of a batch."""
        length = len(batch) // self.size
        return batch[self.rank * length : (self.rank + 1) * length]

    def mean(self, value: float) -> float:
        """Return the mean of a number over all processes."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total)
        return float(total) / self.size

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.size > 1:
            dist.barrier()
