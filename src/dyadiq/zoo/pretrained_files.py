"""Files of trained weights with plain arrays under the network's own names.

Used by `pretrained` and by readers of files with other names. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dyadiq.zoo.npz_data import read_npz

__all__ = ["read_npz_state"]


def read_npz_state(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the arrays of an ``.npz`` file as a state dict in float32; it must hold every name but counters.

    Raises:
        DataError: No such file, or a name is missing.
        ArtifactError: The file is damaged.
    """
    needed = [name for name in wanted if not name.endswith(".num_batches_tracked")]
    arrays = read_npz(path, needed, [name for name in wanted if name not in needed])
    return {name: torch.from_numpy(np.array(array, dtype=_dtype(array))) for name, array in arrays.items()}


def _dtype(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
    return "float32" if array.dtype.kind == "f" else "int64"
