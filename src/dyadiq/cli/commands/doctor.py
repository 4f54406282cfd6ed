"""``dyadiq doctor``: what is here, what is missing, and the line that installs it."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from dyadiq.cli.guard import EXIT_NO, command
from dyadiq.cli.output import print_json, print_table, print_text

__all__ = ["doctor"]

_REQUIRED = ("torch", "numpy", "scipy", "pydantic", "safetensors", "jinja2", "matplotlib", "rich", "click")
_OPTIONAL = (
    ("onnx", "onnx", "targets onnx, qonnx, qdq"),
    ("onnxruntime", "onnx", "running targets onnx and qdq"),
    ("qonnx", "onnx", "target qonnx"),
    ("scikit-learn", "data", "the digits data set"),
    ("hls4ml", "fpga", "target hls4ml"),
    ("da4ml", "fpga", "target verilog and costs in LUTs"),
    ("pythia8mc", "jets", "simulating jets"),
    ("fastjet", "jets", "simulating jets"),
)
_OTHER_MACHINES = "tests of target c for other machines"
_PROGRAMS = (
    ("chromium", "the test that renders the report", "apt-get install chromium"),
    ("cc", "verifying target c", "apt-get install gcc"),
    ("aarch64-linux-gnu-gcc", _OTHER_MACHINES, "apt-get install gcc-aarch64-linux-gnu"),
    ("aarch64-linux-gnu-g++", "tests of the engine on aarch64, beside qemu", "apt-get install g++-aarch64-linux-gnu"),
    ("clang++", "fuzzing the engine", "apt-get install clang libclang-rt-dev"),
    ("arm-none-eabi-gcc", _OTHER_MACHINES, "apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi"),
    ("qemu-aarch64", _OTHER_MACHINES, "apt-get install qemu-user"),
    ("qemu-arm", _OTHER_MACHINES, "apt-get install qemu-user"),
)
# Found by `fpga.tools`, which knows other names for them and how to install each.
_TOOLS = (
    ("iverilog", "simulating Verilog"),
    ("verilator", "simulating Verilog on very many samples"),
    ("yosys", "LUT and flip-flop counts"),
    ("nextpnr-ice40", "the clock on iCE40"),
    ("nextpnr-ecp5", "the clock on ECP5"),
)
# onnx from 1.23 on writes IR version 14, which onnxruntime up to 1.31 refuses to load.
_ONNX_LIMIT = (1, 23)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: ``ok``; ``missing`` (something optional is off); or ``broken`` (Dyadiq cannot work)."""

    what: str
    status: Literal["ok", "missing", "broken"]
    found: str
    advice: str = ""


@command("doctor", "Check this machine; say how to fix it.")
def doctor(as_json: bool) -> int:
    """Check Python, packages, programs, the data folder and write access; say how to fix what is missing."""
    findings = [finding for check in _CHECKS for finding in check()]
    broken = [f for f in findings if f.status == "broken"]
    if as_json:
        print_json({"schema": "dyadiq.doctor/1", "ok": not broken, "findings": [asdict(f) for f in findings]})
    else:
        print_table(("what", "status", "found", "do this"), [(f.what, f.status, f.found, f.advice) for f in findings])
        print_text("Dyadiq can work here." if not broken else f"Dyadiq cannot work here: {len(broken)} broken.")
    return EXIT_NO if broken else 0


def _python() -> list[Finding]:
    fine = sys.version_info >= (3, 11)
    advice = "" if fine else "install Python 3.11 or newer"
    return [Finding("Python", "ok" if fine else "broken", platform.python_version(), advice)]


def _required() -> list[Finding]:
    return [
        Finding(name, "ok", version) if version else Finding(name, "broken", "-", f"pip install {name}")
        for name, version in ((name, _version(name)) for name in _REQUIRED)
    ]


def _optional() -> list[Finding]:
    findings = []
    for name, extra, use in _OPTIONAL:
        version = _version(name)
        if version is None:
            findings.append(Finding(name, "missing", "-", f"for {use}: pip install 'dyadiq[{extra}]'"))
        elif name == "onnx" and _numbers(version) >= _ONNX_LIMIT:
            findings.append(
                Finding(name, "broken", version, "writes an IR that onnxruntime refuses: pip install 'onnx<1.23'")
            )
        else:
            findings.append(Finding(name, "ok", version))
    return findings


def _programs() -> list[Finding]:
    from dyadiq.core.errors import MissingToolError
    from dyadiq.fpga.tools import INSTALL, find_tool

    findings = []
    for name, use, line in _PROGRAMS:
        path = shutil.which(name)
        findings.append(Finding(name, "ok", path) if path else Finding(name, "missing", "-", f"for {use}: {line}"))
    for name, use in _TOOLS:
        try:
            findings.append(Finding(name, "ok", find_tool(name)))
        except MissingToolError:
            findings.append(Finding(name, "missing", "-", f"for {use}: {INSTALL[name]}"))
    compiler = next((p for p in map(shutil.which, ("c++", "g++", "clang++")) if p), None)
    if compiler is None:
        findings.append(Finding("C++ compiler", "missing", "-", "for native code: apt-get install g++"))
    else:
        findings.append(Finding("C++ compiler", "ok", compiler))
    return findings


def _native() -> list[Finding]:
    from dyadiq.core.native import native_state

    state = native_state()
    if state.module is not None:
        return [Finding("native code", "ok", state.found), _kernels()]
    advice = "for the engine, and allocation some ten times faster: with a C++ compiler, pip install dyadiq again"
    return [Finding("native code", "missing", state.found, advice)]


def _kernels() -> Finding:
    """The instruction set that compiled programs run with here."""
    from dyadiq.core.errors import ConfigError
    from dyadiq.engine import available_isas, chosen_isa

    others = f"of {', '.join(available_isas())}"
    try:
        return Finding("engine kernels", "ok", f"{chosen_isa()}, {others}")
    except ConfigError as err:
        return Finding("engine kernels", "missing", others, f"{err} DYADIQ_ISA names it.")


def _data() -> list[Finding]:
    from dyadiq.core.data_folder import data_folder

    folder = data_folder()
    advice = "for the jets recipe: export DYADIQ_DATA=<folder of the data pack>"
    if not folder.is_dir():
        return [Finding("DYADIQ_DATA", "missing", f"{folder} is no folder", advice)]
    return [Finding("DYADIQ_DATA", "ok", str(folder))]


def _writable() -> list[Finding]:
    here = Path.cwd()
    try:
        with tempfile.TemporaryFile(dir=here):
            return [Finding("current folder", "ok", f"{here} is writable")]
    except OSError as err:
        return [Finding("current folder", "broken", f"{here}: {err.strerror}", "run in a folder you may write to")]


_CHECKS: tuple[Callable[[], list[Finding]], ...] = (_python, _required, _optional, _programs, _native, _data, _writable)


def _version(package: str) -> str | None:
    module = {"scikit-learn": "sklearn"}.get(package, package)
    if importlib.util.find_spec(module) is None:
        return None
    return metadata.version(package)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
