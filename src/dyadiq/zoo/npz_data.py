"""The ``npz`` data set: the user's own arrays in one ``.npz`` file; also the checked reading of such files.

Used by the registry in `zoo` and by `jets_data`. No pickle is ever read.

Arrays: ``x_train y_train x_test y_test``, optionally ``x_validation y_validation`` (else carved from training),
``classes`` and ``feature_names`` (text).
"""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.data_folder import DATA_VARIABLE
from dyadiq.core.errors import ArtifactError, DataError
from dyadiq.zoo.data import (
    Dataset,
    Split,
    check_finite,
    fit_standardization,
    make_dataset,
    standardize,
    stratified_cut,
)

__all__ = ["load_npz_dataset", "read_npz", "standardized_dataset"]


def read_npz(path: Path, required: Iterable[str], optional: Iterable[str] = ()) -> dict[str, NDArray[Any]]:
    """Return named arrays of an ``.npz`` file.

    Args:
        path: The file.
        required: Names that must be there.
        optional: Names that are returned if they are there.

    Raises:
        DataError: The file does not exist, or lacks an array.
        ArtifactError: The file is corrupt, truncated, no ``.npz``, or holds pickled objects.
    """
    if not path.is_file():
        raise DataError(
            f"no data file {path}. Set the environment variable {DATA_VARIABLE} to the folder of the data pack "
            "(or pass data_dir, or another path)."
        )
    required = tuple(required)
    try:
        # The file is opened here, because np.load leaves it open when the archive is damaged.
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ArtifactError(f"{path}: holds a single array, expected an .npz with {', '.join(required)}.")
            missing = [name for name in required if name not in archive.files]
            if missing:
                raise DataError(
                    f"{path}: no array named {', '.join(map(repr, missing))}; it holds {', '.join(archive.files)}."
                )
            return {name: archive[name] for name in (*required, *optional) if name in archive.files}
    except (DataError, ArtifactError):
        raise
    # The last four: what the parser of array headers lets through from a damaged one.
    except (
        *(OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError),
        *(SyntaxError, TypeError, MemoryError, tokenize.TokenError),
    ) as err:
        raise ArtifactError(
            f"{path}: cannot be read as .npz without pickle ({err}). The file is corrupt, truncated or holds "
            "objects; fetch or write it again."
        ) from err


def standardized_dataset(
    name: str,
    train: Split,
    test: Split,
    *,
    classes: tuple[str, ...],
    feature_names: tuple[str, ...] = (),
    validation: Split | None = None,
    validation_frac: float = 0.1,
    standardized: bool = True,
    seed: int = 0,
) -> Dataset:
    """Carve the validation split, fit the standardisation on what remains for training, and apply it to all.

    Raises:
        DataError: A split does not pass the checks of `make_dataset`.
        ConfigError: ``validation_frac`` is not in (0, 1).
    """
    steps: dict[str, Any] = {"seed": seed}
    if validation is None:
        held, kept = stratified_cut(train.y, (validation_frac,), seed)
        if len(kept) == 0:
            raise DataError(f"{name}: nothing is left to train on after taking the validation split.")
        train, validation = Split(train.x[kept], train.y[kept]), Split(train.x[held], train.y[held])
        steps["validation_frac"] = validation_frac
    if standardized:
        # Non-finite values would spoil the statistics: check before fitting, so that the message is about the data.
        make_dataset(name, train, validation, test, classes=classes, feature_names=feature_names)
        statistics = fit_standardization(train.x)
        steps |= {"kind": "standardize", "fitted_on": "train", **statistics}
        train, validation, test = (Split(standardize(s.x, statistics), s.y) for s in (train, validation, test))
    else:
        steps["kind"] = "none"
    return make_dataset(
        name, train, validation, test, classes=classes, feature_names=feature_names, preprocessing=steps
    )


def load_npz_dataset(
    *,
    seed: int = 0,
    data_dir: str | Path | None = None,
    path: str,
    validation_frac: float = 0.1,
    standardized: bool = True,
) -> Dataset:
    """Load the user's own arrays.

    Args:
        seed: Seed of the validation split, where the file has none.
        data_dir: Folder that a relative ``path`` starts from; the current folder if not given.
        path: The ``.npz`` file.
        validation_frac: Fraction of the training samples held out, where the file has no validation arrays.
        standardized: Subtract the training mean and divide by the training deviation, per feature.

    Raises:
        DataError: No file, a missing array, NaN, a missing class, labels and samples that do not pair up.
        ArtifactError: The file is corrupt.
        ConfigError: ``validation_frac`` is not in (0, 1).
    """
    file = Path(data_dir or ".") / path
    extra = ("x_validation", "y_validation", "classes", "feature_names")
    arrays = read_npz(file, ("x_train", "y_train", "x_test", "y_test"), extra)
    parts = {}
    for part in ("train", "test", "validation"):
        if f"x_{part}" in arrays:
            if f"y_{part}" not in arrays:
                raise DataError(f"{file}: x_{part} without y_{part}; expected both or neither.")
            parts[part] = _named_split(f"{file}, {part} split", arrays[f"x_{part}"], arrays[f"y_{part}"])
    feature_names = tuple(str(f) for f in arrays.get("feature_names", ()))
    for part, split in parts.items():
        check_finite(f"{file}, x_{part}", split.x, feature_names)
    classes = arrays["classes"] if "classes" in arrays else np.arange(_count_classes(file, parts))
    return standardized_dataset(
        "npz",
        parts["train"],
        parts["test"],
        validation=parts.get("validation"),
        classes=tuple(str(c) for c in classes),
        feature_names=feature_names,
        validation_frac=validation_frac,
        standardized=standardized,
        seed=seed,
    )


def _count_classes(file: Path, parts: Mapping[str, Split]) -> int:
    """Return the number of classes: one more than the largest label of all splits.

    Raises:
        DataError: More classes than samples, so some cannot have any; names the split with the largest label.
    """
    part = max(parts, key=lambda name: int(parts[name].y.max()))
    n_classes, n_samples = int(parts[part].y.max()) + 1, sum(map(len, parts.values()))
    if n_classes > n_samples:
        raise DataError(
            f"{file}, {part} split: labels go up to {n_classes - 1}, but there are {n_samples} samples in all; "
            "expected class indices 0, 1, 2, ... without gaps. Number the classes anew."
        )
    return n_classes


def _named_split(where: str, x: NDArray[Any], y: NDArray[Any]) -> Split:
    try:
        return Split(x, y)
    except DataError as err:
        raise DataError(f"{where}: {err}") from err
