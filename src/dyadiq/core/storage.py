"""Writing files so that a crash, a full disk or Ctrl-C leaves either the old bytes or the new ones.

Used by everything that stores anything; imports errors only and knows no file format.
A write goes to a temporary file in the same folder (``.<name>.<random>.dyadiq-tmp``), is flushed to the
device, and takes the place of the target in one step. Only a killed process can leave a temporary file behind.
"""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from pathlib import Path

from dyadiq.core.errors import ArtifactError, StorageError

__all__ = ["TEMPORARY_SUFFIX", "atomic_write_bytes", "atomic_write_text", "make_folder", "read_bytes", "sha256_file"]

TEMPORARY_SUFFIX = ".dyadiq-tmp"

_ADVICE = {
    errno.ENOSPC: "the disk is full. Free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up. Free some space and run the same command again",
    errno.EROFS: "the file system is read-only. Choose another folder",
    errno.EACCES: "no permission to write there. Choose another folder or change its permissions",
    errno.EPERM: "no permission to write there. Choose another folder or change its permissions",
    errno.ENOENT: "the folder does not exist. Create it first",
    errno.ENOTDIR: "a part of the path is a file, not a folder. Choose another path",
    errno.EISDIR: "the path is a folder. Name a file in it",
    errno.EEXIST: "a file is in the way. Choose another path",
    errno.EFBIG: "the file is larger than the system allows. Raise the limit or choose another disk",
}


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes | bytearray | memoryview) -> None:
    """Write a file as a whole or not at all.

    Args:
        path: Target; its folder must exist.
        data: All bytes of the file.

    Raises:
        StorageError: The disk is full, read-only, not permitted, or the folder is missing.
            The old file, if there was one, is untouched and no temporary file remains.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.bin"
        >>> atomic_write_bytes(target, b"abc")
        >>> target.read_bytes()
        b'abc'
    """
    target = Path(path)
    temporary = target.parent / f".{target.name[:100]}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
    try:
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as err:
        raise StorageError(f"cannot write {target} ({len(data)} bytes): {_explain(err)}. Nothing was changed.") from err
    _sync_folder(target.parent)


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder and those above it; one that is there is fine.

    Raises:
        StorageError: The disk is full, read-only, not permitted, or a file is in the way.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise StorageError(f"cannot make the folder {folder}: {_explain(err)}.") from err
    return folder


def _explain(err: OSError) -> str:
    return f"{err.strerror or err}; {_ADVICE.get(err.errno or 0, 'check the disk and the path')}"


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable where the system can; the file is complete either way."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        return
    finally:
        os.close(handle)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text as a whole or not at all; line ends stay as they are.

    Raises:
        StorageError: As `atomic_write_bytes`.
    """
    atomic_write_bytes(path, text.encode("utf-8"))


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Read a whole file.

    Raises:
        ArtifactError: Missing, a folder, or not readable.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as err:
        raise ArtifactError(f"{path}: no such file. Check the path, or make it with the stage before.") from err
    except OSError as err:
        raise ArtifactError(
            f"{path}: cannot be read: {err.strerror or err}. Check the path and its permissions."
        ) from err


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits.

    Raises:
        ArtifactError: Missing or not readable.
    """
    return hashlib.sha256(read_bytes(path)).hexdigest()
