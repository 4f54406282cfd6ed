"""The ``jets`` data set: five-class jet tagging from 16 high-level features, from simulated or published files.

Used by the registry in `zoo`. Without a path the file is ``jets/jets.npz`` in the folder that ``DYADIQ_DATA`` names.
Jets of the data pack and of ``dyadiq data jets`` are simulated after arXiv:1804.06913, with their own detector-level
definition: accuracies are not those of that paper. Published files are those that `jets_published` reads.

The simulated file holds raw features, shuffled jets, and a train and a test part that share no event.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.data_folder import data_folder
from dyadiq.core.errors import ConfigError
from dyadiq.zoo.data import Dataset, Split, check_finite
from dyadiq.zoo.jets_features import CLASSES, FEATURES
from dyadiq.zoo.jets_file import JETS_FILE
from dyadiq.zoo.jets_published import read_published_jets
from dyadiq.zoo.npz_data import read_npz, standardized_dataset

__all__ = ["load_jets_dataset"]

_ARRAYS = ("x_train", "y_train", "x_test", "y_test", "feature_names", "classes")


def load_jets_dataset(
    *,
    seed: int = 0,
    data_dir: str | Path | None = None,
    path: str | Path | None = None,
    validation_frac: float = 0.1,
    n_train: int | None = None,
    n_test: int | None = None,
) -> Dataset:
    """Load the jets, standardised with mean and deviation of the training part.

    Args:
        seed: Seed of the validation split.
        data_dir: Folder of the data pack; ``$DYADIQ_DATA`` or ``../shared/data`` if not given.
        path: Other jets, relative to the current folder: a ``jets.npz``, a folder with one, or a file or folder of
            published jets (see `jets_published`).
        validation_frac: Fraction of the training jets held out for choices.
        n_train: Use only the first jets of the training part (before the validation split); the file is shuffled.
        n_test: Use only the first jets of the test part.

    Raises:
        DataError: No file (says how to set ``DYADIQ_DATA``), NaN, a missing class, or malformed published files.
        ArtifactError: The file is corrupt.
        MissingDependencyError: A parquet file without pyarrow.
        ConfigError: ``n_train`` or ``n_test`` below 1, or ``validation_frac`` not in (0, 1).
    """
    for name, limit in (("n_train", n_train), ("n_test", n_test)):
        if limit is not None and limit < 1:
            raise ConfigError(f"jets: {name} must be at least 1, got {limit}. Leave it out to use all jets.")
    usual = data_folder(data_dir) / "jets" / JETS_FILE
    arrays = read_npz(usual, _ARRAYS) if path is None else _read_other(Path(path))
    feature_names = tuple(str(f) for f in arrays["feature_names"])
    train = _first(arrays["x_train"], arrays["y_train"], n_train)
    test = _first(arrays["x_test"], arrays["y_test"], n_test)
    for name, split in (("x_train", train), ("x_test", test)):
        check_finite(f"jets, {name}", split.x, feature_names)
    return standardized_dataset(
        "jets",
        train,
        test,
        classes=tuple(str(c) for c in arrays["classes"]),
        feature_names=feature_names,
        validation_frac=validation_frac,
        seed=seed,
    )


def _read_other(place: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an ``.npz``, of a folder with ``jets.npz``, or of published jets."""
    file = place / JETS_FILE if (place / JETS_FILE).is_file() else place
    if file.suffix == ".npz":
        return read_npz(file, _ARRAYS)
    jets, _, _ = read_published_jets(place)
    names = {"feature_names": np.array(FEATURES), "classes": np.array(CLASSES)}
    return {"x_train": jets.x_train, "y_train": jets.y_train, "x_test": jets.x_test, "y_test": jets.y_test, **names}


def _first(x: NDArray[np.float32], y: NDArray[np.uint8], limit: int | None) -> Split:
    return Split(x[:limit], y[:limit].astype(np.int64))
