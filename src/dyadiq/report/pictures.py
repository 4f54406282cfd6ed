"""Inputs of a network as one picture for the report: a grid, inside the page as a data URI.

Used by `report.html` only. Knows shapes, not where the inputs come from.
"""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray

__all__ = ["image_grid"]

_COLUMNS = 16
_MOST = 64
_PERCENT = (0.5, 99.5)  # what becomes black and white; all images share one scale


def image_grid(inputs: NDArray[np.float32]) -> str | None:
    """Return a PNG of the first 64 inputs as a data URI; None where inputs are no images.

    Three channels are colours; of any other number, the mean is shown in grey.

    Shapes:
        inputs ``[N, C, H, W]``.

    Example:
        >>> image_grid(np.zeros((2, 16), np.float32)) is None
        True
        >>> image_grid(np.zeros((2, 1, 8, 8), np.float32))[:22]
        'data:image/png;base64,'
    """
    if inputs.ndim != 4 or min(inputs.shape[2:]) < 2:
        return None
    from matplotlib import image

    x = inputs[:_MOST].astype(np.float64)
    x = x if x.shape[1] == 3 else x.mean(axis=1, keepdims=True).repeat(3, axis=1)
    low, high = np.percentile(x, _PERCENT)
    x = np.clip((x - low) / (high - low), 0.0, 1.0) if high > low else np.full_like(x, 0.5)
    buffer = io.BytesIO()
    image.imsave(buffer, np.round(255 * _tiled(x)).astype(np.uint8), format="png", metadata={"Software": "dyadiq"})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _tiled(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``[height, width, 4]``: rows of images, one pixel apart, transparent where there is none."""
    n, _, height, width = x.shape
    columns = min(n, _COLUMNS)
    rows = -(-n // columns)
    canvas = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, 4))
    for i, picture in enumerate(x):
        top, left = (i // columns) * (height + 1), (i % columns) * (width + 1)
        canvas[top : top + height, left : left + width, :3] = picture.transpose(1, 2, 0)
        canvas[top : top + height, left : left + width, 3] = 1.0
    return canvas
