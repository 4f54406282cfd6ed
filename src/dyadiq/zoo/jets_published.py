"""The published jets, from files that a user has: OpenML 42468 as one table, or the arrays of the hls4ml tutorial.

Used by ``dyadiq data jets --from`` and by `jets_data`. Downloads nothing and unpickles nothing.

A table (ARFF, CSV, parquet; see `jets_tables`) is split as the tutorial and most papers do: scikit-learn's
``train_test_split(test_size=0.2, random_state=42)``, reproduced here. Tables do not say which jets share an event.
The tutorial's folder holds ``X_train_val.npy``, ``y_train_val.npy``, ``X_test.npy``, ``y_test.npy``, its features
standardised already; standardising again with the training statistics gives what raw features would, up to rounding.
Its ``classes.npy`` is a pickle: it is not read, and its documented order (that of `CLASSES`) is taken.

Sources: openml.org/d/42468; fastmachinelearning/hls4ml-tutorial, part 1.
"""

from __future__ import annotations

import math
import tokenize
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ArtifactError, DataError
from dyadiq.core.storage import sha256_file
from dyadiq.zoo.data import check_finite
from dyadiq.zoo.jets_features import CLASSES, FEATURES
from dyadiq.zoo.jets_file import JetArrays, write_jets
from dyadiq.zoo.jets_tables import TABLE_SUFFIXES, read_table

__all__ = ["convert_jets", "read_published_jets"]

_TEST_FRAC, _SPLIT_SEED = 0.2, 42
_PARTS = (("train", "train_val"), ("test", "test"))
_STANDARDIZED = 0.05  # largest mean, and largest distance of deviations from 1, of features called standardised


def convert_jets(source: Path, folder: Path) -> dict[str, Any]:
    """Write published jets as ``folder/jets.npz``, and return the document that is written beside it.

    Raises:
        DataError: Nothing that can be read, other features or classes, NaN, malformed labels.
        ArtifactError: A file is corrupt or holds pickled objects.
        MissingDependencyError: A parquet file without pyarrow.
        StorageError: The disk is full or not writable.
    """
    jets, files, notes = read_published_jets(source)
    described = {file.name: sha256_file(file) for file in files}
    return write_jets(folder, jets, {"source": "published", "files": described, "notes": notes})


def read_published_jets(source: Path) -> tuple[JetArrays, list[Path], list[str]]:
    """Return the jets of a table or folder, the files they came from, and what a user should know about them.

    Args:
        source: A table, or a folder that holds the tutorial's arrays or exactly one table.

    Raises:
        DataError: Nothing that can be read, other features or classes, NaN, malformed labels.
        ArtifactError: A file is corrupt or holds pickled objects.
        MissingDependencyError: A parquet file without pyarrow.
    """
    if source.is_dir():
        if (source / "X_train_val.npy").is_file():
            return _read_arrays(source)
        tables = sorted(file for file in source.iterdir() if file.suffix.lower() in TABLE_SUFFIXES)
        if len(tables) != 1:
            found = ", ".join(file.name for file in tables) or "none"
            raise DataError(
                f"{source}: expected jets.npz, the arrays X_train_val.npy ... of the hls4ml tutorial, or one table "
                f"({', '.join(TABLE_SUFFIXES)}); tables found: {found}. Name the file itself."
            )
        source = tables[0]
    return _read_one_table(source)


def _read_one_table(file: Path) -> tuple[JetArrays, list[Path], list[str]]:
    x, y = read_table(file)
    check_finite(str(file), x, FEATURES)
    # Two legacy draws of scikit-learn: the permutation of RandomState, the test part first.
    order = np.random.RandomState(_SPLIT_SEED).permutation(len(y))
    n_test = math.ceil(_TEST_FRAC * len(y))
    test, train = order[:n_test], order[n_test:]
    notes = [
        f"split as the hls4ml tutorial does: train_test_split(test_size={_TEST_FRAC}, random_state={_SPLIT_SEED})",
        "the table does not say which jets share an event: two of one event can fall on both sides",
    ]
    return JetArrays(x[train], y[train], x[test], y[test]), [file], notes


