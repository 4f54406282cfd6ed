"""The embedded digits."""

import sys

import numpy as np
import pytest

from dyadiq.core.errors import MissingDependencyError
from dyadiq.zoo import load_dataset


def test_digits_are_split_once_and_for_all():
    digits = load_dataset("digits")
    samples = np.concatenate([digits.train.x, digits.validation.x, digits.test.x]).reshape(1797, 64)
    from sklearn.datasets import load_digits

    source = (load_digits().data / 16).astype(np.float32)
    assert np.array_equal(samples[np.lexsort(samples.T)], source[np.lexsort(source.T)])
    assert digits.preprocessing == {"kind": "divide", "divisor": 16.0, "seed": 0}
    assert digits.sha256 == load_dataset("digits").sha256
    assert digits.sha256 != load_dataset("digits", seed=1).sha256


def test_digits_say_what_to_install_when_sklearn_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'dyadiq\[data\]'"):
        load_dataset("digits")
