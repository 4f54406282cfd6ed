"""Every noun to one file and back: a JSON document with a schema and a hash, arrays beside it.

Used by `core.store`, `ir.serialize`, the pipeline and the CLI; knows no noun. No pickle is written or read.

With arrays, the file is a safetensors file whose ``__metadata__`` holds the document under ``dyadiq``;
without, it is a plain JSON file that people can read and write. The document is
``{"schema": "dyadiq.<noun>/<version>", "payload": ..., "sha256": ...}``; the hash covers schema, payload (as
canonical JSON) and every array with name, dtype and shape. The same content gives the same bytes.
Example of a plan written by hand: leave out ``sha256`` and read with ``require_hash=False``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from dyadiq.core.errors import ArtifactError
from dyadiq.core.storage import atomic_write_bytes, atomic_write_text, read_bytes, sha256_file

__all__ = [
    "atomic_write_bytes",
    "atomic_write_text",
    "canonical_json",
    "peek_schema",
    "read_artifact",
    "sha256_file",
    "write_artifact",
]

_METADATA_KEY = "dyadiq"
_SCHEMA = re.compile(r"(dyadiq\.[a-z][a-z0-9_-]*)/([1-9][0-9]*)")


def canonical_json(obj: Any) -> str:
    """Return the one JSON text of a value: keys sorted, no spaces, ASCII; what hashes are taken of.

    Raises:
        ArtifactError: The value holds something JSON cannot say (NaN, infinity, an array, an object).

    Example:
        >>> canonical_json({"b": (1, 2), "a": 0.5})
        '{"a":0.5,"b":[1,2]}'
    """
    try:
        # Through JSON once first, so that keys which become text (1 and "1") sort the same before and after a file.
        plain = json.loads(json.dumps(obj, allow_nan=False))
        return json.dumps(plain, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError) as err:
        raise ArtifactError(
            f"this cannot be stored as JSON: {err}. Use finite numbers, text, lists and objects only."
        ) from err


def write_artifact(
    path: str | os.PathLike[str], schema: str, payload: Any, arrays: Mapping[str, NDArray[Any]] | None = None
) -> str:
    """Store one noun in one file, whole or not at all, and return its hash.

    Args:
        path: Target file; its folder must exist.
        schema: ``dyadiq.<noun>/<version>``.
        payload: JSON-able value. The order of its keys is kept in the file.
        arrays: Numeric arrays by name; None or empty gives a plain JSON file.

    Returns:
        The SHA-256 written into the document.

    Raises:
        ArtifactError: Payload or arrays cannot be stored.
        StorageError: The disk is full or not writable; nothing was changed.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "plan.json")
        >>> digest = write_artifact(path, "dyadiq.plan/1", {"conv1": 4})
        >>> read_artifact(path, "dyadiq.plan/1")
        ({'conv1': 4}, {})
    """
    _parse_schema(schema)
    stored = {name: _storable(name, array) for name, array in (arrays or {}).items()}
    digest = _digest(schema, payload, stored)
    document = {"schema": schema, "payload": payload, "sha256": digest}
    if not stored:
        atomic_write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")
    else:
        text = json.dumps(document, separators=(",", ":"), allow_nan=False)
        atomic_write_bytes(path, safetensors.numpy.save(stored, {_METADATA_KEY: text}))
    return digest


def read_artifact(
    path: str | os.PathLike[str], schema: str, require_hash: bool = True
) -> tuple[Any, dict[str, NDArray[Any]]]:
    """Read one noun back and check everything about its file.

    Args:
        path: File to read.
        schema: What the caller can read, ``dyadiq.<noun>/<version>``.
        require_hash: False accepts a document without ``sha256`` (written by a person);
            a hash that is there must still be right.

    Returns:
        Payload and arrays (writable, in native byte order).

    Raises:
        ArtifactError: Missing, truncated or damaged file, wrong noun, newer version, or wrong hash.
    """
    document, arrays = _parse(path, read_bytes(path))
    if not isinstance(document, dict) or not isinstance(document.get("schema"), str) or "payload" not in document:
        raise ArtifactError(
            f"{path}: not a Dyadiq artifact: expected a JSON object with the keys schema, payload and sha256. "
            f'Write it with dyadiq, or start it with {{"schema": "{schema}", "payload": ...}}.'
        )
    _check_schema(path, document["schema"], schema)
    digest = document.get("sha256")
    if digest is None and not require_hash:
        return document["payload"], arrays
    actual = _digest(document["schema"], document["payload"], arrays)
    if digest != actual:
        raise ArtifactError(
            f"{path}: the content does not match its hash: sha256 is {actual}, expected {digest!r}. "
            "The file was damaged or edited; make it again."
        )
    return document["payload"], arrays


def peek_schema(path: str | os.PathLike[str]) -> str:
    """Return the schema of an artifact, such as ``dyadiq.plan/1``, without checking its hash.

    Raises:
        ArtifactError: Missing, damaged, or not an artifact.
    """
    document, _ = _parse(path, read_bytes(path))
    schema = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(schema, str):
        raise ArtifactError(f"{path}: no schema in the document, so it is no Dyadiq artifact. Give a file of Dyadiq.")
    return schema


def _parse(path: str | os.PathLike[str], data: bytes) -> tuple[Any, dict[str, NDArray[Any]]]:
    """Split file bytes into document and arrays.

    Raises:
        ArtifactError: Neither JSON nor safetensors, or cut short.
    """
    header_bytes = int.from_bytes(data[:8], "little")
    try:
        if data[8:9] == b"{" and header_bytes <= len(data) - 8:
            header = json.loads(data[8 : 8 + header_bytes])
            document = json.loads(header["__metadata__"][_METADATA_KEY], parse_constant=_refuse_constant)
            arrays = {name: array.copy() for name, array in safetensors.numpy.load(data).items()}
            return document, arrays
        return json.loads(data, parse_constant=_refuse_constant), {}
    except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as err:
        raise ArtifactError(
            f"{path}: damaged or cut short, or not a Dyadiq file ({len(data)} bytes): {err}. "
            "Expected JSON, or safetensors with Dyadiq metadata. Make the file again."
        ) from err


def _refuse_constant(text: str) -> None:
    """Refuse the non-numbers that Python's JSON reader would take.

    Raises:
        ValueError: Always.
    """
    raise ValueError(f"{text} is not JSON")


def _parse_schema(schema: str) -> tuple[str, int]:
    """Split ``dyadiq.plan/1`` into noun and version.

    Raises:
        ArtifactError: Not of that form.
    """
    match = _SCHEMA.fullmatch(schema)
    if match is None:
        raise ArtifactError(f"not a schema: {schema!r}. Expected dyadiq.<noun>/<version>, such as dyadiq.plan/1.")
    return match[1], int(match[2])


def _check_schema(path: str | os.PathLike[str], got: str, expected: str) -> None:
    """Compare noun and version with what the caller reads.

    Raises:
        ArtifactError: Another noun, or a version this program does not read.
    """
    try:
        noun, version = _parse_schema(got)
    except ArtifactError as err:
        raise ArtifactError(f"{path}: {err}") from err
    wanted, readable = _parse_schema(expected)
    if noun != wanted:
        raise ArtifactError(f"{path}: holds a {noun}, expected a {wanted}. Give the file made for this step.")
    if version > readable:
        raise ArtifactError(
            f"{path}: {noun} version {version} was written by a newer Dyadiq; this one reads up to version "
            f"{readable}. Upgrade Dyadiq, or make the file again with this version."
        )
    if version < readable:
        raise ArtifactError(
            f"{path}: {noun} version {version} is too old; this Dyadiq reads version {readable}. Make the file again."
        )


def _storable(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return the array in C order and little-endian.

    Raises:
        ArtifactError: A dtype or name that safetensors cannot hold.
    """
    value = np.asarray(array)
    if value.dtype.kind not in "fiub" or value.dtype.itemsize > 8 or name == "__metadata__":
        raise ArtifactError(
            f"array {name!r} of dtype {value.dtype} cannot be stored; "
            "expected booleans, integers or floats of at most 64 bits, under any name but __metadata__."
        )
    return np.require(value, value.dtype.newbyteorder("<"), "C")


def _digest(schema: str, payload: Any, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the hash over schema, payload and arrays, whatever the order of the names."""
    facts = [[name, arrays[name].dtype.str.lstrip("<|="), list(arrays[name].shape)] for name in sorted(arrays)]
    digest = hashlib.sha256(canonical_json([schema, payload, facts]).encode("ascii"))
    for name in sorted(arrays):
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
