"""How long work reports its progress, without printing: the CLI passes an object that draws bars.

Used by analyze, calibrate, finetune, verify and the run pipeline. Imports nothing.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["NO_PROGRESS", "Progress"]


class Progress(Protocol):
    """Receives progress; implementations draw bars with an ETA, or nothing."""

    def start(self, label: str, total: int | None) -> None:
        """Begin a task of ``total`` steps (None: unknown)."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Report finished steps of the innermost task; ``note`` is a short status such as the loss."""

    def finish(self) -> None:
        """End the innermost task."""


class _NoProgress:
    def start(self, label: str, total: int | None) -> None:
        """Ignore."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Ignore."""

    def finish(self) -> None:
        """Ignore."""


NO_PROGRESS: Progress = _NoProgress()
