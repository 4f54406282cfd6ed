"""Accuracy and loss of a model, or of any function from samples to class scores, on a split.

Used by `loop` (validation) and the pipeline (the reported accuracy, on integer programs). Changes nothing: modes of
all submodules are restored, no gradient is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from numpy.typing import NDArray
from torch import Tensor, nn

from dyadiq.core.errors import ConfigError, DataError
from dyadiq.zoo.data import Split

__all__ = ["Evaluation", "Scorer", "accuracy", "evaluate", "evaluation_mode", "predict", "single_output"]

Scorer: TypeAlias = Callable[[NDArray[np.float32]], Any]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Result on one split.

    Attributes:
        accuracy: Fraction of samples whose largest score is that of their class (ties: the first class).
        loss: Mean cross entropy of the scores taken as logits, in nats.
        n_samples: How many samples were seen.
    """

    accuracy: float
    loss: float
    n_samples: int


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode without gradients, and every submodule back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def predict(model: nn.Module | Scorer, x: NDArray[np.float32], *, batch_size: int = 4096) -> Tensor:
    """Return the scores of samples, batch by batch.

    Args:
        model: A module (run in eval mode, on the device of its first parameter), or a function that takes an array
            of samples and returns an array or tensor of scores.
        x: Samples.
        batch_size: Samples of one call.

    Returns:
        Scores on the CPU, dtype as the model made them.

    Shapes:
        x ``[N, ...]``; scores ``[N, C]``.

    Raises:
        DataError: No samples, scores of another shape, or scores that are NaN.
        ConfigError: The module returns something else than one tensor.

    Example:
        >>> predict(lambda x: x * 2, np.array([[1.0, 3.0]], np.float32))
        tensor([[2., 6.]])
    """
    if len(x) == 0:
        raise DataError("predict: got no samples, expected at least one.")
    parts = []
    if isinstance(model, nn.Module):
        device = device_of(model)
        with evaluation_mode(model):
            for start in range(0, len(x), batch_size):
                parts.append(single_output(model, torch.tensor(x[start : start + batch_size], device=device)).cpu())
    else:
        for start in range(0, len(x), batch_size):
            parts.append(torch.as_tensor(model(x[start : start + batch_size])))
    scores = torch.cat(parts)
    if scores.ndim != 2 or len(scores) != len(x):
        raise DataError(f"predict: scores have shape {list(scores.shape)}, expected [{len(x)}, classes].")
    if scores.is_floating_point() and bool(scores.isnan().any()):
        first = int(scores.isnan().any(dim=1).nonzero()[0])
        raise DataError(
            f"predict: the scores of sample {first} are NaN. Check the weights and the inputs for NaN and infinity."
        )
    return scores


def evaluate(model: nn.Module | Scorer, split: Split, *, batch_size: int = 4096) -> Evaluation:
    """Return accuracy and cross entropy on a split.

    Raises:
        DataError: Scores that are NaN, of another shape, or for fewer classes than the labels need.
        ConfigError: The module returns something else than one tensor.

    Example:
        >>> split = Split(np.array([[9.0, 0.0], [9.0, 0.0]], np.float32), np.array([0, 1]))
        >>> evaluate(lambda x: x, split).accuracy
        0.5
    """
    scores = predict(model, split.x, batch_size=batch_size)
    labels = torch.tensor(split.y)
    if int(labels.max()) >= scores.shape[1]:
        raise DataError(
            f"evaluate: the model has {scores.shape[1]} classes, but labels go up to {int(labels.max())}. "
            "Build the model with one output per class."
        )
    hits = scores.argmax(dim=1) == labels
    loss = F.cross_entropy(scores.double(), labels)
    return Evaluation(accuracy=int(hits.sum()) / len(split), loss=float(loss), n_samples=len(split))


def accuracy(model: nn.Module | Scorer, split: Split, *, batch_size: int = 4096) -> float:
    """Return the fraction of a split that is classified right (see `evaluate`).

    Raises:
        DataError: As `evaluate`.
        ConfigError: As `evaluate`.

    Example:
        >>> accuracy(lambda x: x, Split(np.eye(3), np.array([0, 1, 0])))
        0.6666666666666666
    """
    return evaluate(model, split, batch_size=batch_size).accuracy


def single_output(model: nn.Module, x: Tensor) -> Tensor:
    """Return the one tensor that a model makes of a batch.

    Raises:
        ConfigError: It returns something else, such as a tuple.
    """
    output: Any = model(x)
    if not isinstance(output, Tensor):
        many = f" of {len(output)}" if isinstance(output, (tuple, list, dict)) else ""
        raise ConfigError(
            f"{type(model).__name__} returns a {type(output).__name__}{many}, expected one tensor of logits [N, "
            "classes]: training and evaluation know one loss of one output. Wrap the model so that it returns that "
            "output, or write the training loop yourself (a QuantModule is an ordinary nn.Module)."
        )
    return output


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter or buffer; the CPU if it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")
