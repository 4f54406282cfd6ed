"""What a data set is: three checked splits of one classification task, with how they were prepared and their hash.

Used by every loader in this package (`digits_data`, `jets_data`, `npz_data`) and, for `Split`, by `train`.
Numpy only; knows no model. Loaders go through `make_dataset`, so every data set meets the same checks.

Statistics (mean, deviation) are fitted on the training part only; validation is carved from training data,
stratified, by an explicit seed; the test part is never looked at for any choice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dyadiq.core.errors import ConfigError, DataError

__all__ = [
    "Dataset",
    "Split",
    "check_finite",
    "fit_standardization",
    "make_dataset",
    "split_hash",
    "standardize",
    "stratified_cut",
]

_MAX_NAMES = 10  # of classes in a message


@dataclass(frozen=True, eq=False)
class Split:
    """Samples and labels of one part of a data set.

    Attributes:
        x: float32, samples along axis 0.
        y: int64 class indices, one per sample.

    Example:
        >>> part = Split(np.zeros((3, 2), np.float32), np.array([0, 1, 0]))
        >>> len(part), len(part.take(2)), part.y.dtype
        (3, 2, dtype('int64'))
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Convert to float32 and int64 and check that samples and labels pair up.

        Raises:
            DataError: No samples, labels that are not whole numbers, or another number of labels than samples.
        """
        x, y = np.asarray(self.x), np.asarray(self.y)
        if y.ndim != 1 or y.dtype.kind not in "iu":
            raise DataError(
                f"labels must be a 1-d array of integers, got {y.dtype} of shape {y.shape}. "
                "Pass class indices 0, 1, 2, ..., not one-hot rows or floats."
            )
        if x.ndim < 2 or x.dtype.kind not in "fiu":
            raise DataError(f"samples must be numbers of shape [N, ...], got {x.dtype} of shape {x.shape}.")
        if len(x) != len(y):
            raise DataError(f"got {len(x)} samples but {len(y)} labels; expected one label per sample.")
        if len(x) == 0:
            raise DataError("the split is empty; expected at least one sample.")
        with np.errstate(over="ignore"):  # Beyond float32 is infinite here, which `check_finite` reports.
            object.__setattr__(self, "x", np.ascontiguousarray(x, dtype=np.float32))
        object.__setattr__(self, "y", np.ascontiguousarray(y, dtype=np.int64))

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.y)

    def take(self, n: int) -> Split:
        """Return the first ``n`` samples (all of them if there are fewer)."""
        return Split(self.x[:n], self.y[:n])


@dataclass(frozen=True, eq=False)
class Dataset:
    """One classification task, ready to train on.

    Attributes:
        name: Registry name.
        train: What training sees.
        validation: What choices are made on.
        test: What is reported; used for nothing else.
        classes: Class names; label ``k`` means ``classes[k]``.
        feature_names: Names along axis 1, or empty.
        preprocessing: JSON-able: what turns raw samples into ``x``, and how the splits were made.
        sha256: Hash of the three splits as they are, after preprocessing.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    feature_names: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.train.x.shape[1:]


def make_dataset(
    name: str,
    train: Split,
    validation: Split,
    test: Split,
    *,
    classes: tuple[str, ...],
    feature_names: tuple[str, ...] = (),
    preprocessing: Mapping[str, Any] | None = None,
    every_class: bool = True,
) -> Dataset:
    """Check three splits and return them as a data set with its hash.

    With ``every_class``, each split must hold every class; samples of large tasks cannot.

    Raises:
        DataError: A split holds NaN or infinity, a label outside the classes, or lacks a class; or the splits
            disagree on the shape of a sample.

    Example:
        >>> part = Split(np.eye(2), np.array([0, 1]))
        >>> make_dataset("tiny", part, part, part, classes=("no", "yes")).input_shape
        (2,)
    """
    for part, split in (("train", train), ("validation", validation), ("test", test)):
        _check_split(f"{name}, {part} split", split, classes, feature_names, every_class)
        if split.x.shape[1:] != train.x.shape[1:]:
            raise DataError(
                f"{name}, {part} split: samples have shape {list(split.x.shape[1:])}, "
                f"expected {list(train.x.shape[1:])} as in the train split."
            )
    return Dataset(
        name=name,
        train=train,
        validation=validation,
        test=test,
        classes=classes,
        feature_names=feature_names,
        preprocessing=dict(preprocessing or {}),
        sha256=split_hash(train, validation, test),
    )


