"""Atomic writes: the old bytes or the new ones, whatever fails; real full disks where the system lets us make one."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dyadiq.core.errors import ArtifactError, StorageError
from dyadiq.core.storage import atomic_write_bytes, atomic_write_text, make_folder, read_bytes, sha256_file

WRITE_TOO_MUCH = """
import sys
from pathlib import Path
from dyadiq.core.errors import StorageError
from dyadiq.core.storage import atomic_write_bytes
target = Path(sys.argv[1]) / "a.bin"
atomic_write_bytes(target, b"old")
try:
    atomic_write_bytes(target, bytes(4 << 20))
except StorageError as err:
    assert target.read_bytes() == b"old", "the old file is gone"
    assert [p.name for p in target.parent.iterdir()] == ["a.bin"], "something half-written remains"
    print(err)
"""


def test_atomic_write_replaces_the_file_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "a.bin"
    atomic_write_bytes(target, b"old")
    atomic_write_bytes(target, bytearray(b"new"))
    assert target.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_atomic_write_respects_the_umask(tmp_path):
    atomic_write_bytes(tmp_path / "a.bin", b"x")
    (tmp_path / "b.bin").write_bytes(b"x")
    assert (tmp_path / "a.bin").stat().st_mode == (tmp_path / "b.bin").stat().st_mode


def test_atomic_write_text_keeps_line_ends_and_writes_utf8(tmp_path):
    atomic_write_text(tmp_path / "a.txt", "é\r\n\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\r\n\n"


def test_atomic_write_works_when_the_name_is_as_long_as_allowed(tmp_path):
    atomic_write_bytes(tmp_path / ("n" * 255), b"x")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, r"cannot write .*a\.bin \(3 bytes\).*the disk is full.*Nothing was changed"),
        (errno.EROFS, "read-only. Choose another folder"),
        (errno.EACCES, "no permission"),
        (errno.EIO, "check the disk and the path"),
    ],
)
@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_atomic_write_keeps_the_old_file_when_the_system_refuses(tmp_path, monkeypatch, code, message, failing):
    target = tmp_path / "a.bin"
    atomic_write_bytes(target, b"old")

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(*((os, "fsync") if failing == "fsync" else (Path, "replace")), refuse)
    with pytest.raises(StorageError, match=message):
        atomic_write_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_atomic_write_leaves_nothing_when_interrupted(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write_bytes(tmp_path / "a.bin", b"new")
    assert not list(tmp_path.iterdir())


def test_atomic_write_succeeds_when_the_folder_cannot_be_synced(tmp_path, monkeypatch):
    sync, calls = os.fsync, []

    def sync_files_only(handle):
        calls.append(handle)
        if len(calls) > 1:
            raise OSError(errno.EINVAL, "not for folders")
        sync(handle)

    monkeypatch.setattr(os, "fsync", sync_files_only)
    atomic_write_bytes(tmp_path / "a.bin", b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"new"


def test_atomic_write_says_so_when_the_folder_is_missing(tmp_path):
    with pytest.raises(StorageError, match=r"the folder does not exist. Create it first"):
        atomic_write_bytes(tmp_path / "no" / "a.bin", b"x")


def test_atomic_write_says_so_when_the_target_is_a_folder(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(StorageError, match="the path is a folder"):
        atomic_write_bytes(tmp_path / "a", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_atomic_write_keeps_the_old_file_when_the_kernel_stops_the_write(tmp_path):
    def limit_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    # Python ignores SIGXFSZ, so that the limit shows up as an OSError, as a full disk does.
    done = subprocess.run(
        [sys.executable, "-c", WRITE_TOO_MUCH, str(tmp_path)],
        capture_output=True, text=True, check=True, preexec_fn=limit_files, timeout=60,
    )  # fmt: skip
    assert "larger than the system allows" in done.stdout


def test_atomic_write_keeps_the_old_file_when_the_disk_is_really_full(tmp_path):
    unshare, mount = shutil.which("unshare"), shutil.which("mount")
    if unshare is None or mount is None:
        pytest.skip("no unshare or mount here: a small disk cannot be made")
    private = [unshare, "--mount"] if os.geteuid() == 0 else [unshare, "--mount", "--map-root-user"]
    script = f'{mount} -t tmpfs -o size=1m tmpfs "$1" || exit 77; exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        [*private, "sh", "-c", script, "sh", str(tmp_path), sys.executable, WRITE_TOO_MUCH],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert "the disk is full" in done.stdout


def test_make_folder_makes_all_parts_and_accepts_what_is_there(tmp_path):
    assert make_folder(tmp_path / "a" / "b").is_dir()
    assert make_folder(tmp_path / "a" / "b").is_dir()


def test_make_folder_says_so_when_a_file_is_in_the_way(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(StorageError, match=r"cannot make the folder .*a file is in the way"):
        make_folder(tmp_path / "a")
    with pytest.raises(StorageError, match="a part of the path is a file"):
        make_folder(tmp_path / "a" / "b")


def test_sha256_file_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_read_bytes_says_so_when_there_is_no_file(tmp_path):
    with pytest.raises(ArtifactError, match=r"no such file. Check the path"):
        sha256_file(tmp_path / "a")
    with pytest.raises(ArtifactError, match="cannot be read: Is a directory"):
        read_bytes(tmp_path)
