"""The byte layout of a `.dyq` file: header, tensor records, names, structure, payloads; written and checked here.

Used by `ir.packed` and `targets.dyq` (what the tensors mean) and `cost` (`tensor_payload_bytes`); knows no program.
Normative text: docs/spec/dyq.md. All numbers are little-endian; every section and payload starts at a multiple of 64
and is followed by zero bytes up to the next one; sections follow each other without gaps, in this order:

    header      64 bytes   magic, version, header bytes, number of tensors, file bytes, name bytes, structure bytes,
                           CRC-32 of records to structure (padding included), zeros, CRC-32 of the first 60 bytes
    records     64 each    name bytes, kind, bits, flags, ndim, 6 dims, payload offset, payload bytes, payload CRC-32
    names                  UTF-8, back to back, in the order of the records
    structure              opaque bytes (JSON of the program's skeleton)
    payloads               packed codes (`core.packing`) or float64, in the order of the records

Offsets and lengths follow from names, shapes, types and structure alone, so a size is known without values, and
a reader checks a file by computing where everything must be. A file that differs in any byte is refused.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ArtifactError, ConfigError, ExportError, QuantError
from dyadiq.core.packing import MAX_PACKED_BITS, pack, packed_size_bytes, unpack
from dyadiq.core.qtype import QType
from dyadiq.core.storage import atomic_write_bytes

__all__ = [
    "ALIGNMENT_BYTES",
    "CONTAINER_VERSION",
    "Container",
    "TensorSpec",
    "container_size_bytes",
    "read_container",
    "tensor_payload_bytes",
    "write_container",
]

ALIGNMENT_BYTES = 64
CONTAINER_VERSION = 1
MAX_DIMS = 6

_MAGIC = b"\x89DYQ\r\n\x1a\n"  # as PNG's: a transfer that changes line ends or the top bit is seen at once
_HEADER = struct.Struct("<8sHHIQQQI16xI")
_RECORD = struct.Struct("<HBBBB6I2xQQI12x")
_KIND_CODES, _KIND_FLOAT64 = 0, 1
_SIGNED, _NARROW, _BIPOLAR = 1, 2, 4


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a record says of a tensor: everything but its values.

    Attributes:
        name: Unique in the file.
        shape: At most 6 dimensions.
        qtype: Type of packed codes, at most 32 bits; None for float64.

    Raises:
        ExportError: Something a record cannot express.

    Example:
        >>> TensorSpec("fc.weight", (3, 5), QType(3, signed=True)).payload_bytes
        6
    """

    name: str
    shape: tuple[int, ...]
    qtype: QType | None

    def __post_init__(self) -> None:
        """Refuse what a record cannot express.

        Raises:
            ExportError: Too many dimensions, a dimension or name too long, or too many bits.
        """
        if len(self.shape) > MAX_DIMS or any(not 0 <= d < 1 << 32 for d in self.shape):
            raise ExportError(
                f"{self.name}: shape {list(self.shape)} does not fit a .dyq record; "
                f"expected at most {MAX_DIMS} dimensions below 2^32. Reshape or split the tensor."
            )
        if len(self.name.encode()) >= 1 << 16:
            raise ExportError(f"tensor name of {len(self.name)} characters does not fit a .dyq record. Shorten it.")
        if self.qtype is not None and self.qtype.bits > MAX_PACKED_BITS:
            raise ExportError(
                f"{self.name}: {self.qtype} cannot be packed; expected at most {MAX_PACKED_BITS} bits. Narrow it."
            )

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def payload_bytes(self) -> int:
        """Bytes of the values, without padding."""
        return 8 * self.count if self.qtype is None else packed_size_bytes(self.count, self.qtype.bits)


def tensor_payload_bytes(count: int, bits: int) -> int:
    """Return the bytes one packed tensor takes in a file: ``64 * ceil(ceil(count * bits / 8) / 64)``.

    Example:
        >>> tensor_payload_bytes(100, 4), tensor_payload_bytes(0, 4)
        (64, 0)
    """
    return _aligned(packed_size_bytes(count, bits))


