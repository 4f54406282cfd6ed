"""The ``imagenet_sample`` data set: one image each of 800 ImageNet classes, prepared as a network expects.

Used by the registry in `zoo`. Needs Pillow (extra ``data``). Folder ``imagenet_sample`` of the data pack: JPEGs whose
shorter side is 256, and ``labels.csv`` (file, label, wnid, name). Too few images to train on: the train split is for
calibration. Splits are drawn by the seed from all images; no class is in two of them.
These look like ImageNet *training* images, so that accuracy is some points above that on validation images.
Source: Deng et al. 2009; Russakovsky et al. 2015.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from dyadiq.core.data_folder import data_folder
from dyadiq.core.errors import ArtifactError, ConfigError, DataError, UnknownNameError
from dyadiq.zoo.data import Dataset, Split, make_dataset
from dyadiq.zoo.images import Pixels, normalize, open_image

__all__ = ["PREPARATIONS", "Preparation", "load_imagenet_sample_dataset"]

_N_CLASSES = 1000


@dataclass(frozen=True, slots=True)
class Preparation:
    """How a family of networks wants its images.

    Attributes:
        size: Height and width.
        crop_frac: Share of the shorter side that the central crop keeps before it is resized to ``size``;
            None: the crop has ``size`` pixels and is not resized.
        divisor: Pixels are divided by it, then ``mean`` is subtracted and the result divided by ``std``.
        mean: Per channel, in the order of the channels.
        std: Likewise.
        bgr: Whether blue comes first.
        first_class: Label of class 0: 1 where class 0 of the network is the background.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    divisor: float = 255.0
    crop_frac: float | None = None
    bgr: bool = False
    first_class: int = 0


PREPARATIONS: Mapping[str, Preparation] = MappingProxyType(
    {
        "torchvision": Preparation(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "caffe": Preparation(227, (104.0, 117.0, 123.0), (1.0, 1.0, 1.0), divisor=1.0, bgr=True),
        "tensorflow": Preparation(224, (1.0,) * 3, (1.0,) * 3, divisor=128.0, crop_frac=0.875, first_class=1),
    }
)


def load_imagenet_sample_dataset(
    *,
    seed: int = 0,
    data_dir: str | Path | None = None,
    preparation: str = "torchvision",
    size: int | None = None,
    n_train: int = 128,
    n_validation: int = 72,
    n_test: int | None = None,
) -> Dataset:
    """Load the sample as ``[N, 3, size, size]``.

    Args:
        seed: Seed of the splits.
        data_dir: Folder of the data pack.
        preparation: ``torchvision``; ``caffe`` (SqueezeNet's own weights); ``tensorflow`` (1001 classes).
        size: Another size than the preparation's.
        n_train: Images for calibration.
        n_validation: Images for choices.
        n_test: Images that are left for reporting; all others if not given.

    Raises:
        UnknownNameError: No such preparation.
        ConfigError: Numbers of images that leave a split empty.
        DataError: Missing files.
        ArtifactError: A damaged file, or labels that are none.
        MissingDependencyError: Pillow is not installed.
    """
    if preparation not in PREPARATIONS:
        raise UnknownNameError("preparation of images", preparation, PREPARATIONS)
    how = PREPARATIONS[preparation]
    size = how.size if size is None else size
    folder = data_folder(data_dir) / "imagenet_sample"
    rows = _read_labels(folder / "labels.csv")
    counts = [n_train, n_validation, len(rows) - n_train - n_validation if n_test is None else n_test]
    if min(counts) < 1 or sum(counts) > len(rows) or size < 1:
        raise ConfigError(
            f"imagenet_sample: got n_train = {n_train}, n_validation = {n_validation}, n_test = {n_test} and size "
            f"{size}, expected positive numbers and at most {len(rows)} images in all."
        )
    order = np.random.default_rng(seed).permutation(len(rows))
    parts, start = [], 0
    for count in counts:
        chosen = [rows[i] for i in np.sort(order[start : start + count])]
        parts.append(_load(folder, chosen, how, size))
        start += count
    names = {int(row["label"]): row["name"] for row in rows}
    classes = ["background"] * how.first_class + [names.get(k, f"class {k}") for k in range(_N_CLASSES)]
    steps: dict[str, Any] = {"kind": preparation, "size": size, "seed": seed, "n": counts}
    return make_dataset("imagenet_sample", *parts, classes=tuple(classes), preprocessing=steps, every_class=False)


def _read_labels(file: Path) -> list[dict[str, str]]:
    """Return the rows of the table of labels.

    Raises:
        DataError: No such file.
        ArtifactError: Columns are missing, or labels are no class indices.
    """
    if not file.is_file():
        raise DataError(f"no file {file}. Set DYADIQ_DATA to the folder of the data pack (or pass data_dir).")
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = ("file", "label", "name")
    if not rows or any(row.get(column) is None for row in rows for column in columns):
        raise ArtifactError(f"{file}: expected rows with {', '.join(columns)}.")
    if not all(row["label"].isdigit() and int(row["label"]) < _N_CLASSES for row in rows):
        raise ArtifactError(f"{file}: labels must be class indices below {_N_CLASSES}.")
    return rows


def _load(folder: Path, rows: Sequence[Mapping[str, str]], how: Preparation, size: int) -> Split:
    pixels = np.stack([_prepared(folder / row["file"], how, size) for row in rows])
    labels = np.array([int(row["label"]) + how.first_class for row in rows])
    return Split(normalize(pixels, how.mean, how.std, how.divisor), labels)


def _prepared(file: Path, how: Preparation, size: int) -> Pixels:
    """Return the central crop of an image, in the network's order of channels."""
    from PIL import Image

    image = open_image(file)
    side = size if how.crop_frac is None else round(how.crop_frac * min(image.size))
    if min(image.size) < side:
        image = image.resize((side, side), Image.Resampling.BILINEAR)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if side != size:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[..., ::-1] if how.bgr else pixels
