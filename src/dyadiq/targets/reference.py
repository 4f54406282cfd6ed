"""The reference interpreter as a target: the program's own file, read back and interpreted.

Used by `verify`; its comparison shows that storing a program loses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.storage import make_folder
from dyadiq.ir.integer import IntegerProgram
from dyadiq.ir.proof import prove
from dyadiq.ir.reference import run_reference
from dyadiq.ir.serialize import load_program, save_program
from dyadiq.targets.base import Target

__all__ = ["ReferenceTarget"]


class ReferenceTarget(Target):
    """The target ``reference``."""

    name: ClassVar[str] = "reference"
    filename: ClassVar[str] = "program.safetensors"

    def check(self, program: IntegerProgram) -> list[str]:
        """Prove the program; there is nothing it cannot express.

        Raises:
            ProofError: A tensor may leave its declared type.
        """
        prove(program)
        return []

    def write(self, program: IntegerProgram, path: Path) -> list[Path]:
        """Store the program's artifact.

        Raises:
            ProofError: As `check`.
            StorageError: The disk is full or not writable.
        """
        self.check(program)
        file = self.file(path)
        make_folder(file.parent)
        save_program(file, program)
        return [file]

    def emulate(self, path: Path, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.int64]]:
        """Load the artifact and interpret it.

        Raises:
            ArtifactError: Missing or damaged file.
            DataError: Inputs missing, of the wrong shape, or not finite.
        """
        return run_reference(load_program(self.existing_file(path)), inputs)
