"""Distilled inputs and how well they match: a list of batches, with its provenance.

Made by `distill`; goes wherever calibration batches go; stored by `zero_shot.store`. Numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["BATCH_SIZE", "Distilled"]

BATCH_SIZE = 64


@dataclass(frozen=True, eq=False)
class Distilled(Sequence[NDArray[np.float32]]):
    """Inputs that batch norms take for training data; as a sequence, batches of at most `BATCH_SIZE` of them.

    Attributes:
        images: ``[N, *input shape]``, float32.
        mismatch: Of each batch norm, by the name of its running mean: the Kullback-Leibler divergence from its
            statistics to those of all images, mean over channels, in nats.
        history: The mean of these before each step, on the images of that step.
        seed: What the images were drawn with.
        notes: What was assumed on the way.

    Example:
        >>> made = Distilled(np.zeros((100, 3), np.float32), {"bn.running_mean": 0.01}, (0.2, 0.05), seed=1)
        >>> [len(batch) for batch in made], made.total_mismatch
        ([64, 36], 0.01)
        >>> print(made.summary)
        zero-shot: 100 distilled inputs, seed 1, batch norms matched to 0.01 nats per channel (0.2 at the start)
    """

    images: NDArray[np.float32]
    mismatch: Mapping[str, float]
    history: tuple[float, ...]
    seed: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.images) // BATCH_SIZE)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.float32]: ...

    @overload
    def __getitem__(self, index: slice) -> list[NDArray[np.float32]]: ...

    def __getitem__(self, index: int | slice) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """Return one batch, or some."""
        starts = range(0, len(self.images), BATCH_SIZE)[index]
        if isinstance(starts, range):
            return [self.images[start : start + BATCH_SIZE] for start in starts]
        return self.images[starts : starts + BATCH_SIZE]

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Yield the batches."""
        return (self[i] for i in range(len(self)))

    @property
    def total_mismatch(self) -> float:
        """The mean of ``mismatch`` over batch norms."""
        return float(np.mean(list(self.mismatch.values())))

    @property
    def summary(self) -> str:
        """One line for notes of what was measured on these images."""
        return (
            f"zero-shot: {len(self.images)} distilled inputs, seed {self.seed}, batch norms matched to "
            f"{self.total_mismatch:.2g} nats per channel ({self.history[0]:.2g} at the start)"
        )
