"""The user's own arrays."""

import numpy as np
import pytest

from dyadiq.core.errors import ArtifactError, ConfigError, DataError
from dyadiq.zoo import load_dataset


def write(path, **changes):
    rng = np.random.default_rng(1)
    arrays = {
        "x_train": rng.normal(size=(40, 3)),
        "y_train": np.arange(40) % 2,
        "x_test": rng.normal(size=(10, 3)),
        "y_test": np.arange(10) % 2,
    } | changes
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})


def test_classes_are_counted_when_not_named(tmp_path):
    write(tmp_path / "mine.npz")
    mine = load_dataset("npz", data_dir=tmp_path, path="mine.npz")
    assert mine.classes == ("0", "1")
    assert (len(mine.train), len(mine.validation)) == (36, 4)


def test_own_validation_arrays_and_raw_values_are_kept(tmp_path):
    x = np.arange(12.0).reshape(4, 3)
    write(tmp_path / "mine.npz", x_validation=x, y_validation=np.array([0, 1, 1, 0]), classes=np.array(["no", "yes"]))
    mine = load_dataset("npz", path=str(tmp_path / "mine.npz"), standardized=False)
    assert np.array_equal(mine.validation.x, x.astype(np.float32))
    assert mine.classes == ("no", "yes")
    assert mine.preprocessing == {"seed": 0, "kind": "none"}


def test_validation_samples_without_labels_are_refused(tmp_path):
    write(tmp_path / "mine.npz", x_validation=np.zeros((4, 3)))
    with pytest.raises(DataError, match=r"x_validation without y_validation"):
        load_dataset("npz", data_dir=tmp_path, path="mine.npz")


def test_split_errors_name_file_and_split(tmp_path):
    write(tmp_path / "mine.npz", y_test=np.arange(9) % 2)
    with pytest.raises(DataError, match=r"mine\.npz, test split: got 10 samples but 9 labels"):
        load_dataset("npz", data_dir=tmp_path, path="mine.npz")


def test_single_array_file_is_refused(tmp_path):
    np.save(tmp_path / "mine.npy", np.zeros(3))
    with pytest.raises(ArtifactError, match=r"holds a single array, expected an \.npz"):
        load_dataset("npz", data_dir=tmp_path, path="mine.npy")


def test_validation_fraction_beyond_one_is_refused(tmp_path):
    write(tmp_path / "mine.npz")
    with pytest.raises(ConfigError, match=r"split fractions must be positive"):
        load_dataset("npz", data_dir=tmp_path, path="mine.npz", validation_frac=1.5)


def test_too_few_samples_to_hold_some_out_are_refused(tmp_path):
    write(tmp_path / "mine.npz", x_train=np.zeros((2, 3)), y_train=np.array([0, 1]))
    with pytest.raises(DataError, match=r"nothing is left to train on"):
        load_dataset("npz", data_dir=tmp_path, path="mine.npz")


def test_missing_class_is_laid_to_the_split_that_lacks_it(tmp_path):
    y = np.arange(40) % 5
    write(tmp_path / "mine.npz", y_train=np.where(y == 4, 0, y), y_test=np.arange(10) % 5)
    with pytest.raises(DataError, match=r"train split: no sample of class '4'; expected every one of the 5 classes"):
        load_dataset("npz", data_dir=tmp_path, path="mine.npz")


def test_missing_class_is_found_when_only_the_test_split_lacks_it(tmp_path):
    write(tmp_path / "mine.npz", y_train=np.arange(40) % 5)
    with pytest.raises(DataError, match=r"test split: no sample of class '2', '3', '4'"):
        load_dataset("npz", data_dir=tmp_path, path="mine.npz")


def test_many_missing_classes_are_counted_not_listed(tmp_path):
    write(tmp_path / "mine.npz", y_test=np.array([0, 1] * 4 + [0, 30]))
    with pytest.raises(DataError, match=r"train split: no sample of class '2', .*'11' and 19 more"):
        load_dataset("npz", data_dir=tmp_path, path="mine.npz")


def test_labels_that_are_no_indices_are_refused(tmp_path):
    write(tmp_path / "mine.npz", y_test=np.array([0, 1] * 4 + [0, 10**12]))
    with pytest.raises(DataError, match=r"test split: labels go up to 1000000000000, but there are 50 samples in all"):
        load_dataset("npz", data_dir=tmp_path, path="mine.npz")


@pytest.mark.parametrize("value", [np.nan, 1e300])
def test_value_that_is_not_finite_is_named_by_the_row_of_the_user_s_array(tmp_path, value):
    x = np.random.default_rng(0).normal(size=(40, 3))
    x[3, 1] = value
    write(tmp_path / "mine.npz", x_train=x, feature_names=np.array(["pt", "eta", "phi"]))
    with pytest.raises(DataError, match=r"mine\.npz, x_train: 1 values .* sample 3, index \[1\] \(feature 'eta'\)"):
        load_dataset("npz", data_dir=tmp_path, path="mine.npz")
