"""Keep native libraries off standard output: HiGHS prints a debug line there even when told to be silent.

Used by `milp` around the solver, because stdout belongs to the program's result (one JSON document, say).
What is printed meanwhile goes to stderr, so nothing is lost. File descriptors belong to the whole process.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["native_stdout_to_stderr"]


@contextmanager
def native_stdout_to_stderr() -> Iterator[None]:
    """Send what C code writes to descriptor 1 to descriptor 2 for the time of the block.

    Does nothing where stdout is closed.
    """
    try:
        saved = os.dup(1)
    except OSError:
        yield
        return
    try:
        os.dup2(2, 1)
        yield
    finally:
        if os.name == "posix":
            ctypes.CDLL(None).fflush(None)  # C buffers its output; it must leave while the descriptor points away
        os.dup2(saved, 1)
        os.close(saved)
