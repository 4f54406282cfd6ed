"""The jets loader, on a small file of the same form; the real file where it is present."""

import numpy as np
import pytest

from dyadiq.core.data_folder import DATA_VARIABLE, data_folder
from dyadiq.core.errors import ArtifactError, ConfigError, DataError
from dyadiq.zoo import load_dataset


def write_jets(folder, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.normal(5.0, 2.0, (200, 16)).astype(np.float32),
        "y_train": (np.arange(200) % 5).astype(np.uint8),
        "x_test": rng.normal(5.0, 2.0, (50, 16)).astype(np.float32),
        "y_test": (np.arange(50) % 5).astype(np.uint8),
        "feature_names": np.array([f"f{k}" for k in range(16)]),
        "classes": np.array(list("gqtwz")),
    } | changes
    (folder / "jets").mkdir()
    np.savez(folder / "jets" / "jets.npz", **{k: v for k, v in arrays.items() if v is not None})
    return folder / "jets" / "jets.npz"


def test_standardisation_is_fitted_on_the_training_part_alone(tmp_path):
    write_jets(tmp_path)
    jets = load_dataset("jets", data_dir=tmp_path)
    assert (len(jets.train), len(jets.validation), len(jets.test)) == (180, 20, 50)
    np.testing.assert_allclose(jets.train.x.mean(axis=0, dtype=np.float64), 0.0, atol=1e-6)  # float32 rounding
    assert abs(jets.validation.x.mean(dtype=np.float64)) > 1e-3
    assert jets.preprocessing["fitted_on"] == "train"
    mean, std = (np.array(jets.preprocessing[key]) for key in ("mean", "std"))
    raw = np.load(tmp_path / "jets" / "jets.npz")["x_test"]
    assert np.array_equal(jets.test.x, ((raw.astype(np.float64) - mean) / std).astype(np.float32))


def test_folder_comes_from_the_environment(tmp_path, monkeypatch):
    write_jets(tmp_path)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert load_dataset("jets").classes == ("g", "q", "t", "w", "z")


def test_limits_take_the_first_jets(tmp_path):
    write_jets(tmp_path)
    jets = load_dataset("jets", data_dir=tmp_path, n_train=100, n_test=20)
    assert (len(jets.train), len(jets.validation), len(jets.test)) == (90, 10, 20)


def test_limit_below_one_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"jets: n_test must be at least 1, got 0"):
        load_dataset("jets", data_dir=tmp_path, n_test=0)


def test_validation_split_follows_the_seed(tmp_path):
    write_jets(tmp_path)
    a, b, c = (load_dataset("jets", data_dir=tmp_path, seed=seed) for seed in (1, 1, 2))
    assert a.sha256 == b.sha256 != c.sha256
    assert np.array_equal(a.test.y, c.test.y)


def test_missing_file_says_how_to_set_the_folder(tmp_path):
    with pytest.raises(DataError, match=r"no data file .*jets\.npz\. Set the environment variable DYADIQ_DATA"):
        load_dataset("jets", data_dir=tmp_path)


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "flipped"])
def test_corrupt_file_is_refused(tmp_path, damage):
    path = write_jets(tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "garbage":
        data = bytearray(b"not an archive at all")
    elif damage == "empty":
        data = bytearray()
    else:
        data[len(data) // 4] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match=r"jets\.npz: cannot be read as \.npz without pickle"):
        load_dataset("jets", data_dir=tmp_path)


def test_pickled_objects_are_never_loaded(tmp_path):
    write_jets(tmp_path, classes=np.array([{"g": 1}], dtype=object))
    with pytest.raises(ArtifactError, match=r"without pickle"):
        load_dataset("jets", data_dir=tmp_path)


def test_missing_array_is_named(tmp_path):
    write_jets(tmp_path, y_test=None)
    with pytest.raises(DataError, match=r"no array named 'y_test'; it holds x_train"):
        load_dataset("jets", data_dir=tmp_path)


def test_class_that_no_test_jet_has_is_named(tmp_path):
    write_jets(tmp_path, y_test=(np.arange(50) % 4).astype(np.uint8))
    with pytest.raises(DataError, match=r"jets, test split: no sample of class 'z'"):
        load_dataset("jets", data_dir=tmp_path)


def test_nan_is_found_before_it_spoils_the_statistics(tmp_path):
    x = np.ones((200, 16), np.float32)
    x[7, 3] = np.nan
    write_jets(tmp_path, x_train=x)
    with pytest.raises(DataError, match=r"jets, x_train: 1 values are NaN .* sample 7, .*feature 'f3'"):
        load_dataset("jets", data_dir=tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not (data_folder() / "jets" / "jets.npz").is_file(), reason="needs the data pack (DYADIQ_DATA)")
def test_real_jets_have_the_published_form():
    jets = load_dataset("jets")
    assert jets.input_shape == (16,)
    assert len(jets.train) + len(jets.validation) == 445_969
    assert len(jets.test) == 83_202
    assert jets.classes == ("g", "q", "t", "w", "z")


def test_path_names_another_file_or_its_folder(tmp_path):
    file = write_jets(tmp_path)
    usual = load_dataset("jets", data_dir=tmp_path)
    for path in (file, file.parent, str(file)):
        assert load_dataset("jets", path=path).sha256 == usual.sha256
    other = file.rename(tmp_path / "mine.npz")
    assert load_dataset("jets", path=other).sha256 == usual.sha256


def test_path_to_nothing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no file or folder .*nowhere"):
        load_dataset("jets", path=tmp_path / "nowhere")
