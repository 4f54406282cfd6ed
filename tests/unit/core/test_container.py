"""The `.dyq` container: exact sizes, zero-copy views, and a refusal for every byte that is not as it must be."""

import os
import struct
import zlib

import numpy as np
import pytest

from dyadiq.core.container import (
    TensorSpec,
    container_size_bytes,
    read_container,
    tensor_payload_bytes,
    type_flags,
    type_from_flags,
    write_container,
)
from dyadiq.core.errors import ArtifactError, ExportError, QuantError, StorageError
from dyadiq.core.packing import pack
from dyadiq.core.qtype import QType
from mapped import is_mapped

STRUCTURE = b'{"a":1}'


def tensors():
    rng = np.random.default_rng(0)
    return [
        (TensorSpec("w", (5, 3), QType(3, signed=True)), rng.integers(-4, 4, (5, 3))),
        (TensorSpec("scale", (), None), np.float64(0.1)),
        (TensorSpec("", (0, 4), QType(8, signed=False)), np.zeros((0, 4), dtype=np.uint8)),
        (TensorSpec("é" * 40, (2, 1, 1, 1, 1, 1), QType.parse("bipolar")), np.array([1, -1]).reshape(2, 1, 1, 1, 1, 1)),
        (TensorSpec("n", (17,), QType.parse("int4n")), rng.integers(-7, 8, 17)),
    ]  # fmt: skip


@pytest.fixture
def written(tmp_path):
    write_container(tmp_path / "a.dyq", STRUCTURE, tensors())
    return tmp_path / "a.dyq"


def refresh_checksums(data):
    """Make the header's checksums right again after its head was changed on purpose."""
    n_tensors, _, name_bytes, structure_bytes = struct.unpack_from("<IQQQ", data, 12)
    end = 64 + 64 * n_tensors + -(-name_bytes // 64) * 64 + -(-structure_bytes // 64) * 64
    struct.pack_into("<I", data, 40, zlib.crc32(data[64:end]))
    struct.pack_into("<I", data, 60, zlib.crc32(data[:60]))


def test_values_come_back(written):
    container = read_container(written)
    assert container.structure == STRUCTURE
    assert list(container.specs) == [spec.name for spec, _ in tensors()]
    for spec, values in tensors():
        assert container.specs[spec.name] == spec
        assert container.array(spec.name).shape == spec.shape
        assert np.array_equal(container.array(spec.name), values)


def test_payload_is_a_view_of_the_file(written):
    container = read_container(written)
    spec, values = tensors()[0]
    payload = container.payload("w")
    assert payload.tobytes() == pack(values, spec.qtype).tobytes()
    assert is_mapped(payload)
    assert not is_mapped(payload.copy())
    assert not payload.flags.writeable
    assert not payload.flags.owndata
    assert payload.ctypes.data % 64 == 0


def test_size_is_known_before_writing(written):
    specs = [spec for spec, _ in tensors()]
    size = container_size_bytes(len(STRUCTURE), specs)
    assert size == written.stat().st_size
    packed = sum(tensor_payload_bytes(s.count, 64 if s.qtype is None else s.qtype.bits) for s in specs)
    head = container_size_bytes(len(STRUCTURE), [TensorSpec(s.name, (0,), s.qtype) for s in specs])
    assert size == head + packed


@pytest.mark.parametrize(
    ("count", "bits", "n_bytes"), [(0, 4, 0), (1, 1, 64), (128, 4, 64), (129, 4, 128), (64, 32, 256)]
)
def test_tensor_payload_is_padded_to_the_alignment(count, bits, n_bytes):
    assert tensor_payload_bytes(count, bits) == n_bytes


def test_file_without_tensors_round_trips(tmp_path):
    assert write_container(tmp_path / "a", b"", []) == 64 == (tmp_path / "a").stat().st_size
    assert read_container(tmp_path / "a").specs == {}


def test_bytes_are_equal_when_content_is(written, tmp_path):
    write_container(tmp_path / "b.dyq", STRUCTURE, tensors())
    assert written.read_bytes() == (tmp_path / "b.dyq").read_bytes()


def test_any_flipped_bit_is_refused(written, tmp_path):
    data = written.read_bytes()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position * 5 % 8)
        (tmp_path / "b").write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"damaged .dyq file|not a .dyq file|is newer than"):
            read_container(tmp_path / "b")


def test_any_truncation_is_refused(written, tmp_path):
    data = written.read_bytes()
    for length in range(len(data)):
        (tmp_path / "b").write_bytes(data[:length])
        with pytest.raises(ArtifactError, match=r"damaged .dyq file: it has \d+ bytes"):
            read_container(tmp_path / "b")


def test_trailing_bytes_are_refused(written):
    written.write_bytes(written.read_bytes() + b"\0" * 64)
    with pytest.raises(ArtifactError, match="its header says"):
        read_container(written)


def test_newer_version_is_refused(written):
    data = bytearray(written.read_bytes())
    struct.pack_into("<H", data, 8, 2)
    refresh_checksums(data)
    written.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"\.dyq version 2 is newer than this Dyadiq reads \(up to 1\). Upgrade"):
        read_container(written)


