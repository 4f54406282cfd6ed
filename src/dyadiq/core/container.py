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
import mmap
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
    "map_container",
    "read_container",
    "tensor_payload_bytes",
    "type_flags",
    "type_from_flags",
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
    return _payload_offsets(structure_bytes, tuple(specs))[-1]


def type_flags(qtype: QType) -> int:
    """Return the flags byte of a type: 1 signed, 2 narrow, 4 bipolar.

    Example:
        >>> type_flags(QType(4, signed=True, narrow=True))
        3
    """
    return _SIGNED * qtype.signed | _NARROW * qtype.narrow | _BIPOLAR * qtype.bipolar


def type_from_flags(bits: int, flags: int) -> QType:
    """Return the type of a width and a flags byte, the inverse of `type_flags`.

    Raises:
        ConfigError: They contradict each other.

    Example:
        >>> str(type_from_flags(4, 3))
        'int4n'
    """
    return QType(bits, bool(flags & _SIGNED), narrow=bool(flags & _NARROW), bipolar=bool(flags & _BIPOLAR))


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _payload_offsets(structure_bytes: int, specs: Sequence[TensorSpec]) -> list[int]:
    """Return where each payload starts, and last the length of the file."""
    names = sum(len(spec.name.encode()) for spec in specs)
    offsets = [_HEADER.size + _RECORD.size * len(specs) + _aligned(names) + _aligned(structure_bytes)]
    for spec in specs:
        offsets.append(offsets[-1] + _aligned(spec.payload_bytes))
    return offsets


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
    payloads = [_encode(spec, values) for spec, values in pairs]
    head = _head(structure, specs, [zlib.crc32(payload) for payload in payloads])
    data = b"".join([head, *(_padded(payload) for payload in payloads)])
    atomic_write_bytes(path, data)
    return len(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(_aligned(len(data)) - len(data))


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


def _head(structure: bytes, specs: Sequence[TensorSpec], crcs: Sequence[int]) -> bytes:
    """Return all bytes before the first payload; writer and reader make them in this one way."""
    names = b"".join(spec.name.encode() for spec in specs)
    offsets = _payload_offsets(len(structure), specs)
    records = []
    for spec, offset, crc in zip(specs, offsets, crcs, strict=False):
        q, name_bytes, ndim = spec.qtype, len(spec.name.encode()), len(spec.shape)
        kind, bits, flags = (_KIND_FLOAT64, 64, 0) if q is None else (_KIND_CODES, q.bits, type_flags(q))
        dims = (*spec.shape, *([0] * (MAX_DIMS - ndim)))
        records.append(_RECORD.pack(name_bytes, kind, bits, flags, ndim, *dims, offset, spec.payload_bytes, crc))
    body = b"".join([*records, _padded(names), _padded(structure)])
    fields = (_MAGIC, CONTAINER_VERSION, _HEADER.size, len(specs), offsets[-1], len(names), len(structure))
    own_crc32 = zlib.crc32(_HEADER.pack(*fields, zlib.crc32(body), 0)[:-4])
    return _HEADER.pack(*fields, zlib.crc32(body), own_crc32) + body


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
    data = map_container(path)
    n_tensors, name_bytes, structure_bytes, body_crc32 = _read_header(path, data)
    names_at = _HEADER.size + _RECORD.size * n_tensors
    structure_at = names_at + _aligned(name_bytes)
    first_payload = structure_at + _aligned(structure_bytes)
    if first_payload > data.size:
        raise ArtifactError(_damaged(path, f"its sections end at byte {first_payload}, the file at {data.size}"))
    head = data[:first_payload].tobytes()
    if zlib.crc32(head[_HEADER.size :]) != body_crc32:
        raise ArtifactError(_damaged(path, "the checksum of its records, names and structure is wrong"))
    specs, crcs = _read_records(path, head, n_tensors, name_bytes)
    if sum(spec.payload_bytes for spec in specs) > data.size:
        raise ArtifactError(_damaged(path, f"its tensors take more than the {data.size} bytes of the file"))
    structure = head[structure_at : structure_at + structure_bytes]
    # One comparison for offsets, lengths, overlaps, padding and unused fields: there is one way to write them.
    if head != _head(structure, specs, crcs):
        raise ArtifactError(_damaged(path, "its header or records are not what its tensors ask for"))
    payloads = {}
    for spec, start, crc in zip(specs, _payload_offsets(structure_bytes, specs), crcs, strict=False):
        end = start + spec.payload_bytes
        payloads[spec.name] = data[start:end]
        if zlib.crc32(data[start:end].data) != crc:
            raise ArtifactError(_damaged(path, f"the checksum of tensor {spec.name!r} is wrong"))
        if data[end : _aligned(end)].any():
            raise ArtifactError(_damaged(path, f"padding after tensor {spec.name!r} is not zero"))
    if len(payloads) != len(specs):
        raise ArtifactError(_damaged(path, "two of its tensors have one name"))
    return Container(Path(path), structure, {spec.name: spec for spec in specs}, payloads)


def map_container(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Map a file read-only, and check nothing of it but its length.

    Raises:
        ArtifactError: Missing, unreadable, or shorter than a header.
    """
    try:
        size = Path(path).stat().st_size
        if size >= _HEADER.size:
            with Path(path).open("rb") as file:
                # All of it is read at once, for its checksums: where the system can, its pages are mapped together.
                populate = getattr(mmap, "MAP_POPULATE", 0)
                how: dict[str, int] = {"access": mmap.ACCESS_READ}
                if populate:
                    how = {"flags": mmap.MAP_SHARED | populate, "prot": mmap.PROT_READ}
                return np.frombuffer(mmap.mmap(file.fileno(), 0, **how), dtype=np.uint8)
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
    magic, version, _, n_tensors, file_bytes, name_bytes, structure_bytes, body, own = _HEADER.unpack(raw)
    if magic != _MAGIC:
        raise ArtifactError(f"{path}: not a .dyq file: it starts with {magic!r}, expected {_MAGIC!r}. Check the path.")
    if version > CONTAINER_VERSION:
        raise ArtifactError(
            f"{path}: .dyq version {version} is newer than this Dyadiq reads (up to {CONTAINER_VERSION}). "
            "Upgrade Dyadiq, or export the program again with this version."
        )
    if zlib.crc32(raw[:-4]) != own:
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
            qtype = type_from_flags(bits, flags) if kind == _KIND_CODES else None
            specs.append(TensorSpec(data[names_at : names_at + length].decode(), tuple(dims[:ndim]), qtype))
        except (ConfigError, ExportError, UnicodeDecodeError) as err:
            raise ArtifactError(_damaged(path, f"record {i} means nothing: {err}")) from err
        names_at += length
        crcs.append(crc)
    return tuple(specs), tuple(crcs)


def _damaged(path: str | os.PathLike[str], reason: str) -> str:
    return f"{path}: damaged .dyq file: {reason}. Export the program again."
