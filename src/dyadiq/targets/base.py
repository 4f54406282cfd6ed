"""What a target is: one place where an IntegerProgram can be written to and run again.

How to add a target: (1) write one file here with a class that derives from `Target`; `check` collects every
node it cannot express in a `Problems` and raises them together, `write` puts files down atomically with
`save_bytes`, `emulate` runs what `write` wrote and returns codes; (2) add one line to `TARGETS` in
`targets/__init__.py`; (3) add one test. `verify` then compares it with the reference, integer for integer.

Used by every target and by `verify`. Knows no format; optional packages come in through `require`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    ExportError,
    MissingDependencyError,
    UnknownNameError,
)
from dyadiq.core.storage import atomic_write_bytes, make_folder
from dyadiq.ir.graph import Node
from dyadiq.ir.integer import IntegerProgram

__all__ = ["Codes", "Problems", "Target", "checked_feeds", "require", "save_bytes"]

Codes = dict[str, NDArray[np.int64]]


class Target(ABC):
    """One executor of integer programs, reached through a file.

    Attributes:
        name: Key in `TARGETS`, and what the user writes on the command line.
        filename: Name of the file that `write` makes when it is given a folder.
        exact: Whether codes must equal the reference; where False, differences are counted and reported.
        on_grid: Whether comparison starts from on-grid inputs ``(code - zero_point) * scale``, because the
            executor computes in float32 and would round raw data before the input quantizer sees them.
        options: Frozen dataclass of the target's options, each with a default; None if there are none.
    """

    name: ClassVar[str]
    filename: ClassVar[str]
    exact: ClassVar[bool] = True
    on_grid: ClassVar[bool] = False
    options: ClassVar[type | None] = None

    def configured(self, **options: Any) -> Target:
        """Return a copy with some options set; text is converted to the option's own type.

        Raises:
            ConfigError: The target has no options, or a value is not of its type, or refused.
            UnknownNameError: No such option; lists the known ones.
        """
        if not options:
            return self
        if self.options is None or not is_dataclass(self.options):
            raise ConfigError(f"target {self.name!r} has no options, got {', '.join(sorted(options))}.")
        kinds: dict[str, Any] = {f.name: type(f.default) for f in fields(self.options)}
        values = {}
        for key, value in options.items():
            if key not in kinds:
                raise UnknownNameError(f"option of target {self.name}", key, kinds)
            try:
                values[key] = kinds[key](value)
            except ValueError as error:
                raise ConfigError(
                    f"option {key} of target {self.name!r} must be of type {kinds[key].__name__}, got {value!r}."
                ) from error
        configure: Any = type(self)  # a target with options takes them as its one argument
        made: Target = configure(self.options(**values))
        return made

    @abstractmethod
    def check(self, program: IntegerProgram) -> list[str]:
        """Return notes on how the program will be expressed; an empty list when there is nothing to say.

        Raises:
            ExportError: The target cannot express the program; names every offending node.
        """

    def unproven(self, program: IntegerProgram) -> Problems:
        """Return the nodes for which the executor is not proven to give the reference's integers; none by default.

        `write` writes them all the same; `verify` refuses them unless told not to raise.
        """
        return Problems(self.name)

    @abstractmethod
    def write(self, program: IntegerProgram, path: Path) -> list[Path]:
        """Write the program and return the files made.

        Args:
            program: The program; checked first.
            path: A file with the target's suffix, or a folder (made when missing) that gets ``filename``.

        Raises:
            ExportError: As `check`.
            StorageError: The disk is full or not writable.
        """

    @abstractmethod
    def emulate(self, path: Path, inputs: Mapping[str, NDArray[Any]]) -> Codes:
        """Run what `write` wrote on real inputs ``[N, ...]`` by name and return output codes ``[N, ...]``.

        Raises:
            ArtifactError: No such file, or one that does not load.
            DataError: Inputs missing, or of the wrong shape.
        """

    def input_codes(self, path: Path, inputs: Mapping[str, NDArray[Any]]) -> Codes:
        """Return the codes that the artifact's input quantizers make of raw inputs, by input name (``on_grid`` only).

        Raises:
            NotImplementedError: The target takes raw data; its input quantizer is compared with everything else.
        """
        raise NotImplementedError(f"target {self.name!r} takes raw data; only on-grid targets compare it apart.")

    def file(self, path: Path) -> Path:
        """Return the artifact's file for a folder, or the path itself if it has the target's suffix."""
        path = Path(path)
        return path if path.suffix == Path(self.filename).suffix else path / self.filename

    def existing_file(self, path: Path) -> Path:
        """Return the artifact's file.

        Raises:
            ArtifactError: It is not there.
        """
        file = self.file(path)
        if not file.is_file():
            raise ArtifactError(f"target {self.name!r}: there is no file {file}. Write the program first.")
        return file


class Problems:
    """Collects what a target cannot express, so that the user sees all of it at once.

    Example:
        >>> problems = Problems("qonnx")
        >>> problems.add(Node("fc1", "linear", (), "fc1"), "weights per group")
        >>> problems.raise_if_any()
        Traceback (most recent call last):
        dyadiq.core.errors.ExportError: target 'qonnx' cannot express 1 node of the program:
          fc1 (linear): weights per group
    """

    def __init__(self, target: str) -> None:
        """Start with none, for a target of this name."""
        self.target = target
        self.lines: list[str] = []

    def __bool__(self) -> bool:
        """Whether anything was noted."""
        return bool(self.lines)

    def add(self, node: Node, reason: str) -> None:
        """Note that a node cannot be expressed, and why (with what to do)."""
        where = f" at {node.source}" if node.source else ""
        self.lines.append(f"{node.name} ({node.op}){where}: {reason}")

    def raise_if_any(self, advice: str = "") -> None:
        """Raise if anything was noted.

        Raises:
            ExportError: Lists all of it.
        """
        if self.lines:
            nodes = "node" if len(self.lines) == 1 else "nodes"
            listed = "".join(f"\n  {line}" for line in self.lines)
            tail = f"\n{advice}" if advice else ""
            raise ExportError(
                f"target {self.target!r} cannot express {len(self.lines)} {nodes} of the program:{listed}{tail}"
            )


def require(module: str, extra: str = "onnx") -> Any:
    """Import an optional package.

    Raises:
        MissingDependencyError: It is not installed; names the extra that brings it.

    Example:
        >>> require("json").dumps([1])
        '[1]'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(module.partition(".")[0], extra) from error


