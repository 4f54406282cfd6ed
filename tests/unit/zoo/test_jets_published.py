"""Published jets: the split of the tutorial, labels by name, arrays that were standardised before; no pickle."""

import contextlib
import json
import pickle

import numpy as np
import pytest

from dyadiq.core.errors import ArtifactError, DataError
from dyadiq.zoo import load_dataset
from dyadiq.zoo.jets_features import CLASSES, FEATURES
from dyadiq.zoo.jets_published import convert_jets, read_published_jets
from published_jets import jets, write_arff, write_csv, write_tutorial


@pytest.mark.parametrize("n", [60, 101])
def test_table_is_split_as_scikit_learn_does(tmp_path, n):
    selection = pytest.importorskip("sklearn.model_selection", reason="needs scikit-learn")
    x, names = jets(n)
    found, files, notes = read_published_jets(write_arff(tmp_path / "a.arff", x, names))
    x_train, x_test, y_train, y_test = selection.train_test_split(x, names, test_size=0.2, random_state=42)
    assert np.array_equal(found.x_train, x_train)
    assert np.array_equal(found.x_test, x_test)
    assert [CLASSES[k] for k in found.y_train] == list(y_train)
    assert [CLASSES[k] for k in found.y_test] == list(y_test)
    assert files == [tmp_path / "a.arff"]
    assert any("share an event" in note for note in notes)


def test_folder_with_one_table_is_that_table(tmp_path):
    x, names = jets(60)
    write_csv(tmp_path / "dataset_42468.csv", x, names)
    (tmp_path / "notes.txt").write_text("mine")
    assert len(read_published_jets(tmp_path)[0].x_train) == 48


def test_folder_with_two_tables_or_none_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"tables found: none\. Name the file itself"):
        read_published_jets(tmp_path)
    for name in ("a.csv", "b.csv"):
        write_csv(tmp_path / name, *jets(10))
    with pytest.raises(DataError, match=r"tables found: a\.csv, b\.csv"):
        read_published_jets(tmp_path)


def test_tutorial_arrays_keep_their_split_and_order(tmp_path):
    folder = write_tutorial(tmp_path / "tutorial")
    found, files, notes = read_published_jets(folder)
    assert np.array_equal(found.x_train, np.load(folder / "X_train_val.npy").astype(np.float32))
    assert [CLASSES[k] for k in found.y_test] == list(jets(40, 2)[1])
    assert len(files) == 4
    assert "standardised already" in notes[1]


def test_standardising_twice_gives_what_raw_features_give(tmp_path):
    raw = {}
    for part, n, seed in (("train_val", 80, 1), ("test", 40, 2)):
        raw[f"X_{part}"] = jets(n, seed)[0]
    once = load_dataset("jets", path=write_tutorial(tmp_path / "raw", **raw))
    twice = load_dataset("jets", path=write_tutorial(tmp_path / "standardised"))
    np.testing.assert_allclose(once.test.x, twice.test.x, atol=1e-5)  # float32, twice
    assert "features are raw" in read_published_jets(tmp_path / "raw")[2][1]


def test_indices_serve_as_well_as_one_hot_rows(tmp_path):
    one_hot = write_tutorial(tmp_path / "a")
    labels = {name: np.load(one_hot / f"{name}.npy").argmax(axis=1) for name in ("y_train_val", "y_test")}
    as_indices = write_tutorial(tmp_path / "b", **labels)
    first, second = (read_published_jets(folder)[0] for folder in (one_hot, as_indices))
    assert np.array_equal(first.y_train, second.y_train)


class Bomb:
    """A pickle that would leave a mark."""

    def __reduce__(self):
        return (open, ("exploded.txt", "w"))


def test_pickled_classes_are_never_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_tutorial(tmp_path / "tutorial", classes=np.array([Bomb()], dtype=object))
    notes = read_published_jets(folder)[2]
    assert notes[0] == "classes in the documented order g, q, t, w, z: classes.npy is a pickle, which is never read"
    assert not (tmp_path / "exploded.txt").exists()