def _read_arrays(folder: Path) -> tuple[JetArrays, list[Path], list[str]]:
    files: list[Path] = []
    parts: dict[str, tuple[NDArray[np.float32], NDArray[np.uint8]]] = {}
    for split, name in _PARTS:
        x_file, y_file = folder / f"X_{name}.npy", folder / f"y_{name}.npy"
        files += [x_file, y_file]
        x, y = _load(x_file), _load(y_file)
        if x.ndim != 2 or x.shape[1] != len(FEATURES) or x.dtype.kind not in "fiu":
            raise DataError(
                f"{x_file}: got {x.dtype} of shape {list(x.shape)}, expected numbers of shape [N, {len(FEATURES)}]."
            )
        with np.errstate(over="ignore"):  # beyond float32 is infinite here, which is reported
            features = x.astype(np.float32)
        check_finite(str(x_file), features, FEATURES)
        parts[split] = features, _labels(y_file, y, len(x))
    notes = [_order_note(folder / "classes.npy"), _scale_note(parts["train"][0])]
    return JetArrays(*parts["train"], *parts["test"]), files, notes


def _load(file: Path) -> NDArray[Any]:
    if not file.is_file():
        raise DataError(f"no file {file}; the tutorial's folder holds X_ and y_ of train_val and test.")
    try:
        with file.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of headers that Python 2 wrote
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    # The last three: what the parser of headers lets through from a damaged one.
    except (OSError, EOFError, ValueError, MemoryError, SyntaxError, TypeError, tokenize.TokenError) as err:
        raise ArtifactError(
            f"{file}: cannot be read as .npy without pickle ({err}). The file is corrupt, truncated or holds objects; "
            "fetch or write it again."
        ) from err


def _labels(file: Path, y: NDArray[Any], n_jets: int) -> NDArray[np.uint8]:
    """Return class indices of one-hot rows or of indices.

    Raises:
        DataError: Neither, or not one for each jet.
    """
    where = f"{file}: got {y.dtype} of shape {list(y.shape)}"
    if y.dtype.kind not in "biuf" or y.ndim not in (1, 2) or y.shape not in ((n_jets,), (n_jets, len(CLASSES))):
        raise DataError(f"{where}, expected [{n_jets}, {len(CLASSES)}] one-hot rows or [{n_jets}] class indices.")
    if y.ndim == 2:
        bad = np.flatnonzero(~(((y == 0) | (y == 1)).all(axis=1) & (y.sum(axis=1) == 1)))
        if len(bad):
            raise DataError(f"{where}, but row {bad[0]} is {y[bad[0]].tolist()}, not one 1 among zeros.")
        return np.asarray(y.argmax(axis=1), np.uint8)
    bad = np.flatnonzero(~np.isin(y, np.arange(len(CLASSES))))
    if len(bad):
        raise DataError(f"{where}, but label {bad[0]} is {y[bad[0]]}, not one of 0 to {len(CLASSES) - 1}.")
    return np.asarray(y, np.uint8)


def _order_note(file: Path) -> str:
    """Check the names of classes.npy if they are text, and say where the order comes from.

    Raises:
        DataError: The file names other classes or another order.
        ArtifactError: The file is corrupt.
    """
    documented = f"classes in the documented order {', '.join(CLASSES)}"
    if not file.is_file():
        return f"{documented}: there is no classes.npy"
    with file.open("rb") as stream:
        holds_objects = b"'descr': '|O'" in stream.read(256)
    if holds_objects:
        return f"{documented}: classes.npy is a pickle, which is never read"
    names = [str(name) for name in _load(file).ravel()]
    if names != list(CLASSES):
        raise DataError(f"{file}: names the classes {', '.join(names)}; expected {', '.join(CLASSES)}, in this order.")
    return f"classes in the order {', '.join(CLASSES)} of classes.npy"


def _scale_note(x: NDArray[np.float32]) -> str:
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    if max(np.abs(mean).max(), np.abs(std - 1).max()) < _STANDARDIZED:
        return "features are standardised already, in the units of their own mean and deviation; raw units are lost"
    return "features are raw; standardise with the training statistics"
