"""The compiled program as a file: the container of `.dyq`, the plan first, then everything it points to.

Used by target `engine`, `measure` and `dyadiq show`; native/engine/image.cpp reads it without copying. Normative text:
docs/spec/engine.md.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from dyadiq.core.container import TensorSpec, read_container, write_container
from dyadiq.core.errors import ArtifactError
from dyadiq.core.qtype import QType
from dyadiq.engine.plan import EnginePlan

__all__ = ["read_structure", "write_engine_file"]

_TYPES = {
    np.dtype(np.int8): QType(8, signed=True),
    np.dtype(np.int32): QType(32, signed=True),
    np.dtype(np.float64): None,
}


def write_engine_file(plan: EnginePlan, path: str | os.PathLike[str]) -> int:
    """Write a compiled program to one file, whole or not at all, and return its bytes.

    Raises:
        ExportError: A tensor does not fit a record.
        StorageError: The disk is full or not writable.
    """
    structure = {
        "engine": 1,
        "inputs": [[name, list(shape)] for name, shape in plan.inputs],
        "outputs": [[name, list(shape)] for name, shape in plan.outputs],
        "steps": [
            [step.op, step.name] if step.layer is None else [step.op, step.name, step.layer, step.algorithm]
            for step in plan.steps
        ],
    }
    if plan.measured is not None:
        structure["measured"] = plan.measured
    tensors = [("@plan", plan.words()), *plan.payloads]
    pairs = [
        (TensorSpec(name, values.shape, plan.types.get(name, _TYPES[values.dtype])), values) for name, values in tensors
    ]
    return write_container(path, json.dumps(structure, separators=(",", ":")).encode(), pairs)


def read_structure(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a compiled program says of itself: inputs, outputs, steps, and what its algorithms were chosen by.

    Raises:
        ArtifactError: Missing, damaged, or no compiled program.
    """
    container = read_container(path)
    try:
        structure = json.loads(container.structure)
        if structure["engine"] == 1:
            return dict(structure)
    except (ValueError, KeyError, TypeError):
        pass
    raise ArtifactError(f"{path}: holds no compiled program. Export the program again.")
