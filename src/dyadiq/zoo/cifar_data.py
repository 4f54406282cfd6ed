"""The ``cifar10`` data set: 32x32 colour images of ten classes, from sheets of images in lossless WebP.

Used by the registry in `zoo`. Needs Pillow (extra ``data``). Folder ``cifar10`` of the data pack: ``train_*.webp`` and
``test_*.webp``, sheets of images 100 wide in row-major order, and ``labels.npz`` with arrays ``train`` and ``test``.
Validation is carved from the training images; the test images are read by nothing that chooses.
Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.data_folder import data_folder
from dyadiq.core.errors import ArtifactError, ConfigError, DataError
from dyadiq.zoo.data import Dataset, Split, make_dataset, stratified_cut
from dyadiq.zoo.images import Pixels, normalize, read_rgb
from dyadiq.zoo.npz_data import read_npz

__all__ = ["CIFAR_CLASSES", "load_cifar10_dataset"]

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# What the checkpoints in circulation were trained with: the usual ImageNet statistics, not those of these images.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SIZE, _PER_ROW = 32, 100


def load_cifar10_dataset(
    *,
    seed: int = 0,
    data_dir: str | Path | None = None,
    n_train: int | None = None,
    n_validation: int = 5000,
) -> Dataset:
    """Load CIFAR-10 as ``[N, 3, 32, 32]``, normalized by ``(x / 255 - mean) / std``.

    Args:
        seed: Seed of the split into training and validation images, stratified.
        data_dir: Folder of the data pack.
        n_train: Keep about so many training images, stratified; all that are left if not given. A whole training
            split takes 500 MB, of which quantization after training needs a few hundred images.
        n_validation: Training images held out.

    Raises:
        ConfigError: ``n_train`` and ``n_validation`` leave a split without an image, or are too many.
        DataError: Missing files, or another number of images than labels.
        ArtifactError: A damaged file.
        MissingDependencyError: Pillow is not installed.
    """
    folder = data_folder(data_dir) / "cifar10"
    labels = read_npz(folder / "labels.npz", ("train", "test"))
    y_train, y_test = (labels[part].astype(np.int64) for part in ("train", "test"))
    counts = (n_validation,) if n_train is None else (n_validation, n_train)
    if min(counts) < len(CIFAR_CLASSES) or sum(counts) >= len(y_train) + (n_train is not None):
        raise ConfigError(
            f"cifar10: got n_validation = {n_validation} and n_train = {n_train}, expected each to be at least "
            f"{len(CIFAR_CLASSES)} and both together at most the {len(y_train)} training images."
        )
    fractions = tuple(count / len(y_train) for count in counts)
    if sum(fractions) >= 1.0:
        fractions = fractions[:1]  # all that are left
    held, kept, *_ = stratified_cut(y_train, fractions, seed)
    pixels = _read_sheets(folder, "train", len(y_train))
    parts = [Split(normalize(pixels[index], _MEAN, _STD), y_train[index]) for index in (kept, held)]
    del pixels
    parts.append(Split(normalize(_read_sheets(folder, "test", len(y_test)), _MEAN, _STD), y_test))
    steps = {"kind": "normalize", "divisor": 255.0, "mean": list(_MEAN), "std": list(_STD)}
    steps |= {"seed": seed, "n_train": n_train, "n_validation": n_validation}
    train, validation, test = parts
    return make_dataset("cifar10", train, validation, test, classes=CIFAR_CLASSES, preprocessing=steps)


def _read_sheets(folder: Path, part: str, count: int) -> Pixels:
    """Return the images of a part, uint8 ``[N, 32, 32, 3]``.

    Raises:
        DataError: No sheets, or another number of images than labels.
    """
    files = sorted(folder.glob(f"{part}_*.webp"))
    if not files:
        raise DataError(f"no sheets {folder / part}_*.webp; the labels name {count} images. Fetch the data pack again.")
    sheets = [_cut(read_rgb(file), file) for file in files]
    images = np.concatenate(sheets)
    if not count <= len(images) < count + _PER_ROW:
        raise DataError(f"{folder}: {part} has {count} labels, but its sheets hold {len(images)} images.")
    return images[:count]


def _cut(sheet: Pixels, file: Path) -> NDArray[np.uint8]:
    """Return the images of a sheet.

    Raises:
        ArtifactError: The sheet has no such size.
    """
    height, width = sheet.shape[:2]
    if width != _SIZE * _PER_ROW or height % _SIZE:
        raise ArtifactError(
            f"{file}: a sheet of {height} x {width} pixels, expected rows of {_PER_ROW} images of 32 x 32."
        )
    tiles = sheet.reshape(height // _SIZE, _SIZE, _PER_ROW, _SIZE, 3).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(-1, _SIZE, _SIZE, 3)
