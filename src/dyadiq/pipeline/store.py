"""The run folder on disk: its marker, its lock, and the record of every finished stage.

Used by `pipeline.runner` and the command line. Knows files and hashes, not what stages do.

    <run>/run.json               marker: this folder is ours
    <run>/recipe.json            the recipe as it was understood
    <run>/lock                   held (flock) while a run works here; the kernel frees it on any death
    <run>/stages/<stage>.json    written atomically and last: key, files with sha256, seconds
    <run>/<stage>/...            the stage's files
    <run>/cache/...              numbers that cost time, by what they are of; may be deleted
    <run>/summary.json           only while it is the result of recipe.json
    <run>/previous/...           summary and report of an earlier recipe, set aside when a stage had to run again
    <run>/.tmp, <run>/.work      unfinished stages and their checkpoints

A stage is done if and only if its record exists, has the wanted key, and every file has its hash.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dyadiq.core.artifact import atomic_write_text, sha256_file
from dyadiq.core.errors import ArtifactError, ConfigError, StorageError

__all__ = ["RECORD_SCHEMA", "RUN_SCHEMA", "RunFolder", "StageRecord", "is_storage_problem"]

RUN_SCHEMA = "dyadiq.run-folder/1"
RECORD_SCHEMA = "dyadiq.stage/1"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def is_storage_problem(error: OSError) -> bool:
    """Whether an OSError says that the disk is full, read-only, failing or forbidden."""
    return error.errno in _FULL


@dataclass(frozen=True, slots=True)
class StageRecord:
    """Proof that a stage is done: its key, the hashes of its files, and how long it took."""

    key: str
    files: Mapping[str, str]
    seconds: float


class RunFolder:
    """One run folder; creates it, locks it, and keeps the records.

    Example:
        >>> import tempfile
        >>> folder = RunFolder(Path(tempfile.mkdtemp()) / "run")
        >>> with folder.locked():
        ...     folder.record("data") is None
        True
    """

    def __init__(self, path: Path) -> None:
        """Remember the path; nothing is touched yet."""
        self.path = path

    def is_run(self) -> bool:
        """Whether the folder carries our marker."""
        try:
            marker = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(marker, dict) and marker.get("schema") == RUN_SCHEMA

    def check(self) -> None:
        """Check that an existing run folder is meant.

        Raises:
            ConfigError: Not a run folder.
        """
        if not self.is_run():
            raise ConfigError(f"{self.path}: not a run folder (it has no run.json of Dyadiq). Run a recipe first.")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder if needed and hold its lock.

        Raises:
            ConfigError: The folder holds something else, or another run works in it.
            StorageError: The folder cannot be created or written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"{self.path}: is a file, a run needs a folder. Give another `out`.")
        if self.path.is_dir() and any(self.path.iterdir()) and not self.is_run():
            raise ConfigError(
                f"{self.path}: the folder exists and is not a run folder of Dyadiq; nothing was touched. "
                "Give another `out`, or move its files away."
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not self.is_run():
                self._write_json("run.json", {"schema": RUN_SCHEMA})
            handle = (self.path / "lock").open("a")
        except OSError as err:
            raise StorageError(f"{self.path}: the run folder cannot be written: {err.strerror or err}.") from err
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as err:
                raise ConfigError(
                    f"{self.path}: another run is working in this folder. Wait for it, or give another `out`."
                ) from err
            yield

    def write_recipe(self, data: Mapping[str, Any]) -> None:
        """Keep the recipe as it was understood."""
        self._write_json("recipe.json", data)

    def write_summary(self, data: Mapping[str, Any]) -> None:
        """Keep the document of the finished run."""
        self._write_json("summary.json", data)

    def set_aside(self, *stages: str) -> None:
        """Move the summary, and these stages that show it, into ``previous``; nothing happens without a summary.

        Raises:
            StorageError: The folder cannot be written.
        """
        if not (self.path / "summary.json").exists():
            return
        previous = self.path / "previous"
        try:
            previous.mkdir(exist_ok=True)
            for stage in stages:
                (self.path / "stages" / f"{stage}.json").unlink(missing_ok=True)
            for name in (*stages, *(f"{stage}.html" for stage in stages), "summary.json"):
                if (self.path / name).exists():
                    shutil.rmtree(previous / name, ignore_errors=True)  # a folder; a file is replaced
                    (self.path / name).replace(previous / name)
        except OSError as err:
            raise StorageError(f"{previous}: cannot be written: {err.strerror or err}. Nothing was deleted.") from err

    def record(self, stage: str) -> StageRecord | None:
        """Return the record of a finished stage; None where there is none or it cannot be read."""
        try:
            data = json.loads((self.path / "stages" / f"{stage}.json").read_text(encoding="utf-8"))
            if data.pop("schema") != RECORD_SCHEMA:
                return None
            return StageRecord(**data)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def damage(self, stage: str, record: StageRecord) -> str:
        """Return what is wrong with a finished stage's files, or an empty text."""
        for name, wanted in record.files.items():
            path = self.path / stage / name
            if not path.is_file():
                return f"{path} is missing"
            if sha256_file(path) != wanted:
                return f"{path} was changed or damaged"
        return ""

    def finished_record(self, stage: str) -> StageRecord:
        """Return the record of a finished stage.

        Raises:
            ArtifactError: The stage has not finished.
        """
        record = self.record(stage)
        if record is None:
            raise ArtifactError(f"{self.path}: stage {stage!r} has not finished here. Run the recipe again.")
        return record

    def check_files(self, stage: str) -> StageRecord:
        """Check the files of a finished stage and return its record.

        Raises:
            ArtifactError: The stage is not finished, or a file of it is missing or damaged.
        """
        record = self.finished_record(stage)
        wrong = self.damage(stage, record)
        if wrong:
            raise ArtifactError(f"{wrong}: its hash differs from stages/{stage}.json. Run the recipe again.")
        return record

    def begin(self, stage: str, key: str) -> tuple[Path, Path]:
        """Return fresh (folder, scratch) for a stage; scratch is kept from a killed run of the same key."""
        folder = self.path / ".tmp" / stage
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        work = self.path / ".work"
        scratch = work / f"{stage}-{key[:16]}"
        if work.is_dir():
            for old in work.glob(f"{stage}-*"):
                if old != scratch:
                    shutil.rmtree(old)
        scratch.mkdir(parents=True, exist_ok=True)
        return folder, scratch

    def commit(self, stage: str, key: str, seconds: float) -> StageRecord:
        """Move a stage's files into place and write its record, in an order that survives a kill."""
        folder, final = self.path / ".tmp" / stage, self.path / stage
        files = {str(p.relative_to(folder)): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}
        (self.path / "stages").mkdir(exist_ok=True)
        (self.path / "stages" / f"{stage}.json").unlink(missing_ok=True)
        old = self.path / ".tmp" / f"{stage}.old"
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            final.rename(old)
        folder.rename(final)
        record = StageRecord(key, files, round(seconds, 3))
        self._write_json(f"stages/{stage}.json", {"schema": RECORD_SCHEMA, **asdict(record)})
        shutil.rmtree(old, ignore_errors=True)
        for work in (self.path / ".work").glob(f"{stage}-*"):
            shutil.rmtree(work, ignore_errors=True)
        return record

    def abandon(self, stage: str) -> None:
        """Remove the unfinished files of a stage; its scratch stays for the next try."""
        shutil.rmtree(self.path / ".tmp" / stage, ignore_errors=True)

    def tidy(self) -> None:
        """Remove the working folders of a finished run."""
        for name in (".tmp", ".work"):
            with contextlib.suppress(OSError):
                shutil.rmtree(self.path / name)

    def _write_json(self, name: str, data: Mapping[str, Any]) -> None:
        atomic_write_text(self.path / name, json.dumps(data, indent=2) + "\n")