def container_size_bytes(structure_bytes: int, specs: Iterable[TensorSpec]) -> int:
    """Return the bytes of a file with this structure length and these tensors, exactly.

    Example:
        >>> container_size_bytes(10, [TensorSpec("w", (3, 5), QType(3, signed=True))])
        320
    """
    return _layout(structure_bytes, tuple(specs)).file_bytes


@dataclass(frozen=True, slots=True)
class _Layout:
    """Offsets of everything in a file."""

    names: int
    structure: int
    payloads: tuple[int, ...]
    file_bytes: int


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _layout(structure_bytes: int, specs: Sequence[TensorSpec]) -> _Layout:
    names = _HEADER.size + _RECORD.size * len(specs)
    structure = names + _aligned(sum(len(spec.name.encode()) for spec in specs))
    offset = structure + _aligned(structure_bytes)
    payloads = []
    for spec in specs:
        payloads.append(offset)
        offset += _aligned(spec.payload_bytes)
    return _Layout(names, structure, tuple(payloads), offset)


def write_container(
    path: str | os.PathLike[str], structure: bytes, tensors: Iterable[tuple[TensorSpec, NDArray[Any]]]
) -> int:
    """Write a `.dyq` file, whole or not at all, and return its size in bytes.

    Raises:
        ExportError: Two tensors of one name, or values of another shape or dtype than their spec.
        QuantError: A code outside its type.
        StorageError: The disk is full or not writable; nothing was changed.
    """
    pairs = tuple(tensors)
    specs = tuple(spec for spec, _ in pairs)
    if len({spec.name for spec in specs}) != len(specs):
        raise ExportError(f"{path}: two tensors have one name among {[s.name for s in specs]}. Rename one.")
    layout = _layout(len(structure), specs)
    buffer = bytearray(layout.file_bytes)
    names = b"".join(spec.name.encode() for spec in specs)
    buffer[layout.names : layout.names + len(names)] = names
    buffer[layout.structure : layout.structure + len(structure)] = structure
    for i, (spec, values) in enumerate(pairs):
        payload = _encode(spec, values)
        start = layout.payloads[i]
        buffer[start : start + len(payload)] = payload
        _RECORD.pack_into(buffer, _HEADER.size + i * _RECORD.size, *_record(spec, start, zlib.crc32(payload)))
    _HEADER.pack_into(buffer, 0, *_header(layout, len(specs), len(names), len(structure), buffer))
    atomic_write_bytes(path, buffer)
    return layout.file_bytes


def _encode(spec: TensorSpec, values: NDArray[Any]) -> bytes:
    """Return the payload of a tensor.

    Raises:
        ExportError: Another shape, or not numbers of the kind that the spec says.
        QuantError: A code outside its type.
    """
    values = np.asarray(values)
    if values.shape != spec.shape:
        raise ExportError(f"{spec.name}: values have shape {values.shape}, their record says {spec.shape}.")
    if spec.qtype is None:
        if values.dtype != np.float64:
            raise ExportError(f"{spec.name}: values have dtype {values.dtype}, expected float64.")
        return np.ascontiguousarray(values, dtype="<f8").tobytes()
    try:
        return pack(values, spec.qtype).tobytes()
    except QuantError as err:
        raise QuantError(f"{spec.name}: {err}") from err


def _record(spec: TensorSpec, offset: int, crc32: int) -> tuple[int, ...]:
    """Return the fields of a tensor's record."""
    q = spec.qtype
    flags = 0 if q is None else _SIGNED * q.signed | _NARROW * q.narrow | _BIPOLAR * q.bipolar
    kind, bits = (_KIND_FLOAT64, 64) if q is None else (_KIND_CODES, q.bits)
    dims = (*spec.shape, *([0] * (MAX_DIMS - len(spec.shape))))
    return (len(spec.name.encode()), kind, bits, flags, len(spec.shape), *dims, offset, spec.payload_bytes, crc32)


def _header(layout: _Layout, n_tensors: int, name_bytes: int, structure_bytes: int, file: Any) -> tuple[Any, ...]:
    """Return the fields of the header of a file whose other bytes are in place."""
    first_payload = layout.structure + _aligned(structure_bytes)
    body_crc32 = zlib.crc32(memoryview(file)[_HEADER.size : first_payload])
    fields = (_MAGIC, CONTAINER_VERSION, _HEADER.size, n_tensors, layout.file_bytes, name_bytes, structure_bytes)
    own_crc32 = zlib.crc32(_HEADER.pack(*fields, body_crc32, 0)[:-4])
    return (*fields, body_crc32, own_crc32)


