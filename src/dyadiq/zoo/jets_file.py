"""The file ``jets.npz`` and the document beside it, ``jets.json``: what every source of jets ends in.

Used by `jets_job` and `jets_published`; read back by `jets_data`. Knows neither simulators nor foreign formats.

Arrays, in this order: ``x_train`` float32 ``[N, 16]``, ``y_train`` uint8, ``x_test``, ``y_test``; ``kin_train``,
``kin_test`` float16 ``[N, 3]`` (pT in GeV, rapidity, mass before grooming in GeV), where the source has them;
``feature_names``, ``classes``. The same arrays give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import DataError
from dyadiq.core.storage import atomic_write_bytes, atomic_write_text, make_folder
from dyadiq.zoo.data import check_finite
from dyadiq.zoo.jets_features import CLASSES, FEATURES

__all__ = ["JETS_FILE", "SCHEMA", "JetArrays", "write_jets"]

JETS_FILE = "jets.npz"
SCHEMA = "dyadiq.jets/1"


@dataclass(frozen=True, eq=False)
class JetArrays:
    """Jets of both splits, checked.

    Attributes:
        x_train: float32 ``[N, 16]``, columns in the order of `FEATURES`.
        y_train: uint8 ``[N]``, indices into `CLASSES`.
        x_test: As ``x_train``.
        y_test: As ``y_train``.
        kin_train: float16 ``[N, 3]``, or None where the source has no kinematics.
        kin_test: As ``kin_train``.
    """

    x_train: NDArray[np.float32]
    y_train: NDArray[np.uint8]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.uint8]
    kin_train: NDArray[np.float16] | None = None
    kin_test: NDArray[np.float16] | None = None

    def __post_init__(self) -> None:
        """Check shapes, values and classes.

        Raises:
            DataError: Other columns, unpaired labels, NaN or infinity, or a class without jets.
        """
        for split, x, y in (("train", self.x_train, self.y_train), ("test", self.x_test, self.y_test)):
            where = f"jets, {split} split"
            if x.shape != (len(y), len(FEATURES)):
                raise DataError(f"{where}: got features of shape {x.shape}, expected ({len(y)}, {len(FEATURES)}).")
            counts = np.bincount(y, minlength=len(CLASSES))
            if len(counts) > len(CLASSES) or not counts.all():
                raise DataError(
                    f"{where}: jets per class are {counts.tolist()}, expected some of each of {', '.join(CLASSES)}."
                )
            check_finite(where, x, FEATURES)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of jets by split and class."""
        return {
            split: dict(zip(CLASSES, np.bincount(y, minlength=len(CLASSES)).tolist(), strict=True))
            for split, y in (("train", self.y_train), ("test", self.y_test))
        }


def write_jets(folder: Path, jets: JetArrays, document: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``jets.npz`` and ``jets.json`` into a folder, and return the document.

    Args:
        folder: Made if it is not there.
        jets: The jets.
        document: What else to say: source, settings, versions, seconds, notes.

    Raises:
        StorageError: The disk is full or not writable; each file is the old or the new one.
    """
    arrays: dict[str, NDArray[Any] | None] = {
        "x_train": jets.x_train,
        "y_train": jets.y_train,
        "x_test": jets.x_test,
        "y_test": jets.y_test,
        "kin_train": jets.kin_train,
        "kin_test": jets.kin_test,
        "feature_names": np.array(FEATURES),
        "classes": np.array(CLASSES),
    }
    data = to_npz_bytes({name: array for name, array in arrays.items() if array is not None})
    full = {
        "schema": SCHEMA,
        "file": str(make_folder(folder) / JETS_FILE),
        "sha256": hashlib.sha256(data).hexdigest(),
        "n": {"train": len(jets.y_train), "test": len(jets.y_test)},
        "n_per_class": jets.counts(),
        **document,
    }
    atomic_write_bytes(folder / JETS_FILE, data)
    atomic_write_text(folder / "jets.json", json.dumps(full, indent=2) + "\n")
    return full


def to_npz_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return a compressed ``.npz`` file; the same arrays in the same order give the same bytes.

    Example:
        >>> to_npz_bytes({"a": np.zeros(3)}) == to_npz_bytes({"a": np.zeros(3)})
        True
    """
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()
