"""hls4ml: a project for FPGA and ASIC high-level synthesis, compared in its own C simulation.

Used through `TARGETS["hls4ml"]`, with options through `Target.configured`. What is written is a whole hls4ml project
whose every type comes from the program and its proofs (`hls4ml_layers`); ``emulate`` compiles its C simulation with g++
and returns codes. The input ports take codes (as fixed-point numbers): the program's float64 input quantizer runs in
front of them, on the host or in the detector's readout.

What hls4ml cannot compute exactly is refused by `check` before anything is written, node by node.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ArtifactError, ConfigError
from dyadiq.fpga.interface import grid_entry, input_codes
from dyadiq.ir.integer import IntegerProgram, input_grid
from dyadiq.targets.base import Codes, Target, checked_feeds, save_bytes
from dyadiq.targets.hls4ml_layers import build_layers
from dyadiq.targets.hls4ml_model import Layers
from dyadiq.targets.hls4ml_project import PROJECT, run_csim, write_project
from dyadiq.targets.hls4ml_types import find_inexact

__all__ = ["Hls4mlConfig", "Hls4mlTarget"]

BACKENDS = ("Vivado", "Vitis", "Quartus", "Catapult")
STRATEGIES = ("latency", "resource", "distributed_arithmetic")
IO_TYPES = ("io_parallel", "io_stream")
_FORMAT = "dyadiq.hls4ml/1"


@dataclass(frozen=True, slots=True)
class Hls4mlConfig:
    """How hls4ml shall build the hardware; no option changes an integer.

    Attributes:
        backend: ``Vivado``, ``Vitis``, ``Quartus`` or ``Catapult``.
        strategy: ``latency``, ``resource`` or ``distributed_arithmetic`` (adder graphs by da4ml; Vivado and Vitis).
        reuse_factor: Multiplications per multiplier; 1 is fully parallel.
        io_type: ``io_parallel`` or ``io_stream``.
        part: Device part number; empty for the backend's own default.
        clock_period_ns: Target clock period.

    Raises:
        ConfigError: A value is unknown, or two exclude each other.

    Example:
        >>> Hls4mlConfig(backend="vitis")
        Traceback (most recent call last):
        dyadiq.core.errors.ConfigError: hls4ml: backend must be one of Vivado, Vitis, Quartus, Catapult; got 'vitis'.
    """

    backend: str = "Vitis"
    strategy: str = "latency"
    reuse_factor: int = 1
    io_type: str = "io_parallel"
    part: str = ""
    clock_period_ns: float = 5.0

    def __post_init__(self) -> None:
        """Refuse what hls4ml does not have.

        Raises:
            ConfigError: A value is unknown, or two exclude each other.
        """
        for name, known in (("backend", BACKENDS), ("strategy", STRATEGIES), ("io_type", IO_TYPES)):
            if getattr(self, name) not in known:
                raise ConfigError(f"hls4ml: {name} must be one of {', '.join(known)}; got {getattr(self, name)!r}.")
        if self.reuse_factor < 1:
            raise ConfigError(f"hls4ml: reuse_factor must be at least 1, got {self.reuse_factor}.")
        if not 0 < self.clock_period_ns < float("inf"):
            raise ConfigError(f"hls4ml: clock_period_ns must be positive, got {self.clock_period_ns}.")
        if self.strategy == "distributed_arithmetic" and self.backend not in ("Vivado", "Vitis"):
            raise ConfigError(f"hls4ml: strategy distributed_arithmetic needs Vivado or Vitis, got {self.backend}.")
        if self.strategy == "distributed_arithmetic" and self.reuse_factor != 1:
            raise ConfigError("hls4ml: strategy distributed_arithmetic has no multipliers; use reuse_factor=1.")


class Hls4mlTarget(Target):
    """The target ``hls4ml``.

    Attributes:
        config: Options.
    """

    name: ClassVar[str] = "hls4ml"
    filename: ClassVar[str] = "hls4ml.json"
    options: ClassVar[type] = Hls4mlConfig

    def __init__(self, config: Hls4mlConfig | None = None) -> None:
        """Take options; all default."""
        self.config = Hls4mlConfig() if config is None else config

    def check(self, program: IntegerProgram) -> list[str]:
        """Return how the ports, accumulators and strategies will be.

        Raises:
            ExportError: A node that hls4ml cannot compute exactly; all are listed.
            ProofError: A tensor may leave its declared type.
        """
        find_inexact(program, streaming=self.config.io_type == "io_stream").raise_if_any()
        layers = self._layers(program)
        ports = ", ".join(f"{i}: {layers.config[i]['Precision']['result']}" for i in layers.inputs)
        notes = [f"input ports take quantized codes ({ports}); quantize in front of them"]
        if layers.accumulators:
            notes.append(f"accumulators of {max(layers.accumulators.values())} bits or fewer, proven")
        return notes

    def _layers(self, program: IntegerProgram) -> Layers:
        """Return the layers for this backend: what it has no exact layer for becomes a plain convolution."""
        config = self.config
        xilinx = config.backend in ("Vivado", "Vitis")
        return build_layers(
            program,
            config.strategy,
            config.reuse_factor,
            depthwise=xilinx and config.strategy != "distributed_arithmetic",
            average=xilinx and config.io_type == "io_parallel",
        )

    def write(self, program: IntegerProgram, path: Path) -> list[Path]:
        """Write ``hls4ml.json`` and the project in the folder ``hls4ml`` beside it; returns these and the top function.

        Raises:
            ExportError: As `check`, or hls4ml refuses.
            MissingDependencyError: hls4ml is absent.
            StorageError: The disk is full or not writable.
        """
        notes = self.check(program)
        file = self.file(path)
        project = file.parent / "hls4ml"
        layers = self._layers(program)
        extra = {"clock_period": self.config.clock_period_ns} | ({"part": self.config.part} if self.config.part else {})
        made = write_project(layers, project, self.config.backend, self.config.io_type, extra)
        graph = program.graph
        quantizers = {n.inputs[0]: n for n in graph.nodes if n.op == "quantize"}
        facts = {
            "format": _FORMAT,
            "config": asdict(self.config),
            "project": project.name,
            "notes": notes,
            "inputs": {  # in the order of the ports
                name: {
                    "shape": list(graph.tensors[name].shape),
                    "exponent": layers.exponents[name],
                    "scale": float(graph.params[quantizers[name].inputs[1]]),
                    "type": str(graph.tensors[quantizers[name].output].qtype),
                    **grid_entry(input_grid(graph, quantizers[name])),
                }
                for name in graph.inputs
            },
            "outputs": {
                name: {
                    "shape": list(graph.tensors[name].shape),
                    "exponent": layers.exponents[name],
                    "order": layers.orders.get(name),
                }
                for name in graph.outputs
            },
            "layers": layers.config,
            **made,
        }
        return [save_bytes(file, json.dumps(facts, indent=1).encode()), project / "firmware" / f"{PROJECT}.cpp"]

    def emulate(self, path: Path, inputs: Mapping[str, NDArray[Any]]) -> Codes:
        """Quantize raw inputs, run the C simulation (compiled on first use), and return output codes.

        Raises:
            ArtifactError: No such file, or none of ours.
            ToolError: The simulation does not compile or crashes; logs are in the project.
            DataError: Inputs missing, or of the wrong shape.
            MissingDependencyError: There is no g++.
        """
        file = self.existing_file(path)
        try:
            facts = json.loads(file.read_bytes())
        except ValueError as error:
            raise ArtifactError(f"{file}: not JSON: {error}. Write it again.") from error
        if not isinstance(facts, dict) or facts.get("format") != _FORMAT:
            raise ArtifactError(f"{file}: it was not written by this version of Dyadiq. Write it again.")
        feeds, _ = checked_feeds({n: tuple(i["shape"]) for n, i in facts["inputs"].items()}, inputs)
        ports = [_port_values(facts["inputs"][name], feeds[name]) for name in facts["inputs"]]
        outputs = facts["outputs"]
        sizes = [int(np.prod(o["shape"])) for o in outputs.values()]
        values = run_csim(file.parent / facts["project"], facts["library"], ports, sizes)
        return {name: _codes(outputs[name], v) for name, v in zip(outputs, values, strict=True)}


def _port_values(port: Mapping[str, Any], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``code * 2^exponent`` in channels-last order, quantized as the reference does it."""
    codes = input_codes({"zero_point": 0, **port}, x)
    values: NDArray[np.float64] = np.ldexp(np.moveaxis(codes, 1, -1), port["exponent"])
    return values


def _codes(port: Mapping[str, Any], values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return codes ``[N, ...]`` in the program's order."""
    codes: NDArray[np.int64] = np.ldexp(values, -port["exponent"]).astype(np.int64)
    shape = tuple(port["shape"])
    if port["order"] is not None:
        back = np.empty_like(codes)
        back[:, port["order"]] = codes
        codes = back
    elif len(shape) > 1:
        codes = np.moveaxis(codes.reshape(-1, *shape[1:], shape[0]), -1, 1)
    return np.ascontiguousarray(codes).reshape(-1, *shape)