@dataclass(frozen=True)
class Container:
    """A checked file, mapped into memory: nothing is copied until `array` is called.

    Attributes:
        path: Where it lies.
        structure: The structure section.
        specs: Tensors by name, in the order of the file.
    """

    path: Path
    structure: bytes
    specs: Mapping[str, TensorSpec]
    _payloads: Mapping[str, NDArray[np.uint8]]

    def payload(self, name: str) -> NDArray[np.uint8]:
        """Return the packed bytes of a tensor: a read-only view of the file, 64-byte aligned.

        Raises:
            ArtifactError: No such tensor.
        """
        if name not in self._payloads:
            raise ArtifactError(f"{self.path}: no tensor named {name!r}. It holds: {', '.join(self.specs)}.")
        return self._payloads[name]

    def array(self, name: str) -> NDArray[Any]:
        """Return the values of a tensor in the smallest dtype that holds its type, unpacked.

        Raises:
            ArtifactError: No such tensor, or codes that its type does not have.
        """
        payload = self.payload(name)
        spec = self.specs[name]
        if spec.qtype is None:
            return payload.view("<f8").astype(np.float64).reshape(spec.shape)
        try:
            return unpack(payload, spec.qtype, spec.count).reshape(spec.shape)
        except QuantError as err:
            raise ArtifactError(f"{self.path}: tensor {name!r}: {err} Export the file again.") from err


def read_container(path: str | os.PathLike[str]) -> Container:
    """Map a `.dyq` file and check all of it: every offset, length, checksum and padding byte.

    Raises:
        ArtifactError: Missing, cut short, damaged, extended, or of a newer version.
    """
    data = _map(path)
    n_tensors, name_bytes, structure_bytes, body_crc32 = _read_header(path, data)
    names_at = _HEADER.size + _RECORD.size * n_tensors
    first_payload = names_at + _aligned(name_bytes) + _aligned(structure_bytes)
    if first_payload > data.size:
        raise ArtifactError(_damaged(path, f"its sections end at byte {first_payload}, the file at {data.size}"))
    if zlib.crc32(data[_HEADER.size : first_payload].data) != body_crc32:
        raise ArtifactError(_damaged(path, "the checksum of its records, names and structure is wrong"))
    specs, crcs = _read_records(path, data[:first_payload].tobytes(), n_tensors, name_bytes)
    layout = _layout(structure_bytes, specs)
    for i, spec in enumerate(specs):
        record = data[_HEADER.size + i * _RECORD.size :][: _RECORD.size].tobytes()
        if record != _RECORD.pack(*_record(spec, layout.payloads[i], crcs[i])):
            raise ArtifactError(_damaged(path, f"the record of tensor {spec.name!r} is not where or what it must be"))
    if layout.file_bytes != data.size:
        raise ArtifactError(_damaged(path, f"its tensors end at byte {layout.file_bytes}, the file at {data.size}"))
    if sum(len(spec.name.encode()) for spec in specs) != name_bytes:
        raise ArtifactError(_damaged(path, "its names do not fill their section"))
    payloads = {}
    for spec, start, crc in zip(specs, layout.payloads, crcs, strict=True):
        payload = data[start : start + spec.payload_bytes]
        if zlib.crc32(payload.data) != crc:
            raise ArtifactError(_damaged(path, f"the checksum of tensor {spec.name!r} is wrong"))
        payloads[spec.name] = payload
    _check_padding(path, data, layout, specs, name_bytes, structure_bytes)
    if len(payloads) != len(specs):
        raise ArtifactError(_damaged(path, "two of its tensors have one name"))
    structure = data[layout.structure : layout.structure + structure_bytes].tobytes()
    return Container(Path(path), structure, {spec.name: spec for spec in specs}, payloads)


