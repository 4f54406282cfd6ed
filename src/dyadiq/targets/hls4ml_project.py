"""Writes an hls4ml project from layers, compiles its C simulation with g++, and runs it through ctypes.

Used by `hls4ml` only; the one place that imports hls4ml. hls4ml prints while it works: that goes to ``hls4ml.log`` in the
project. No vendor tool is needed: the fixed-point headers come with hls4ml, g++ from the system.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import shutil
import subprocess
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ArtifactError, ExportError, MissingDependencyError, StorageError
from dyadiq.core.storage import make_folder
from dyadiq.targets.base import require
from dyadiq.targets.hls4ml_layers import Layers

__all__ = ["PROJECT", "CSimulation", "write_project"]

PROJECT = "dyadiq_net"
_COMPILE_SECONDS = 1800


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
    except OSError as error:
        raise StorageError(f"cannot write the hls4ml project {folder}: {error}.") from error
    except Exception as error:  # noqa: BLE001 - hls4ml raises bare Exception for whatever it refuses
        raise ExportError(
            f"hls4ml refuses the program with backend {backend!r}: {type(error).__name__}: {error}"
        ) from error
    finally:
        (folder / "hls4ml.log").write_text(log.getvalue())
    types = {
        layer.name: {name: str(kind.precision) for name, kind in sorted(layer.types.items())}
        for layer in model.get_layers()
    }
    stamp = model.config.get_config_value("Stamp")
    return {"library": f"firmware/{PROJECT}-{stamp}.so", "types": types}


def _model(layers: Layers, folder: Path, backend: str, io_type: str, options: Mapping[str, Any]) -> Any:
    create = require("hls4ml.utils.config", "fpga").create_config
    graph = require("hls4ml.model", "fpga").ModelGraph
    config = create(output_dir=str(folder), project_name=PROJECT, backend=backend, io_type=io_type, **options)
    # The model's default is never used: a type too wide to be missed in the facts, were a layer to fall back to it.
    model = {"Precision": {"default": "fixed<77,38>"}, "ReuseFactor": 1, "Strategy": "Latency", "BitExact": False}
    config["HLSConfig"] = {"Model": model, "LayerName": {name: dict(c) for name, c in layers.config.items()}}
    return graph.from_layer_list(config, [dict(layer) for layer in layers.layers], layers.inputs, layers.outputs)


class CSimulation:
    """The compiled C simulation of a project.

    Raises:
        ArtifactError: The project does not compile; the log is kept.
        MissingDependencyError: There is no g++.
    """

    def __init__(self, folder: Path, library: str) -> None:
        """Compile if that was not done yet, and load."""
        file = folder / library
        if not file.is_file():
            _compile(folder)
        try:
            self._run = getattr(ctypes.CDLL(str(file.resolve())), f"{PROJECT}_double")
        except (OSError, AttributeError) as error:
            raise ArtifactError(f"{file}: the compiled C simulation cannot be loaded: {error}. Delete it.") from error
        self._run.restype = None

    def run(self, inputs: list[NDArray[np.float64]], sizes: list[int]) -> list[NDArray[np.float64]]:
        """Return flat outputs ``[N, size]`` for inputs ``[N, ...]`` in channels-last order, sample by sample."""
        count = len(inputs[0])
        flat = [np.ascontiguousarray(x.reshape(count, -1), dtype=np.float64) for x in inputs]
        outputs = [np.zeros((count, size), dtype=np.float64) for size in sizes]
        pointer = ctypes.POINTER(ctypes.c_double)
        for i in range(count):
            self._run(*(a[i].ctypes.data_as(pointer) for a in (*flat, *outputs)))
        return outputs


def _compile(folder: Path) -> None:
    if shutil.which("g++") is None:
        raise MissingDependencyError("g++ (the system's C++ compiler, e.g. apt-get install g++)", "fpga")
    log = folder / "compile.log"
    try:
        done = subprocess.run(
            ["bash", "build_lib.sh"], cwd=folder, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ArtifactError(
            f"{folder}: g++ did not finish in {_COMPILE_SECONDS} s. Use a larger reuse factor."
        ) from error
    log.write_text(done.stdout + done.stderr)
    if done.returncode:
        first = next((line for line in log.read_text().splitlines() if "error" in line), "no message")
        raise ArtifactError(f"{folder}: the C simulation does not compile: {first.strip()}. The log is {log}.")
