"""Work that one process does alone, though others are there: what would share itself must not wait for them.

Used by `pipeline.crew`, which says so around stages that the first process runs for all, and by the places that ask how
many processes there are (`curvature.pieces`, `train.distributed`). Imports no torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

__all__ = ["alone", "is_alone"]

_ALONE: ContextVar[bool] = ContextVar("dyadiq_alone", default=False)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let the work inside be that of this process only.

    Example:
        >>> with alone():
        ...     is_alone()
        True
        >>> is_alone()
        False
    """
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def is_alone() -> bool:
    """Return whether the work here is that of one process, whatever others there are."""
    return _ALONE.get()