def _map(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Map a file read-only.

    Raises:
        ArtifactError: Missing, unreadable, or shorter than a header.
    """
    try:
        size = Path(path).stat().st_size
        if size >= _HEADER.size:
            return np.memmap(path, dtype=np.uint8, mode="r")
    except FileNotFoundError as err:
        raise ArtifactError(f"{path}: no such file. Check the path, or export the program first.") from err
    except OSError as err:
        raise ArtifactError(f"{path}: cannot be read: {err.strerror or err}. Check path and permissions.") from err
    raise ArtifactError(_damaged(path, f"it has {size} bytes, a header alone has {_HEADER.size}"))


def _read_header(path: str | os.PathLike[str], data: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Return the number of tensors, name bytes, structure bytes and body checksum.

    Raises:
        ArtifactError: Not a `.dyq` file, newer, damaged, or of another length than it says.
    """
    raw = data[: _HEADER.size].tobytes()
    magic, version, header_bytes, n_tensors, file_bytes, name_bytes, structure_bytes, body, own = _HEADER.unpack(raw)
    if magic != _MAGIC:
        raise ArtifactError(f"{path}: not a .dyq file: it starts with {magic!r}, expected {_MAGIC!r}. Check the path.")
    if version > CONTAINER_VERSION:
        raise ArtifactError(
            f"{path}: .dyq version {version} is newer than this Dyadiq reads (up to {CONTAINER_VERSION}). "
            "Upgrade Dyadiq, or export the program again with this version."
        )
    if zlib.crc32(raw[:-4]) != own or version != CONTAINER_VERSION or header_bytes != _HEADER.size or any(raw[44:60]):
        raise ArtifactError(_damaged(path, "the checksum of its header is wrong"))
    if file_bytes != data.size:
        raise ArtifactError(_damaged(path, f"it has {data.size} bytes, its header says {file_bytes}"))
    return n_tensors, name_bytes, structure_bytes, body


def _read_records(
    path: str | os.PathLike[str], data: bytes, n_tensors: int, name_bytes: int
) -> tuple[tuple[TensorSpec, ...], tuple[int, ...]]:
    """Return specs and payload checksums of all records.

    Raises:
        ArtifactError: A record that means nothing.
    """
    specs, crcs = [], []
    names_at = _HEADER.size + _RECORD.size * n_tensors
    end = names_at + name_bytes
    for i in range(n_tensors):
        length, kind, bits, flags, ndim, *rest = _RECORD.unpack_from(data, _HEADER.size + i * _RECORD.size)
        dims, crc = rest[:MAX_DIMS], rest[-1]
        if kind not in (_KIND_CODES, _KIND_FLOAT64) or names_at + length > end or ndim > MAX_DIMS:
            reason = f"record {i} means nothing: kind {kind}, {ndim} dimensions, a name of {length} bytes"
            raise ArtifactError(_damaged(path, reason))
        try:
            qtype = None
            if kind == _KIND_CODES:
                qtype = QType(bits, bool(flags & _SIGNED), narrow=bool(flags & _NARROW), bipolar=bool(flags & _BIPOLAR))
            specs.append(TensorSpec(data[names_at : names_at + length].decode(), tuple(dims[:ndim]), qtype))
        except (ConfigError, ExportError, UnicodeDecodeError) as err:
            raise ArtifactError(_damaged(path, f"record {i} means nothing: {err}")) from err
        names_at += length
        crcs.append(crc)
    return tuple(specs), tuple(crcs)


def _check_padding(
    path: str | os.PathLike[str],
    data: NDArray[np.uint8],
    layout: _Layout,
    specs: Sequence[TensorSpec],
    name_bytes: int,
    structure_bytes: int,
) -> None:
    """Check that every byte between sections and payloads is zero.

    Raises:
        ArtifactError: One is not.
    """
    sections = [(layout.names, name_bytes), (layout.structure, structure_bytes)]
    sections += [(start, spec.payload_bytes) for start, spec in zip(layout.payloads, specs, strict=True)]
    for start, length in sections:
        if data[start + length : start + _aligned(length)].any():
            raise ArtifactError(_damaged(path, f"padding after byte {start + length} is not zero"))


def _damaged(path: str | os.PathLike[str], reason: str) -> str:
    return f"{path}: damaged .dyq file: {reason}. Export the program again."
