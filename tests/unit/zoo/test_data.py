"""Splits, checks, standardisation and hashes."""

import numpy as np
import pytest

from dyadiq.core.data_folder import DATA_VARIABLE, data_folder
from dyadiq.core.errors import ConfigError, DataError
from dyadiq.zoo.data import (
    Split,
    fit_standardization,
    make_dataset,
    split_hash,
    standardize,
    stratified_cut,
)


def split(x=None, y=(0, 1, 0, 1)):
    return Split(np.arange(8.0).reshape(4, 2) if x is None else x, np.array(y))


def test_split_converts_types():
    part = Split(np.zeros((2, 3), np.float64), np.array([0, 1], np.uint8))
    assert part.x.dtype == np.float32
    assert part.y.dtype == np.int64


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((2, 3)), np.array([0.0, 1.0]), r"labels must be a 1-d array of integers, got float64"),
        (np.zeros((2, 3)), np.eye(2, dtype=int), r"labels must be .* of shape \(2, 2\)"),
        (np.zeros((2, 3)), np.array([0]), r"got 2 samples but 1 labels"),
        (np.zeros((0, 3)), np.array([], int), r"the split is empty"),
        (np.zeros(3), np.zeros(3, int), r"samples must be numbers of shape \[N, \.\.\.\]"),
        (np.array([["a"]]), np.array([0]), r"samples must be numbers"),
    ],
)
def test_split_refuses_arrays_that_do_not_fit(x, y, message):
    with pytest.raises(DataError, match=message):
        Split(x, y)


def test_dataset_refuses_nan_naming_sample_and_feature():
    x = np.zeros((4, 2))
    x[2, 1] = np.nan
    with pytest.raises(DataError, match=r"t, test split: 1 values are NaN .* sample 2, index \[1\] \(feature 'mass'\)"):
        make_dataset("t", split(), split(), split(x), classes=("a", "b"), feature_names=("pt", "mass"))


def test_dataset_refuses_a_split_that_lacks_a_class():
    with pytest.raises(DataError, match=r"t, validation split: no sample of class 'b', 'c'"):
        make_dataset("t", split(y=(0, 1, 2, 0)), split(y=(0, 0, 0, 0)), split(y=(0, 1, 2, 0)), classes=("a", "b", "c"))


def test_dataset_refuses_labels_beyond_the_classes():
    with pytest.raises(DataError, match=r"labels go from 0 to 1, expected 0 to 0"):
        make_dataset("t", split(), split(), split(), classes=("a",))


def test_dataset_refuses_splits_of_other_shapes():
    with pytest.raises(DataError, match=r"test split: samples have shape \[3\], expected \[2\]"):
        make_dataset("t", split(), split(), split(np.zeros((4, 3))), classes=("a", "b"))


def test_hash_changes_when_one_value_does():
    x = np.arange(8.0).reshape(4, 2)
    x[3, 1] += 1
    assert split_hash(split()) == split_hash(split())
    assert split_hash(split()) != split_hash(split(x))
    assert split_hash(split()) != split_hash(split(y=(1, 0, 0, 1)))


def test_cut_keeps_class_fractions_and_loses_nothing():
    y = np.repeat([0, 1, 2], [100, 50, 10])
    first, second, rest = stratified_cut(y, (0.6, 0.1), seed=5)
    assert np.array_equal(np.sort(np.concatenate([first, second, rest])), np.arange(160))
    assert np.bincount(y[first]).tolist() == [60, 30, 6]
    assert np.bincount(y[second]).tolist() == [10, 5, 1]


def test_cut_depends_on_the_seed_alone():
    y = np.arange(50) % 2
    a, b, c = (stratified_cut(y, (0.5,), seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("fractions", [(0.0,), (1.0,), (0.6, 0.4), (-0.1,)])
def test_cut_refuses_fractions_that_leave_nothing(fractions):
    with pytest.raises(ConfigError, match=r"split fractions must be positive and leave a rest"):
        stratified_cut(np.arange(4), fractions, seed=0)


def test_standardisation_gives_zero_mean_and_unit_deviation_and_spares_constants():
    x = np.random.default_rng(0).normal(7.0, 3.0, (500, 3)).astype(np.float32)
    x[:, 1] = 4.0
    scaled = standardize(x, fit_standardization(x)).astype(np.float64)
    np.testing.assert_allclose(scaled.mean(axis=0), 0.0, atol=1e-6)  # float32 rounding of 500 values
    np.testing.assert_allclose(scaled.std(axis=0), [1.0, 0.0, 1.0], atol=1e-6)


def test_data_folder_prefers_the_argument_then_the_variable(monkeypatch, tmp_path):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert data_folder() == tmp_path
    assert str(data_folder("here")) == "here"
    monkeypatch.delenv(DATA_VARIABLE)
    assert data_folder().parts[-2:] == ("shared", "data")
