"""Artifacts: exact round trips, the same bytes each time, and a typed error for every way a file can be wrong."""

import json
import os

import numpy as np
import pytest

from dyadiq.core.artifact import canonical_json, read_artifact, write_artifact
from dyadiq.core.errors import ArtifactError, StorageError

SCHEMA = "dyadiq.thing/2"
PAYLOAD = {"b": [1, 2.5, None, True], "a": {"text": "é", "small": 5e-324, "big": 0.1 + 0.2}}


def arrays():
    return {
        "z": np.arange(6, dtype=np.int64).reshape(2, 3),
        "scalar": np.float64(0.1),
        "empty": np.zeros((0, 4), dtype=np.float32),
        "half": np.array([1.5], dtype=np.float16),
        "mask": np.array([True, False]),
        "codes": np.array([-128, 127], dtype=np.int8),
        "top": np.array([2**64 - 1], dtype=np.uint64),
        "strange": np.array([np.nan, -np.inf, -0.0]),
    }


@pytest.fixture(params=["json", "safetensors"])
def stored(request, tmp_path):
    path = tmp_path / "thing"
    write_artifact(path, SCHEMA, PAYLOAD, arrays() if request.param == "safetensors" else None)
    return path


def test_read_returns_what_was_written_when_there_are_arrays(tmp_path):
    write_artifact(tmp_path / "a", SCHEMA, PAYLOAD, arrays())
    payload, back = read_artifact(tmp_path / "a", SCHEMA)
    assert payload == PAYLOAD
    assert list(payload) == list(PAYLOAD)
    assert set(back) == set(arrays())
    for name, array in arrays().items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()
        assert back[name].flags.writeable


def test_file_is_readable_json_when_there_are_no_arrays(tmp_path):
    digest = write_artifact(tmp_path / "a", SCHEMA, PAYLOAD)
    document = json.loads((tmp_path / "a").read_text())
    assert document == {"schema": SCHEMA, "payload": PAYLOAD, "sha256": digest}
    assert read_artifact(tmp_path / "a", SCHEMA) == (PAYLOAD, {})


def test_arrays_are_stored_by_value_when_strided_or_foreign(tmp_path):
    array = np.arange(12, dtype=">i4").reshape(3, 4)[:, ::2].T
    write_artifact(tmp_path / "a", SCHEMA, {}, {"x": array})
    assert np.array_equal(read_artifact(tmp_path / "a", SCHEMA)[1]["x"], array)


