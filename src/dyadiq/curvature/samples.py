"""Calibration data as every method sees it: chunks of samples, with their labels where a method needs them.

Used by `analyze`. Samples are kept in memory and cut into chunks of at most `CHUNK`, so that results and memory do not
depend on how the user batched them (networks run in eval mode, where samples do not see each other).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyadiq.core.errors import ConfigError, DataError
from dyadiq.curvature.problem import DTYPES, Precision
from dyadiq.ir.execute import Batch, NamedInputs, iterate_batches

__all__ = ["CHUNK", "Samples", "read_samples"]

CHUNK = 64


@dataclass(frozen=True)
class Samples:
    """Chunks of inputs, one tensor ``[n, ...]`` for each input of the network, and their labels if asked for."""

    inputs: tuple[tuple[Tensor, ...], ...] = ()
    labels: tuple[Tensor, ...] | None = None


def read_samples(
    batches: Iterable[Batch] | None,
    precision: Precision,
    max_samples: int | None = None,
    names: Sequence[str] = ("input",),
    *,
    labelled: bool = False,
) -> Samples:
    """Return the data as chunks of at most `CHUNK` samples; none if ``batches`` is None.

    Args:
        batches: Calibration data.
        precision: Of the result.
        max_samples: Read at most so many.
        names: Of the network's inputs, in order.
        labelled: Read the second element of every batch, its labels, too.

    Raises:
        ConfigError: ``max_samples`` below 2.
        DataError: No batch, an unusable one, other inputs than the network's, batches of different sample shapes, or
            missing labels.

    Example:
        >>> read = read_samples([np.zeros((50, 3)), np.zeros((50, 3))], "float32", max_samples=80)
        >>> [len(x) for (x,) in read.inputs]
        [64, 16]
    """
    if max_samples is not None and max_samples < 2:
        raise ConfigError(f"analyze: max_samples must be at least 2, got {max_samples}.")
    if batches is None:
        return Samples()
    parts: list[tuple[Tensor, ...]] = []
    labels: list[Tensor] = []
    n_read = 0
    source = _Labelled(batches) if labelled else batches
    for given in iterate_batches(source, DTYPES.get(precision, torch.float32)):
        inputs = _in_order(given, names, f"batch {len(parts)}")
        for value, first in zip(inputs, parts[0] if parts else inputs, strict=True):
            if value.shape[1:] != first.shape[1:]:
                raise DataError(
                    f"batch {len(parts)}: samples have shape {list(value.shape[1:])}, "
                    f"those of batch 0 {list(first.shape[1:])}. All samples need one shape."
                )
        room = len(inputs[0]) if max_samples is None else max_samples - n_read
        parts.append(tuple(value.detach()[:room] for value in inputs))
        n_read += len(parts[-1][0])
        if isinstance(source, _Labelled):
            labels.append(_labels(source.latest, len(inputs[0]), len(parts) - 1)[:room])
        if n_read == max_samples:
            break
    chunks = (torch.split(torch.cat(values), CHUNK) for values in zip(*parts, strict=True))
    cut = torch.split(torch.cat(labels), CHUNK) if labelled else None
    return Samples(tuple(zip(*chunks, strict=True)), cut)


class _Labelled:
    """Batches that remember the latest, so that inputs and labels come from one pass."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = batches
        self.latest: Batch = ()

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            self.latest = batch
            yield batch


def _labels(batch: Batch, n: int, index: int) -> Tensor:
    """Return the labels of a batch.

    Raises:
        DataError: There are none, or not one for each sample.
    """
    given: Any = batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    if not isinstance(given, (Tensor, np.ndarray)) or given.ndim == 0 or len(given) != n:
        got = "no labels" if given is None else f"{type(given).__name__} of shape {list(np.shape(given))}"
        raise DataError(
            f"batch {index}: this method compares with labels, got {got} for {n} samples. "
            "Give every batch as (inputs, labels)."
        )
    return torch.as_tensor(given).detach()


def _in_order(given: Tensor | NamedInputs, names: Sequence[str], where: str) -> tuple[Tensor, ...]:
    """Return the inputs of a batch in the order of the network's.

    Raises:
        DataError: Other inputs than the network's.
    """
    named = given if isinstance(given, NamedInputs) else dict.fromkeys(names[:1], given)
    if set(named) != set(names):
        got = sorted(named) if isinstance(given, NamedInputs) else "one tensor"
        raise DataError(
            f"{where}: the network has the inputs {list(names)}, got {got}. Give each batch as a mapping by input name."
        )
    return tuple(named[name] for name in names)
