"""The ``tiny_imagenet`` data set: 64x64 colour images of 200 classes, from JPEG bytes in ``.npz`` files.

Used by the registry in `zoo`. Needs Pillow (extra ``data``). Folder ``tiny_imagenet`` of the data pack: ``train.npz``
and ``val.npz`` with arrays ``bytes``, ``offset`` and ``label``; ``wnids.txt`` (order of labels), ``words.txt`` (names).
Validation is carved from the training images; the images of ``val.npz`` are the test split.
Source: Le and Yang 2015, "Tiny ImageNet Visual Recognition Challenge".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dyadiq.core.data_folder import data_folder
from dyadiq.core.errors import ArtifactError, ConfigError, DataError
from dyadiq.zoo.data import Dataset, Split, make_dataset, stratified_cut
from dyadiq.zoo.images import Pixels, normalize, read_rgb
from dyadiq.zoo.npz_data import read_npz

__all__ = ["load_tiny_imagenet_dataset"]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SIZE = 64


def load_tiny_imagenet_dataset(
    *, seed: int = 0, data_dir: str | Path | None = None, validation_frac: float = 0.2
) -> Dataset:
    """Load Tiny-ImageNet as ``[N, 3, 64, 64]``, normalized by ``(x / 255 - mean) / std``.

    Args:
        seed: Seed of the split into training and validation images, stratified.
        data_dir: Folder of the data pack.
        validation_frac: Share of the training images that is held out.

    Raises:
        ConfigError: ``validation_frac`` is not in (0, 1).
        DataError: Missing files.
        ArtifactError: A damaged file.
        MissingDependencyError: Pillow is not installed.
    """
    if not 0 < validation_frac < 1:
        raise ConfigError(f"tiny_imagenet: validation_frac must be in (0, 1), got {validation_frac}.")
    folder = data_folder(data_dir) / "tiny_imagenet"
    x, y = _read(folder / "train.npz")
    held, kept = stratified_cut(y, (validation_frac,), seed)
    parts = [Split(normalize(x[index], _MEAN, _STD), y[index]) for index in (kept, held)]
    x, y = _read(folder / "val.npz")
    parts.append(Split(normalize(x, _MEAN, _STD), y))
    steps = {"kind": "normalize", "divisor": 255.0, "mean": list(_MEAN), "std": list(_STD)}
    steps |= {"seed": seed, "validation_frac": validation_frac}
    return make_dataset("tiny_imagenet", *parts, classes=_class_names(folder), preprocessing=steps)


def _read(file: Path) -> tuple[Pixels, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Return the images and labels of a file.

    Raises:
        ArtifactError: Offsets that do not fit the bytes, or an image of another size.
    """
    arrays = read_npz(file, ("bytes", "offset", "label"))
    offset, labels = arrays["offset"].astype(np.int64), arrays["label"].astype(np.int64)
    if (
        len(offset) != len(labels) + 1
        or offset[0] != 0
        or offset[-1] != len(arrays["bytes"])
        or (np.diff(offset) < 1).any()
    ):
        raise ArtifactError(f"{file}: {len(offset)} offsets do not cut its bytes into {len(labels)} images.")
    images = np.empty((len(labels), _SIZE, _SIZE, 3), dtype=np.uint8)
    for i in range(len(labels)):
        pixels = read_rgb(arrays["bytes"][offset[i] : offset[i + 1]].tobytes(), f"{file}, image {i}")
        if pixels.shape != images.shape[1:]:
            raise ArtifactError(
                f"{file}, image {i}: got {pixels.shape[0]} x {pixels.shape[1]} pixels, expected 64 x 64."
            )
        images[i] = pixels
    return images, labels


def _class_names(folder: Path) -> tuple[str, ...]:
    """Return the names of the classes in the order of the labels.

    Raises:
        DataError: A missing file.
    """
    for name in ("wnids.txt", "words.txt"):
        if not (folder / name).is_file():
            raise DataError(
                f"no file {folder / name}. Set DYADIQ_DATA to the folder of the data pack (or pass data_dir)."
            )
    lines = (folder / "words.txt").read_text(encoding="utf-8").splitlines()
    words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    wnids = (folder / "wnids.txt").read_text(encoding="utf-8").split()
    return tuple(words.get(wnid, wnid) for wnid in wnids)
