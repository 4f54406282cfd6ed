"""`export`: one integer program to the files of one target.

Used by the public face and the command line. A target that cannot express the program refuses before it writes.
"""

from __future__ import annotations

import os
from pathlib import Path

from dyadiq.core.errors import ConfigError
from dyadiq.ir.integer import IntegerProgram
from dyadiq.targets import get_target

__all__ = ["export"]


def export(program: IntegerProgram, path: str | os.PathLike[str], to: str) -> list[Path]:
    """Write a program for a target into a folder and return the files.

    Args:
        program: From `lower`.
        path: Folder; made if it does not exist. Files of other names in it are left alone.
        to: Name of a target (`dyadiq.targets.TARGETS`).

    Raises:
        UnknownNameError: No such target.
        ConfigError: ``path`` is a file.
        ExportError: The target cannot express the program; every offending node is listed.
        StorageError: The files cannot be written.
    """
    target = get_target(to)
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: export writes a folder, this is a file. Give a folder.")
    target.check(program)
    return target.write(program, folder)