def test_classes_as_text_are_checked(tmp_path):
    folder = write_tutorial(tmp_path / "a", classes=np.array(CLASSES))
    assert read_published_jets(folder)[2][0] == "classes in the order g, q, t, w, z of classes.npy"
    folder = write_tutorial(tmp_path / "b", classes=None)
    assert "there is no classes.npy" in read_published_jets(folder)[2][0]
    folder = write_tutorial(tmp_path / "c", classes=np.array(["g", "q", "w", "z", "t"]))
    with pytest.raises(DataError, match=r"names the classes g, q, w, z, t; expected g, q, t, w, z"):
        read_published_jets(folder)


def broken_rows():
    rows = np.eye(5)[np.arange(40) % 5]
    rows[7] = [1, 1, 0, 0, 0]
    return rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X_test": None}, r"no file .*X_test\.npy"),
        ({"y_test": None}, r"no file .*y_test\.npy"),
        ({"X_test": np.zeros((40, 15))}, r"X_test\.npy: got float64 of shape \[40, 15\], expected .* \[N, 16\]"),
        ({"X_test": np.full((40, 16), "a")}, r"X_test\.npy: got <U1"),
        ({"X_test": np.full((40, 16), np.nan)}, r"X_test\.npy: 640 values are NaN or infinite.*feature 'zlogz'"),
        ({"X_test": np.full((40, 16), 1e300)}, r"X_test\.npy: 640 values are NaN or infinite"),
        ({"y_test": np.zeros((40, 4))}, r"y_test\.npy: got float64 of shape \[40, 4\], expected \[40, 5\] one-hot"),
        ({"y_test": np.zeros(39, np.int64)}, r"y_test\.npy: got int64 of shape \[39\]"),
        ({"y_test": broken_rows()}, r"row 7 is \[1\.0, 1\.0, 0\.0, 0\.0, 0\.0\], not one 1 among zeros"),
        ({"y_test": np.arange(40)}, r"label 5 is 5, not one of 0 to 4"),
        ({"y_test": np.full(40, 2)}, r"jets, test split: jets per class are \[0, 0, 40, 0, 0\]"),
        ({"y_test": np.full(40, np.nan)}, r"label 0 is nan"),
    ],
)
def test_malformed_arrays_are_refused(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        read_published_jets(write_tutorial(tmp_path / "tutorial", **changes))


def test_pickled_features_are_refused(tmp_path):
    folder = write_tutorial(tmp_path / "tutorial", X_test=np.array([Bomb()] * 40, dtype=object))
    with pytest.raises(ArtifactError, match=r"X_test\.npy: cannot be read as \.npy without pickle"):
        read_published_jets(folder)


@pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04rest of an archive", pickle.dumps([1, 2])])
def test_file_that_is_no_array_is_refused(tmp_path, content):
    folder = write_tutorial(tmp_path / "tutorial")
    (folder / "y_test.npy").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"y_test\.npy: cannot be read as \.npy"):
        read_published_jets(folder)


def test_damaged_header_never_crashes(tmp_path):
    folder = write_tutorial(tmp_path / "tutorial", n_train=10, n_test=10)
    file = folder / "y_test.npy"
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        for place in rng.integers(0, 128, rng.integers(1, 4)):
            data[place] = rng.integers(0, 256)
        file.write_bytes(bytes(data[: rng.integers(1, len(data) + 1)]) if rng.random() < 0.2 else bytes(data))
        with contextlib.suppress(ArtifactError, DataError):
            read_published_jets(folder)


def test_nan_of_a_table_is_named_with_its_row(tmp_path):
    x, names = jets(60)
    x[9, 14] = np.nan
    with pytest.raises(DataError, match=r"a\.csv: 1 values are NaN .* sample 9, .*feature 'mass_mmdt'"):
        read_published_jets(write_csv(tmp_path / "a.csv", x, names))


def test_converted_jets_load_like_the_published_ones(tmp_path):
    source = write_arff(tmp_path / "a.arff", *jets(100))
    document = convert_jets(source, tmp_path / "out")
    assert document["source"] == "published"
    assert document["n"] == {"train": 80, "test": 20}
    assert len(document["files"]["a.arff"]) == 64
    assert json.loads((tmp_path / "out/jets.json").read_text()) == document
    with np.load(tmp_path / "out/jets.npz") as converted:
        assert converted.files == ["x_train", "y_train", "x_test", "y_test", "feature_names", "classes"]
        assert tuple(converted["feature_names"]) == FEATURES
    from_file, from_source = (load_dataset("jets", path=place) for place in (tmp_path / "out", source))
    assert from_file.sha256 == from_source.sha256
