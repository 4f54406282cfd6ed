"""Tables of jets as text or parquet: the sixteen features by name in any order, and one column of class names.

Used by `jets_published`. Rows keep their order. Nothing is guessed: a column that is missing, or one too many, is an
error that names it.

Formats: ARFF (https://waikato.github.io/weka-wiki/formats_and_processing/arff_stable/; dense rows only), CSV with a
header, and parquet where pyarrow is installed.
"""

from __future__ import annotations

import importlib
import itertools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ArtifactError, DataError, MissingDependencyError
from dyadiq.zoo.jets_features import CLASSES, FEATURES

__all__ = ["TABLE_SUFFIXES", "read_table"]

_LABEL_COLUMNS = ("class", "jet_type", "target", "label")
_MAX_HEADER_LINES = 10_000
_Table = tuple[NDArray[np.float32], NDArray[np.uint8]]


def read_table(file: Path) -> _Table:
    """Return features ``[N, 16]`` in the order of `FEATURES`, and class indices.

    Args:
        file: ``.arff``, ``.csv``, ``.parquet`` or ``.pq``.

    Raises:
        DataError: No file, another kind of file, other columns or classes, or values that are no numbers.
        ArtifactError: Not text, or corrupt.
        MissingDependencyError: A parquet file without pyarrow.
    """
    if not file.is_file():
        raise DataError(
            f"no file or folder {file}. Give a table of OpenML 42468, or the folder of the tutorial's arrays."
        )
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise DataError(f"{file}: unknown kind of table {file.suffix!r}; expected {', '.join(TABLE_SUFFIXES)}.")
    return reader(file)


def _read_text(file: Path) -> _Table:
    arff = file.suffix.lower() == ".arff"
    try:
        with file.open(encoding="utf-8") as stream:
            columns = _arff_columns(file, stream) if arff else _csv_columns(stream)
            label = _check_columns(file, columns)
            rows = _read_rows(file, stream, columns, label, comments="%" if arff else None)
    except UnicodeDecodeError as err:
        raise ArtifactError(f"{file}: is not UTF-8 text ({err}).") from err
    except OSError as err:
        raise ArtifactError(f"{file}: cannot be read: {err.strerror or err}.") from err
    return _table(file, {name: rows[name] for name in columns}, label)


def _read_rows(file: Path, stream: TextIO, columns: list[str], label: str, *, comments: str | None) -> NDArray[np.void]:
    """Return the rows as a structured array.

    Raises:
        DataError: A row has another number of values, or a value that is no number.
        UnicodeDecodeError: The file is no text.
    """
    kinds = [(name, "U16" if name == label else "f8") for name in columns]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of an empty table, which the caller reports
            rows = np.loadtxt(stream, dtype=kinds, delimiter=",", comments=comments, quotechar='"', ndmin=1)
    except UnicodeDecodeError:
        raise
    except ValueError as err:
        raise DataError(f"{file}: {err}; expected {len(columns)} comma-separated values in each row.") from err
    return np.asarray(rows)


def _csv_columns(stream: TextIO) -> list[str]:
    return [_unquoted(name) for name in stream.readline().split(",")]


def _arff_columns(file: Path, stream: TextIO) -> list[str]:
    """Return the attributes; leaves the stream at the first row.

    Raises:
        DataError: There is no row.
    """
    columns: list[str] = []
    for line in itertools.islice(iter(stream.readline, ""), _MAX_HEADER_LINES):
        words = line.split()
        if words and words[0].lower() == "@data":
            return columns
        if words and words[0].lower() == "@attribute":
            columns.append(_unquoted(words[1]) if len(words) > 1 else "")
    raise DataError(f"{file}: no line @DATA; the file is truncated or no ARFF. Fetch it again.")


def _read_parquet(file: Path) -> _Table:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
        arrow: Any = importlib.import_module("pyarrow")
    except ModuleNotFoundError as err:
        raise MissingDependencyError("pyarrow") from err
    try:
        table = parquet.read_table(file)
        label = _check_columns(file, table.column_names)
        return _table(file, {name: table[name].to_numpy() for name in table.column_names}, label)
    except (arrow.ArrowException, OSError) as err:
        raise ArtifactError(f"{file}: cannot be read as parquet ({err}). Fetch it again.") from err


def _unquoted(name: str) -> str:
    return name.strip().strip("'\"")


def _check_columns(file: Path, columns: Sequence[str]) -> str:
    """Return the column of class names.

    Raises:
        DataError: A feature is missing or there twice, or there is not exactly one more column, of class names.
    """
    others = [name for name in columns if name not in FEATURES]
    missing = [name for name in FEATURES if name not in columns]
    if missing or len(others) != 1 or others[0] not in _LABEL_COLUMNS or len(columns) != len(FEATURES) + 1:
        raise DataError(
            f"{file}: expected the {len(FEATURES)} features and one of the columns {', '.join(_LABEL_COLUMNS)}; "
            f"missing: {', '.join(missing) or 'none'}; others: {', '.join(map(repr, others)) or 'none'}; "
            f"{len(columns)} columns in all."
        )
    return others[0]


def _table(file: Path, columns: dict[str, NDArray[Any]], label: str) -> _Table:
    names = np.char.strip(columns[label].astype(str), " '\"")
    if len(names) == 0:
        raise DataError(f"{file}: holds no jets.")
    known = np.isin(names, CLASSES)
    if not known.all():
        first = int(np.flatnonzero(~known)[0])
        raise DataError(
            f"{file}: row {first} has the class {str(names[first])!r}, expected one of {', '.join(CLASSES)}."
        )
    try:
        with np.errstate(over="ignore"):  # beyond float32 is infinite here, which callers report
            x = np.stack([columns[name].astype(np.float32) for name in FEATURES], axis=1)
    except (TypeError, ValueError) as err:
        raise DataError(f"{file}: a feature is no number ({err}).") from err
    return x, np.searchsorted(CLASSES, names).astype(np.uint8)


_READERS: dict[str, Callable[[Path], _Table]] = {
    ".arff": _read_text,
    ".csv": _read_text,
    ".parquet": _read_parquet,
    ".pq": _read_parquet,
}
TABLE_SUFFIXES = tuple(_READERS)
"""Endings of files that `read_table` reads."""
