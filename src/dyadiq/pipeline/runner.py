"""Runs stages in order, skipping those whose inputs did not change.

Used by the command line and `dyadiq.run`. Knows keys, records and errors; not what stages do.

A stage's key is the hash of: its recipe sections, seed, threads, the hashes of the files of its input stages,
library versions, and the source of this package. A stage with the wanted key and intact files is not run again.
Killed at any moment, the same call finishes with the same bytes: a stage is done only when its record is there.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from dyadiq.core.errors import DyadiqError, RunInterruptedError, StorageError
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.pipeline.crew import with_others
from dyadiq.pipeline.stage import Stage, StageContext
from dyadiq.pipeline.store import RunFolder, StageRecord, is_storage_problem
from dyadiq.recipe import Recipe

__all__ = ["StageEvent", "run_stages", "source_sha256", "stage_key", "versions"]


@dataclass(frozen=True, slots=True)
class StageEvent:
    """What happened to a stage: for progress lines, never for results."""

    stage: str
    title: str
    status: Literal["kept", "started", "done"]
    seconds: float = 0.0
    note: str = ""


def versions() -> dict[str, str]:
    """Return the versions that decide results."""
    return {name: metadata.version(name) for name in ("dyadiq", "torch", "numpy", "scipy")}


@lru_cache(maxsize=1)
def source_sha256() -> str:
    """Return the hash of the package's own source, so that nothing computed by other code is kept.

    The command line and the report are left out: they change no artifact that a later stage reads.
    """
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if inside.parts[0] not in ("cli", "report"):
            digest.update(f"{inside.as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def stage_key(stage: Stage, recipe: Recipe, records: dict[str, StageRecord]) -> str:
    """Return the hash of everything a stage's result depends on."""
    data = {
        "versions": versions(),
        "source": source_sha256(),
        "stage": stage.name,
        "recipe": recipe.part("seed", "threads", *stage.sections),
        "inputs": {name: dict(records[name].files) for name in stage.inputs},
    }
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def run_stages(
    stages: Sequence[Stage],
    recipe: Recipe,
    folder: RunFolder,
    *,
    progress: Progress = NO_PROGRESS,
    listener: Callable[[StageEvent], None] = lambda event: None,
) -> dict[str, StageRecord]:
    """Run the stages that need it and return the record of every one.

    The caller holds the folder's lock.

    Args:
        stages: In an order in which inputs come before their readers.
        recipe: What to do.
        folder: Where.
        progress: Draws bars inside a stage.
        listener: Told of every stage kept, started and done.

    Raises:
        RunInterruptedError: Ctrl-C; finished stages are kept.
        StorageError: The disk is full or not writable; finished stages are kept.
    """
    records: dict[str, StageRecord] = {}
    memory: dict[str, Any] = {}
    for stage in stages:
        key = stage_key(stage, recipe, records)
        known = folder.record(stage.name)
        note = ""
        if known is not None and known.key == key:
            note = folder.damage(stage.name, known)
            if not note and not stage.always:
                records[stage.name] = known
                listener(StageEvent(stage.name, stage.title, "kept", known.seconds))
                continue
        listener(StageEvent(stage.name, stage.title, "started", note=f"{note}; made again" if note else ""))
        records[stage.name] = _run_one(stage, key, recipe, folder, progress, memory)
        listener(StageEvent(stage.name, stage.title, "done", records[stage.name].seconds))
    return records


def _run_one(
    stage: Stage, key: str, recipe: Recipe, folder: RunFolder, progress: Progress, memory: dict[str, Any]
) -> StageRecord:
    begin = time.perf_counter()
    finished = False
    try:
        files, scratch = folder.begin(stage.name, key)
        with with_others(stage, scratch):
            stage.run(StageContext(recipe, folder.path, files, scratch, stage.inputs, progress, memory))
        record = folder.commit(stage.name, key, time.perf_counter() - begin)
        finished = True
        return record
    except KeyboardInterrupt as err:
        raise RunInterruptedError(
            f"interrupted during stage {stage.name!r}; finished stages are kept in {folder.path}. "
            "The same command continues from here."
        ) from err
    except StorageError as err:
        raise StorageError(f"stage {stage.name!r}: {err} {_resume(folder)}") from err
    except DyadiqError as err:
        err.add_note(f"stage {stage.name!r} of {folder.path}")
        raise
    except OSError as err:
        if not is_storage_problem(err):
            raise
        where = f" ({err.filename})" if err.filename else ""
        raise StorageError(
            f"stage {stage.name!r}: cannot write to {folder.path}{where}: {err.strerror}. {_resume(folder)}"
        ) from err
    finally:
        if not finished:
            folder.abandon(stage.name)


def _resume(folder: RunFolder) -> str:
    return f"Free some space; the same command then continues from the stages kept in {folder.path}."
