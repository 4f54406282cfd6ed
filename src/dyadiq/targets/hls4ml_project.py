"""Writes an hls4ml project from layers, compiles its C simulation with g++, and runs it through ctypes.

Used by `hls4ml` only; the one place that imports hls4ml. hls4ml prints while it works: that goes to ``hls4ml.log``
in the project. No vendor tool is needed: the fixed-point headers come with hls4ml, g++ from the system.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ExportError, MissingDependencyError, StorageError, ToolError
from dyadiq.core.storage import make_folder
from dyadiq.fpga.tools import run_tool
from dyadiq.targets import hls4ml_run
from dyadiq.targets.base import require
from dyadiq.targets.hls4ml_model import Layers

__all__ = ["PROJECT", "run_csim", "write_project"]

PROJECT = "dyadiq_net"
_COMPILE_SECONDS = 1800
_RUN_SECONDS = 3600
_DEFAULT = "fixed<77,38>"  # hls4ml wants one; a width that no layer has, so that falling back to it is seen


def write_project(
    layers: Layers, folder: Path, backend: str, io_type: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the project and return facts: the library it will be compiled to, and every type hls4ml ended up with.

    Raises:
        ExportError: hls4ml refuses the network, or did not keep a type it was given; the log says more.
        MissingDependencyError: hls4ml is absent.
        StorageError: The folder cannot be written.
    """
    require("hls4ml", "fpga")
    make_folder(folder)
    log = io.StringIO()
    try:
        with contextlib.redirect_stdout(log), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations of its own dependencies; what matters is checked below
            model = _model(layers, folder, backend, io_type, options)
            model.write()
            _compile_faster(folder / "build_lib.sh")
    except OSError as error:
        raise StorageError(f"cannot write the hls4ml project {folder}: {error}.") from error
    except Exception as error:  # hls4ml raises bare Exception for whatever it refuses
        raise ExportError(f"hls4ml with backend {backend!r} refuses: {type(error).__name__}: {error}") from error
    finally:
        (folder / "hls4ml.log").write_text(log.getvalue())
    types = {
        layer.name: {name: str(kind.precision) for name, kind in sorted(layer.types.items())}
        for layer in model.get_layers()
    }
    strays = [name for name, kinds in types.items() if any(_DEFAULT[:-1] in kind for kind in kinds.values())]
    if strays:
        raise ExportError(f"hls4ml did not take the types of {', '.join(strays)}. Is it version 1.3?")
    stamp = model.config.get_config_value("Stamp")
    return {"library": f"firmware/{PROJECT}-{stamp}.so", "types": types}


def _compile_faster(script: Path) -> None:
    """Let g++ optimise less: half the time to compile, the same integers."""
    script.write_text(script.read_text().replace("-O3", "-O1"))


def _model(layers: Layers, folder: Path, backend: str, io_type: str, options: Mapping[str, Any]) -> Any:
    create = require("hls4ml.utils.config", "fpga").create_config
    graph = require("hls4ml.model", "fpga").ModelGraph
    config = create(output_dir=str(folder), project_name=PROJECT, backend=backend, io_type=io_type, **options)
    model = {"Precision": {"default": _DEFAULT}, "ReuseFactor": 1, "Strategy": "Latency", "BitExact": False}
    config["HLSConfig"] = {"Model": model, "LayerName": {name: dict(c) for name, c in layers.config.items()}}
    return graph.from_layer_list(config, [dict(layer) for layer in layers.layers], layers.inputs, layers.outputs)


def run_csim(
    folder: Path, library: str, inputs: list[NDArray[np.float64]], sizes: list[int]
) -> list[NDArray[np.float64]]:
    """Return flat outputs ``[N, size]`` of the C simulation for inputs ``[N, ...]`` in channels-last order.

    Compiles first if that was not done yet. Runs in a process of its own: generated C++ may abort.

    Raises:
        ToolError: The project does not compile, does not load, crashes or takes too long; logs are in the folder.
        MissingDependencyError: There is no g++.
    """
    if not (folder / library).is_file():
        _compile(folder)
    with tempfile.TemporaryDirectory() as scratch:
        for i, x in enumerate(inputs):
            np.save(Path(scratch) / f"in{i}.npy", np.ascontiguousarray(x.reshape(len(x), -1), dtype=np.float64))
        top = f"{PROJECT}_double"
        sizes_text = ",".join(map(str, sizes))
        command = [
            sys.executable,
            str(hls4ml_run.__file__),
            str((folder / library).resolve()),
            top,
            scratch,
            sizes_text,
        ]
        try:
            run_tool(command, log=folder / "csim.log", timeout_s=_RUN_SECONDS)
        except ToolError as error:
            raise ToolError(f"{folder}: the C simulation failed: {error}") from error
        return [np.load(Path(scratch) / f"out{i}.npy") for i in range(len(sizes))]


def _compile(folder: Path) -> None:
    if shutil.which("g++") is None:
        raise MissingDependencyError("g++ (the system's C++ compiler, e.g. apt-get install g++)", "fpga")
    log = folder / "compile.log"
    try:
        run_tool(["/bin/bash", "build_lib.sh"], folder=folder, log=log, timeout_s=_COMPILE_SECONDS)
    except ToolError as error:
        first = next((line for line in log.read_text().splitlines() if "error" in line), "no message of g++")
        raise ToolError(f"{folder}: the C simulation does not compile: {first.strip()}. {error}") from error
