"""The ``digits`` data set: scikit-learn's 1,797 handwritten digits, 8x8 grey levels 0 to 16. Embedded, no download.

Used by the registry in `zoo`. Needs scikit-learn (extra ``data``).
Source: Alpaydin and Kaynak 1998, UCI "Optical Recognition of Handwritten Digits" (its test part), CC BY 4.0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dyadiq.core.errors import MissingDependencyError
from dyadiq.zoo.data import Dataset, Split, make_dataset, stratified_cut

__all__ = ["load_digits_dataset"]

_TRAIN_FRAC, _VALIDATION_FRAC = 0.6, 0.1


def load_digits_dataset(*, seed: int = 0, data_dir: str | Path | None = None) -> Dataset:
    """Load the digits as ``[N, 1, 8, 8]`` in [0, 1]: 60 % train, 10 % validation, 30 % test, stratified.

    Args:
        seed: Seed of the split.
        data_dir: Not used; every loader takes it.

    Raises:
        MissingDependencyError: scikit-learn is not installed.

    Example:
        >>> digits = load_digits_dataset()
        >>> digits.input_shape, len(digits.train), len(digits.validation), len(digits.test)
        ((1, 8, 8), 1078, 179, 540)
    """
    del data_dir
    try:
        from sklearn.datasets import load_digits
    except ImportError as err:
        raise MissingDependencyError("scikit-learn", "data") from err
    source = load_digits()
    x = (source.data / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    y = source.target.astype(np.int64)
    parts = stratified_cut(y, (_TRAIN_FRAC, _VALIDATION_FRAC), seed)
    train, validation, test = (Split(x[index], y[index]) for index in parts)
    return make_dataset(
        "digits",
        train,
        validation,
        test,
        classes=tuple(str(k) for k in range(10)),
        preprocessing={"kind": "divide", "divisor": 16.0, "seed": seed},
    )