def check_finite(where: str, x: NDArray[np.float32], feature_names: tuple[str, ...] = ()) -> None:
    """Check that all samples are finite.

    Loaders call it on the arrays as they came, before splits are carved, so that the sample named is a row of the
    user's own array.

    Raises:
        DataError: NaN or infinity; names the sample, the place in it, and the feature.
    """
    finite = np.isfinite(x)
    if not finite.all():
        place = tuple(int(i) for i in np.argwhere(~finite)[0])
        known = len(place) > 1 and place[1] < len(feature_names)
        named = f" (feature {feature_names[place[1]]!r})" if known else ""
        raise DataError(
            f"{where}: {int((~finite).sum())} values are NaN or infinite, the first at sample {place[0]}, "
            f"index {list(place[1:])}{named}. Clean or drop these samples."
        )


def _check_split(
    where: str, split: Split, classes: tuple[str, ...], feature_names: tuple[str, ...], every_class: bool
) -> None:
    check_finite(where, split.x, feature_names)
    low, high = int(split.y.min()), int(split.y.max())
    if low < 0 or high >= len(classes):
        raise DataError(f"{where}: labels go from {low} to {high}, expected 0 to {len(classes) - 1}.")
    counts = np.bincount(split.y, minlength=len(classes))
    missing = [classes[k] for k in np.flatnonzero(counts == 0)]
    if missing and every_class:
        raise DataError(
            f"{where}: no sample of class {_few(missing)}; expected every one of the "
            f"{len(classes)} classes. Use more samples, or leave the class out of the task."
        )


def _few(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:_MAX_NAMES]))
    return shown if len(names) <= _MAX_NAMES else f"{shown} and {len(names) - _MAX_NAMES} more"


def stratified_cut(y: NDArray[np.int64], fractions: tuple[float, ...], seed: int) -> list[NDArray[np.intp]]:
    """Return disjoint index sets, each with about its fraction of every class; the last one takes the rest.

    Every part gets at least one sample of each class that has enough of them. Indices are sorted, so that the
    order of the source is kept.

    Args:
        y: Labels of all samples.
        fractions: Wanted fraction of each part but the last.
        seed: Seed of the permutation within each class.

    Raises:
        ConfigError: Fractions that are not positive or leave nothing for the rest.

    Example:
        >>> first, rest = stratified_cut(np.array([0, 0, 0, 0, 1, 1, 1, 1]), (0.25,), seed=0)
        >>> len(first), len(rest), sorted(np.concatenate([first, rest]).tolist())
        (2, 6, [0, 1, 2, 3, 4, 5, 6, 7])
    """
    if min(fractions) <= 0 or sum(fractions) >= 1:
        raise ConfigError(f"split fractions must be positive and leave a rest, got {fractions}; their sum must be < 1.")
    generator = np.random.default_rng(seed)
    parts: list[list[NDArray[np.intp]]] = [[] for _ in range(len(fractions) + 1)]
    for label in np.unique(y):
        members = generator.permutation(np.flatnonzero(y == label))
        start = 0
        for part, fraction in zip(parts, fractions, strict=False):
            count = max(1, round(fraction * len(members)))
            part.append(members[start : start + count])
            start += count
        parts[-1].append(members[start:])
    return [np.sort(np.concatenate(part)) for part in parts]


def fit_standardization(x: NDArray[np.float32]) -> dict[str, list[float]]:
    """Return mean and deviation over axis 0, in float64; a constant feature gets deviation 1.

    Example:
        >>> fit_standardization(np.array([[1.0, 5.0], [3.0, 5.0]], np.float32))
        {'mean': [2.0, 5.0], 'std': [1.0, 1.0]}
    """
    wide = x.astype(np.float64)
    std = wide.std(axis=0)
    return {"mean": wide.mean(axis=0).tolist(), "std": np.where(std > 0, std, 1.0).tolist()}


def standardize(x: ArrayLike, statistics: Mapping[str, Any]) -> NDArray[np.float32]:
    """Return ``(x - mean) / std``, computed in float64.

    Example:
        >>> standardize([[4.0]], {"mean": [2.0], "std": [4.0]})
        array([[0.5]], dtype=float32)
    """
    scaled = (np.asarray(x, dtype=np.float64) - np.asarray(statistics["mean"])) / np.asarray(statistics["std"])
    return np.asarray(scaled, dtype=np.float32)


def split_hash(*splits: Split) -> str:
    """Return the SHA-256 of the shapes and bytes of splits."""
    digest = hashlib.sha256()
    for split in splits:
        for array in (split.x, split.y):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()
