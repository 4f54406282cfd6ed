"""Training state in one file, written whole or not at all after every epoch.

Used by `loop`. A checkpoint belongs to one training: the fingerprint covers settings, data, initial weights and
teacher, and a file of another training is refused. Safetensors through `core.artifact`; no pickle, no times, so
that an interrupted and resumed training ends with the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dyadiq.core.artifact import canonical_json, read_artifact, write_artifact
from dyadiq.core.errors import ArtifactError, ConfigError

__all__ = ["SCHEMA", "Best", "TrainState", "fingerprint", "model_hash", "read_checkpoint", "write_checkpoint"]

SCHEMA = "dyadiq.checkpoint/1"


@dataclass(frozen=True)
class Best:
    """The best epoch so far on the validation split, with its weights."""

    epoch: int
    accuracy: float
    loss: float
    model: Mapping[str, Tensor]


@dataclass(frozen=True)
class TrainState:
    """Everything that the next epoch depends on.

    Attributes:
        n_epochs: Finished epochs.
        history: One record per finished epoch.
        model: State dict.
        optimizer: Flat optimizer state.
        best: Best epoch so far, if there is a validation split.
        average: Moving averages of weights by name, if they are kept.
    """

    n_epochs: int
    history: tuple[dict[str, Any], ...]
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    best: Best | None = None
    average: Mapping[str, Tensor] = field(default_factory=dict)


def model_hash(model: nn.Module) -> str:
    """Return the SHA-256 of a state dict: names, dtypes, shapes and bytes.

    Example:
        >>> model_hash(nn.Identity()) == model_hash(nn.ReLU()), model_hash(nn.Linear(1, 1))[:0]
        (True, '')
    """
    digest = hashlib.sha256()
    for name, array in _to_arrays("", model.state_dict()).items():
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def fingerprint(**facts: Any) -> str:
    """Return the SHA-256 of JSON-able facts.

    Example:
        >>> fingerprint(a=1, b=2) == fingerprint(b=2, a=1), fingerprint(a=1) == fingerprint(a=2)
        (True, False)
    """
    return hashlib.sha256(canonical_json(facts).encode()).hexdigest()


def write_checkpoint(path: Path, state: TrainState, identity: str) -> None:
    """Write the state; the file before it stays until the new one is complete.

    Raises:
        StorageError: The disk is full or not writable; the old file is intact.
    """
    best = state.best
    payload = {
        "fingerprint": identity,
        "n_epochs": state.n_epochs,
        "history": list(state.history),
        "best": None if best is None else {"epoch": best.epoch, "accuracy": best.accuracy, "loss": best.loss},
    }
    arrays = _to_arrays("model/", state.model) | _to_arrays("optimizer/", state.optimizer)
    arrays |= _to_arrays("average/", state.average)
    if best is not None:
        arrays |= _to_arrays("best/", best.model)
    write_artifact(path, SCHEMA, payload, arrays)


def read_checkpoint(path: Path, identity: str) -> TrainState:
    """Read a state back.

    Raises:
        ArtifactError: The file is corrupt, truncated or too new.
        ConfigError: It belongs to another training.
    """
    payload, arrays = read_artifact(path, SCHEMA)
    try:
        if payload["fingerprint"] != identity:
            raise ConfigError(
                f"{path}: this checkpoint belongs to another training (settings, data, initial weights or teacher "
                "differ). Delete it, or give another checkpoint path, to train from the start."
            )
        best = payload["best"]
        return TrainState(
            n_epochs=payload["n_epochs"],
            history=tuple(payload["history"]),
            model=_from_arrays("model/", arrays),
            optimizer=_from_arrays("optimizer/", arrays),
            average=_from_arrays("average/", arrays),
            best=None if best is None else Best(model=_from_arrays("best/", arrays), **best),
        )
    except (KeyError, TypeError) as err:
        raise ArtifactError(f"{path}: not a whole checkpoint: {err}. Delete it to train from the start.") from err


def _to_arrays(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    return {prefix + name: np.array(tensor.detach().cpu().numpy()) for name, tensor in tensors.items()}


def _from_arrays(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): torch.tensor(a) for name, a in arrays.items() if name.startswith(prefix)}
