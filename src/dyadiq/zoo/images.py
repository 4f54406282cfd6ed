"""Images from files: decoding by Pillow, and the normalization that networks expect.

Used by the loaders of image data sets. Pixels stay uint8 until they are normalized, by a table of 256 values a
channel, so that every pixel is computed in float64 once and rounded once.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.data_folder import DATA_VARIABLE
from dyadiq.core.errors import ArtifactError, DataError, MissingDependencyError

__all__ = ["normalize", "open_image", "read_rgb"]

Pixels = NDArray[np.uint8]


def open_image(source: Path | bytes, where: str = "") -> Any:
    """Return an image as Pillow's, decoded and in RGB.

    Args:
        source: A file, or the bytes of one.
        where: Names the image in messages; the path of a file if not given.

    Raises:
        MissingDependencyError: Pillow is not installed.
        DataError: The file does not exist.
        ArtifactError: It is damaged, or no image.
    """
    try:
        from PIL import Image
    except ImportError as err:
        raise MissingDependencyError("Pillow", "data") from err
    where = where or str(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return image.convert("RGB")
    except FileNotFoundError as err:
        raise DataError(
            f"no image {where}. Set the environment variable {DATA_VARIABLE} to the folder of the data pack "
            "(or pass data_dir)."
        ) from err
    except (OSError, ValueError, SyntaxError) as err:
        raise ArtifactError(f"{where}: cannot be read as an image ({err}). Fetch it again.") from err


def read_rgb(source: Path | bytes, where: str = "") -> Pixels:
    """Return the pixels of an image, uint8 ``[H, W, 3]``.

    Raises:
        MissingDependencyError: Pillow is not installed.
        DataError: The file does not exist.
        ArtifactError: It is damaged, or no image.
    """
    return np.asarray(open_image(source, where), dtype=np.uint8)


def normalize(
    pixels: Pixels, mean: Sequence[float], std: Sequence[float], divisor: float = 255.0
) -> NDArray[np.float32]:
    """Return ``(pixels / divisor - mean) / std``, channels first.

    Shapes:
        pixels ``[N, H, W, C]`` to ``[N, C, H, W]``; mean and std ``[C]``.

    Example:
        >>> normalize(np.full((1, 1, 1, 2), 255, np.uint8), (0.5, 0.0), (0.5, 2.0)).ravel()
        array([1. , 0.5], dtype=float32)
    """
    n, height, width, n_channels = pixels.shape
    result = np.empty((n, n_channels, height, width), dtype=np.float32)
    for channel in range(n_channels):
        levels = (np.arange(256) / divisor - mean[channel]) / std[channel]
        result[:, channel] = levels.astype(np.float32)[pixels[..., channel]]
    return result