def save_bytes(file: Path, data: bytes) -> Path:
    """Write a file whole or not at all, making its folder; return the file.

    Raises:
        StorageError: The disk is full or not writable; nothing was changed.
    """
    make_folder(file.parent)
    atomic_write_bytes(file, data)
    return file


def checked_feeds(
    shapes: Mapping[str, tuple[int, ...]], inputs: Mapping[str, NDArray[Any]]
) -> tuple[dict[str, NDArray[np.float64]], int]:
    """Return inputs as float64 by name, and how many samples there are.

    Args:
        shapes: Shape per sample that each input must have.
        inputs: Real values ``[N, ...]``.

    Raises:
        DataError: Names or shapes differ from what the artifact was written for, or no samples.
    """
    if set(inputs) != set(shapes):
        raise DataError(f"the artifact has inputs {sorted(shapes)}, got {sorted(inputs)}.")
    feeds = {name: np.asarray(inputs[name], dtype=np.float64) for name in shapes}
    for name, shape in shapes.items():
        if feeds[name].ndim == 0 or feeds[name].shape[1:] != tuple(shape):
            raise DataError(
                f"input {name!r}: expected shape [N, {', '.join(map(str, shape))}], got {feeds[name].shape}."
            )
    counts = {len(feed) for feed in feeds.values()}
    if len(counts) != 1 or 0 in counts:
        raise DataError(f"inputs must have the same number of samples, at least one; got {sorted(counts)}.")
    return feeds, counts.pop()
