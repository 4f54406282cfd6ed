"""Distilled inputs to one file and back. Container and hash: `core.artifact`; no pickle.

Used by the pipeline, and by `dyadiq.save` and `dyadiq.load`.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from dyadiq.core.artifact import read_artifact, write_artifact
from dyadiq.core.errors import ArtifactError
from dyadiq.zero_shot.distilled import Distilled

__all__ = ["load_distilled", "save_distilled"]

SCHEMA = "dyadiq.distilled/1"


def save_distilled(path: str | os.PathLike[str], made: Distilled) -> str:
    """Store distilled inputs and return their hash.

    Raises:
        StorageError: The disk is full or not writable.
    """
    payload = {
        "mismatch": dict(made.mismatch),
        "history": list(made.history),
        "seed": made.seed,
        "notes": list(made.notes),
    }
    return write_artifact(path, SCHEMA, payload, {"images": made.images})


def load_distilled(path: str | os.PathLike[str]) -> Distilled:
    """Read distilled inputs.

    Raises:
        ArtifactError: Damaged file, wrong hash, or not distilled inputs.
    """
    payload, arrays = read_artifact(path, SCHEMA)
    try:
        return _from_payload(payload, arrays)
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise ArtifactError(f"{path}: not a valid file of distilled inputs: {err!r}. Make the file again.") from err


def _from_payload(payload: Any, arrays: Any) -> Distilled:
    return Distilled(
        images=np.asarray(arrays["images"], dtype=np.float32),
        mismatch={str(name): float(value) for name, value in payload["mismatch"].items()},
        history=tuple(float(value) for value in payload["history"]),
        seed=int(payload["seed"]),
        notes=tuple(str(note) for note in payload["notes"]),
    )
