"""Tables of jets: the same arrays from every format and order of columns; what is wrong is named."""

import sys

import numpy as np
import pytest

from dyadiq.core.errors import ArtifactError, DataError, MissingDependencyError
from dyadiq.zoo.jets_features import CLASSES, FEATURES
from dyadiq.zoo.jets_tables import read_table
from published_jets import jets, write_arff, write_csv

SHUFFLED = FEATURES[::-1]


@pytest.mark.parametrize("label", ["class", "jet_type"])
@pytest.mark.parametrize(
    ("writer", "name", "options"),
    [
        (write_arff, "a.arff", {}),
        (write_arff, "a.ARFF", {"order": SHUFFLED, "quote": "'"}),
        (write_arff, "a.arff", {"quote": '"'}),
        (write_csv, "a.csv", {}),
        (write_csv, "a.csv", {"order": SHUFFLED}),
    ],
)
def test_table_gives_the_same_arrays_in_every_form(tmp_path, writer, name, options, label):
    x, names = jets(20)
    got_x, got_y = read_table(writer(tmp_path / name, x, names, label=label, **options))
    assert np.array_equal(got_x, x)
    assert got_x.dtype == np.float32
    assert got_y.dtype == np.uint8
    assert [CLASSES[k] for k in got_y] == list(names)


def test_parquet_gives_the_same_arrays(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    x, names = jets(20)
    columns = {name: x[:, k] for k, name in enumerate(FEATURES)} | {"class": list(names)}
    parquet.write_table(arrow.table(columns), tmp_path / "a.pq")
    got_x, got_y = read_table(tmp_path / "a.pq")
    assert np.array_equal(got_x, x)
    assert [CLASSES[k] for k in got_y] == list(names)
    columns["zlogz"] = ["many"] * 20
    parquet.write_table(arrow.table(columns), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"a feature is no number"):
        read_table(tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(ArtifactError, match=r"cannot be read as parquet"):
        read_table(tmp_path / "c.parquet")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingDependencyError, match=r"'pyarrow' is not installed. Run: pip install pyarrow"):
        read_table(tmp_path / "a.parquet")


def damaged(tmp_path, *, name="a.arff", old="", new="", order=FEATURES, label="class"):
    x, names = jets(10)
    writer = write_arff if name.endswith("arff") else write_csv
    file = writer(tmp_path / name, x, names, order=order, label=label)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    return file


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"old": "@DATA"}, r"no line @DATA; the file is truncated or no ARFF"),
        ({"old": "@ATTRIBUTE zlogz REAL\n"}, r"missing: zlogz; others: 'class'; 16 columns"),
        ({"old": "zlogz", "new": ""}, r"missing: zlogz; others: 'REAL', 'class'"),
        ({"old": "zlogz", "new": "c1_b0_mmdt"}, r"missing: zlogz"),
        ({"old": "@ATTRIBUTE zlogz REAL", "new": "@ATTRIBUTE"}, r"missing: zlogz; others: '', 'class'"),
        ({"label": "kind"}, r"others: 'kind'"),
        (
            {"name": "a.csv", "old": "zlogz", "new": "index,zlogz"},
            r"missing: none; others: 'index', 'class'; 18 columns",
        ),
        ({"name": "a.csv", "old": "zlogz", "new": ""}, r"missing: zlogz; others: '', 'class'"),
        ({"old": "@DATA\n", "new": "@DATA\n{1 3.0, 2 4.0}\n"}, r"expected 17 comma-separated values in each row"),
        ({"old": "@DATA\n", "new": "@DATA\n?,"}, r"expected 17 comma-separated values"),
        ({"old": "@DATA\n", "new": "@DATA\n1.0,2.0\n"}, r"expected 17 comma-separated values"),
        ({"old": ",g\n", "new": ",b\n"}, r"row 0 has the class 'b', expected one of g, q, t, w, z"),
        ({"old": ",g\n", "new": ",\n"}, r"row 0 has the class ''"),
        ({"old": ",g\n", "new": ",gluon-and-a-long-tail\n"}, r"row 0 has the class 'gluon-and-a-long'"),
    ],
)
def test_malformed_table_is_refused(tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        read_table(damaged(tmp_path, **options))


def test_table_without_rows_is_refused(tmp_path):
    x, names = jets(0)
    with pytest.raises(DataError, match=r"a\.csv: holds no jets"):
        read_table(write_csv(tmp_path / "a.csv", x, names))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00zlogz")
    with pytest.raises(ArtifactError, match=r"a\.csv: is not UTF-8 text"):
        read_table(tmp_path / "a.csv")


def test_other_kind_of_file_is_refused(tmp_path):
    (tmp_path / "jets.h5").write_bytes(b"\x89HDF")
    with pytest.raises(DataError, match=r"unknown kind of table '\.h5'; expected \.arff, \.csv, \.parquet, \.pq"):
        read_table(tmp_path / "jets.h5")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no file or folder .*none\.csv"):
        read_table(tmp_path / "none.csv")