@pytest.mark.parametrize("name", ["missing", "folder", "text"])
def test_what_is_no_dyq_file_is_refused(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("x" * 100)
    message = {"missing": "no such file", "folder": "cannot be read|damaged", "text": "not a .dyq file: it starts with"}
    with pytest.raises(ArtifactError, match=message[name]):
        read_container(tmp_path / name)


@pytest.mark.parametrize(
    ("offset", "fmt", "value", "message"),
    [
        (64 + 2, "<B", 7, "record 0 means nothing: kind 7"),
        (64 + 3, "<B", 40, "record 0 means nothing: .*at most 32 bits"),
        (64 + 3, "<B", 0, "record 0 means nothing: QType: bits must be"),
        (64 + 4, "<B", 4, "record 0 means nothing: QType: bipolar"),
        (64 + 4, "<B", 9, "not what its tensors ask for"),  # an unknown flag
        (64 + 5, "<B", 7, "record 0 means nothing: .* 7 dimensions"),
        (64 + 0, "<H", 60000, "a name of 60000 bytes"),
        (64 + 0, "<H", 0, "record 3 means nothing: 'utf-8' codec"),  # names shifted by one byte
        (64 * 5, "<H", 0, "not what its tensors ask for"),  # names that do not fill their section
        (10, "<H", 128, "not what its tensors ask for"),  # header bytes
        (50, "<B", 1, "not what its tensors ask for"),  # reserved bytes of the header
        (8, "<H", 0, "not what its tensors ask for"),  # a version that never was
        (64 + 6, "<I", 2**32 - 1, "take more than the"),
        (64 + 6, "<I", 6, "not what its tensors ask for"),  # another shape
        (64 + 14, "<I", 1, "not what its tensors ask for"),  # a dimension past ndim
        (64 + 32, "<Q", 0, "not what its tensors ask for"),  # offset: overlaps the header
        (64 + 40, "<Q", 1, "not what its tensors ask for"),  # length
        (64 + 60, "<B", 1, "not what its tensors ask for"),  # reserved bytes
        (24, "<Q", 2**40, "its sections end at byte"),
        (12, "<I", 2**31, "its sections end at byte"),
    ],
)
def test_record_that_lies_is_refused_when_checksums_are_right(written, offset, fmt, value, message):
    data = bytearray(written.read_bytes())
    struct.pack_into(fmt, data, offset, value)
    refresh_checksums(data)
    written.write_bytes(data)
    with pytest.raises(ArtifactError, match=message):
        read_container(written)


def test_equal_names_are_refused_on_both_sides(tmp_path):
    pairs = [(TensorSpec(n, (1,), QType(8, signed=True)), np.array([1])) for n in ("a", "b")]
    write_container(tmp_path / "a", b"", pairs)
    data = bytearray((tmp_path / "a").read_bytes())
    data[64 * 3 : 64 * 3 + 2] = b"aa"
    refresh_checksums(data)
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ArtifactError, match="two of its tensors have one name"):
        read_container(tmp_path / "a")
    with pytest.raises(ExportError, match="two tensors have one name"):
        write_container(tmp_path / "b", b"", [pairs[0], pairs[0]])


def test_code_that_a_narrow_type_lacks_is_refused(tmp_path):
    spec = TensorSpec("w", (2,), QType(4, signed=True))
    write_container(tmp_path / "a", b"", [(spec, np.array([-8, 0]))])
    data = bytearray((tmp_path / "a").read_bytes())
    data[64 + 4] |= 2
    refresh_checksums(data)
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ArtifactError, match="tensor 'w': int4n has no code -8"):
        read_container(tmp_path / "a").array("w")


def test_unknown_tensor_is_refused(written):
    with pytest.raises(ArtifactError, match=r"no tensor named 'x'. It holds: w, scale"):
        read_container(written).payload("x")


@pytest.mark.parametrize(
    ("spec", "values", "error", "message"),
    [
        (TensorSpec("w", (2,), QType(4, signed=True)), np.zeros(3, dtype=int), ExportError, "w: values have shape"),
        (TensorSpec("w", (2,), None), np.zeros(2, dtype=np.float32), ExportError, "w: values have dtype float32"),
        (TensorSpec("w", (2,), QType(4, signed=True)), np.array([0, 8]), QuantError, "w: int4 has no code 8"),
    ],
)
def test_write_refuses_when_values_do_not_fit_their_record(tmp_path, spec, values, error, message):
    with pytest.raises(error, match=message):
        write_container(tmp_path / "a", b"", [(spec, values)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "shape", "qtype", "message"),
    [
        ("w", (1,) * 7, None, "w: shape .* does not fit a .dyq record; expected at most 6"),
        ("w", (1 << 32,), None, "does not fit a .dyq record"),
        ("w" * 65536, (1,), None, "tensor name of 65536 characters"),
        ("w", (1,), QType(33, signed=True), "w: int33 cannot be packed"),
    ],
)
def test_spec_refuses_what_a_record_cannot_say(name, shape, qtype, message):
    with pytest.raises(ExportError, match=message):
        TensorSpec(name, shape, qtype)


def test_write_keeps_the_old_file_when_the_disk_is_full(written, monkeypatch):
    before = written.read_bytes()

    def refuse(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="the disk is full"):
        write_container(written, b"new", [])
    assert written.read_bytes() == before


@pytest.mark.parametrize("text", ["int8", "uint1", "int4n", "uint7n", "bipolar"])
def test_flags_invert(text):
    qtype = QType.parse(text)
    assert type_from_flags(qtype.bits, type_flags(qtype)) == qtype
