"""What a stage is: a name, its declared inputs, the recipe sections it depends on, and one function.

Used by `pipeline.runner` and by every stage file. A stage reads recipe and input artifacts, writes files into
its own folder, and keeps nothing in memory that the next stage needs: so a stage can be skipped, resumed or
looked at. Guide to a new stage: one file with a `Stage`, one line in `pipeline.stages`, one test.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.recipe import Recipe

__all__ = ["Stage", "StageContext", "read_json", "write_json"]


@dataclass(frozen=True)
class StageContext:
    """What a stage function gets.

    Attributes:
        recipe: The whole recipe; a stage reads only the sections it declared.
        run: The run folder.
        folder: Empty folder for this stage's files; becomes ``<run>/<stage>`` when the stage is done.
        scratch: Folder that survives a kill and is deleted when the stage is done (training checkpoints).
        inputs: Names of the stages it may read.
        progress: Where to report progress.
        memory: Loaded data sets, kept for one process; never an artifact.
    """

    recipe: Recipe
    run: Path
    folder: Path
    scratch: Path
    inputs: tuple[str, ...] = ()
    progress: Progress = NO_PROGRESS
    memory: dict[str, Any] = field(default_factory=dict)

    def path(self, stage: str, file: str) -> Path:
        """Return the path of an input stage's file."""
        assert stage in self.inputs, f"stage reads {stage!r} without declaring it"
        return self.run / stage / file


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        name: Also the name of its folder.
        title: What it does, for progress lines.
        inputs: Stages whose files it reads.
        sections: Recipe keys that decide its result, ``section`` or ``section.key``; seed and threads always count.
        run: Writes the stage's files into ``context.folder``.
        always: Run each time (cheap checks of the outside world); its key still decides nothing else.
        shared: Run by all processes of the run together (`pipeline.crew`), to the same files.
    """

    name: str
    title: str
    inputs: tuple[str, ...]
    sections: tuple[str, ...]
    run: Callable[[StageContext], None]
    always: bool = False
    shared: bool = False


def write_json(path: Path, data: Any) -> None:
    """Write JSON; the order of keys is kept."""
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
