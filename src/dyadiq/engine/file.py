"""The compiled program as a file: the container of `.dyq`, the plan first, then everything it points to.

Used by target `engine` and `runtime`; native/engine/image.cpp reads it without copying. Normative: docs/spec/engine.md.
"""

from __future__ import annotations

import json
import os

import numpy as np

from dyadiq.core.container import TensorSpec, write_container
from dyadiq.core.qtype import QType
from dyadiq.engine.plan import EnginePlan

__all__ = ["write_engine_file"]

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
        "steps": [[step.op, step.name] for step in plan.steps],
    }
    tensors = [("@plan", plan.words()), *plan.payloads]
    pairs = [
        (TensorSpec(name, values.shape, plan.types.get(name, _TYPES[values.dtype])), values) for name, values in tensors
    ]
    return write_container(path, json.dumps(structure, separators=(",", ":")).encode(), pairs)
