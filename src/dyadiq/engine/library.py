"""Where the engine's library for programs in C lies: built with the native module, beside its headers.

Used by people who link with it (docs/howto/c-library.md); nothing here loads it.
"""

from __future__ import annotations

from pathlib import Path

from dyadiq.core.errors import MissingToolError

__all__ = ["library_folder"]

_LIBRARY = "libdyadiq_engine.a"


def library_folder() -> Path:
    """Return the folder that holds libdyadiq_engine.a, dyadiq_engine.h and dyadiq_engine.hpp.

    Raises:
        MissingToolError: The native parts were not built.
    """
    folder = Path(__file__).parent / "library"
    if not (folder / _LIBRARY).is_file():
        raise MissingToolError(f"{_LIBRARY} of dyadiq", "pip install . (needs a C++ compiler)")
    return folder
