"""External programs: found, run with a time limit, their output kept in a log, stopped with everything they started.

Used by `simulate`, `synth`, `place` and `targets.hls4ml`. Knows the line that installs each program, and nothing of
what it does. Programs are looked for on the path, then beside Python, where pip puts those of a virtual environment.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import IO

from dyadiq.core.errors import MissingToolError, StorageError, ToolError
from dyadiq.core.storage import make_folder

__all__ = ["INSTALL", "find_tool", "run_tool", "tool_version"]

INSTALL: Mapping[str, str] = MappingProxyType(
    {
        "iverilog": "apt-get install iverilog",
        "vvp": "apt-get install iverilog",
        "verilator": "apt-get install verilator",
        "yosys": "apt-get install yosys",
        "nextpnr-ice40": "apt-get install nextpnr-ice40",
        "nextpnr-ecp5": "pip install 'dyadiq[ecp5]'",
    }
)
# The same programs compiled to WebAssembly: installed by pip, some times slower.
_ALIASES = {name: (name, f"yowasp-{name}") for name in ("yosys", "nextpnr-ecp5", "nextpnr-ice40")}
_VERSION_S = 600.0  # a program of WebAssembly compiles itself at its first start
_TAIL = 1500


def find_tool(name: str) -> str:
    """Return the path of a program.

    Raises:
        MissingToolError: It is not on the path; says how to install it.
    """
    for candidate in _ALIASES.get(name, (name,)):
        path = shutil.which(candidate) or shutil.which(candidate, path=str(Path(sys.executable).parent))
        if path is not None:
            return path
    raise MissingToolError(name, INSTALL.get(name, f"apt-get install {name}"))


def tool_version(name: str) -> str:
    """Return the version number that a program reports.

    Raises:
        MissingToolError: It is not installed.
        ToolError: It does not answer.
    """
    option = {"iverilog": "-V", "vvp": "-V"}.get(name, "--version")
    return _version(find_tool(name), option)


@lru_cache(maxsize=32)
def _version(path: str, option: str) -> str:
    text = run_tool([path, option], timeout_s=_VERSION_S)
    match = re.search(r"\d+\.\d+(\.\d+)*", text)
    return match[0] if match else text.strip()[:40]


def run_tool(
    command: Sequence[str], *, folder: Path | None = None, log: Path | None = None, timeout_s: float = 3600.0
) -> str:
    r"""Run a program to its end and return what it printed, both streams together.

    Args:
        command: Path of the program and its arguments; no shell.
        folder: Where it runs.
        log: File that gets what it prints, as it prints it: it is there when the program fails or is stopped.
        timeout_s: It is stopped after so many seconds. It is stopped as well, with all it started, by Ctrl-C.

    Raises:
        ToolError: It failed or took too long; carries the end of its output and the place of the log.
        StorageError: The log cannot be written.

    Example:
        >>> run_tool(["/bin/echo", "hello"])
        'hello\n'
    """
    name, problem = Path(command[0]).name, ""
    if log is not None:
        make_folder(log.parent)
    try:
        with tempfile.TemporaryFile() if log is None else log.open("w+b") as out:
            try:
                code = _run(command, folder, out, timeout_s)
                problem = f"failed with exit status {code}" if code else ""
            except subprocess.TimeoutExpired:
                problem = f"was stopped after {timeout_s:g} seconds"
            except OSError as error:
                problem = f"could not be started: {error.strerror}"
            out.seek(0)
            text = out.read().decode("utf-8", "replace")
    except OSError as error:
        raise StorageError(f"{log}: the log of {name} cannot be written: {error.strerror or error}.") from error
    if problem:
        where = f" Its log is {log}." if log is not None else ""
        raise ToolError(f"{name} {problem}.{where} The end of its output:\n{text[-_TAIL:].strip() or '(none)'}")
    return text


def _run(command: Sequence[str], folder: Path | None, out: IO[bytes], timeout_s: float) -> int:
    """Return the exit status; whatever ends the wait ends the program and its children, which are one session."""
    with subprocess.Popen(
        list(command),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            return process.wait(timeout_s)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()  # after Ctrl-C, Popen itself would not
            raise