def test_bytes_are_equal_when_content_is_equal(tmp_path):
    write_artifact(tmp_path / "a", SCHEMA, PAYLOAD, arrays())
    write_artifact(tmp_path / "b", SCHEMA, PAYLOAD, dict(reversed(arrays().items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_hash_differs_when_only_a_name_dtype_or_shape_differs(tmp_path):
    x = np.zeros(4, dtype=np.int32)
    variants = [{"x": x}, {"y": x}, {"x": x.view(np.float32)}, {"x": x.reshape(2, 2)}]
    assert len({write_artifact(tmp_path / "a", SCHEMA, {}, v) for v in variants}) == 4


def test_integer_keys_come_back_as_text_with_the_right_hash(tmp_path):
    write_artifact(tmp_path / "a", SCHEMA, {10: "a", 9: "b"})
    assert read_artifact(tmp_path / "a", SCHEMA)[0] == {"10": "a", "9": "b"}


def test_any_damage_is_refused_or_harmless(stored, tmp_path):
    data = stored.read_bytes()
    good = read_artifact(stored, SCHEMA)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        (tmp_path / "b").write_bytes(damaged)
        try:
            payload, back = read_artifact(tmp_path / "b", SCHEMA)
        except ArtifactError:
            continue
        # White space inside JSON may change without changing its meaning.
        assert payload == good[0]
        assert {n: a.tobytes() for n, a in back.items()} == {n: a.tobytes() for n, a in good[1].items()}


def test_any_truncation_is_refused(stored, tmp_path):
    data = stored.read_bytes().rstrip(b"\n")
    for length in range(len(data)):
        (tmp_path / "b").write_bytes(data[:length])
        with pytest.raises(ArtifactError, match="damaged or cut short"):
            read_artifact(tmp_path / "b", SCHEMA)


def test_edited_payload_is_refused(stored):
    stored.write_bytes(stored.read_bytes().replace(b"2.5", b"2.6"))
    with pytest.raises(ArtifactError, match=r"does not match its hash: sha256 is .* make it again"):
        read_artifact(stored, SCHEMA, require_hash=False)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="no such file"):
        read_artifact(tmp_path / "a", SCHEMA)


def test_another_noun_is_refused(stored):
    with pytest.raises(ArtifactError, match=r"holds a dyadiq\.thing, expected a dyadiq\.plan"):
        read_artifact(stored, "dyadiq.plan/1")


def test_newer_version_is_refused(stored):
    with pytest.raises(ArtifactError, match=r"version 2 was written by a newer Dyadiq.*up to version 1. Upgrade"):
        read_artifact(stored, "dyadiq.thing/1")


def test_older_version_is_refused(stored):
    with pytest.raises(ArtifactError, match="version 2 is too old; this Dyadiq reads version 3"):
        read_artifact(stored, "dyadiq.thing/3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "not a Dyadiq artifact: expected a JSON object with the keys"),
        ('{"schema": 1, "payload": 2}', "not a Dyadiq artifact"),
        ('{"schema": "dyadiq.thing/2"}', "not a Dyadiq artifact"),
        ('{"schema": "thing", "payload": 2}', r"not a schema: 'thing'. Expected dyadiq\.<noun>/<version>"),
        ('{"schema": "dyadiq.thing/2", "payload": NaN}', "NaN is not JSON"),
        ('{"schema": "dyadiq.thing/2", "payload": 2}', "does not match its hash: .* expected None"),
        ("[" * 100_000, "damaged or cut short"),
        ("hello", "not a Dyadiq file"),
    ],
)
def test_foreign_file_is_refused(tmp_path, text, message):
    (tmp_path / "a").write_text(text)
    with pytest.raises(ArtifactError, match=message):
        read_artifact(tmp_path / "a", SCHEMA)


def test_document_written_by_hand_is_accepted_when_no_hash_is_required(tmp_path):
    (tmp_path / "a").write_text('{"schema": "dyadiq.thing/2", "payload": {"x": 1}}')
    assert read_artifact(tmp_path / "a", SCHEMA, require_hash=False) == ({"x": 1}, {})


@pytest.mark.parametrize("payload", [float("nan"), [float("inf")], {"a": np.zeros(2)}, {1, 2}, {("a", 1): 2}])
def test_write_refuses_when_payload_is_not_json(tmp_path, payload):
    with pytest.raises(ArtifactError, match="cannot be stored as JSON"):
        write_artifact(tmp_path / "a", SCHEMA, payload)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "array"),
    [("x", np.zeros(2, dtype=object)), ("x", np.zeros(2, dtype=complex)), ("__metadata__", np.zeros(2))],
)
def test_write_refuses_when_an_array_cannot_be_stored(tmp_path, name, array):
    with pytest.raises(ArtifactError, match=f"array '{name}' of dtype {array.dtype} cannot be stored"):
        write_artifact(tmp_path / "a", SCHEMA, {}, {name: array})


def test_write_refuses_when_schema_has_no_version(tmp_path):
    with pytest.raises(ArtifactError, match=r"not a schema: 'dyadiq\.plan'"):
        write_artifact(tmp_path / "a", "dyadiq.plan", {})


def test_write_keeps_the_old_file_when_the_disk_is_full(stored, monkeypatch):
    before = stored.read_bytes()

    def refuse(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="the disk is full"):
        write_artifact(stored, SCHEMA, {"new": 1}, arrays())
    assert stored.read_bytes() == before


def test_canonical_json_is_one_text_for_one_value():
    assert canonical_json({"b": 1, "a": (1, 2)}) == canonical_json({"a": [1, 2], "b": 1}) == '{"a":[1,2],"b":1}'
