"""``interface.json``: what a written circuit's ports carry, how its inputs are quantized, and how long it takes.

Written by target `verilog`, read back by it and by `synth`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.channel_grid import ChannelGrid, carried_type
from dyadiq.core.errors import ArtifactError
from dyadiq.core.qtype import QType
from dyadiq.core.storage import read_bytes
from dyadiq.fpga.netlist import DELAYS
from dyadiq.fpga.pipeline import Schedule
from dyadiq.fpga.trace import Circuit, Port
from dyadiq.fpga.verilog import TOP, VerilogPort, verilog_ports
from dyadiq.ir.graph import Graph

__all__ = [
    "FILENAME",
    "SCHEMA",
    "carried_codes",
    "carried_type_of",
    "describe",
    "entry_grid",
    "grid_entry",
    "input_codes",
    "read_interface",
]

FILENAME = "interface.json"
SCHEMA = "dyadiq.verilog/1"


def describe(graph: Graph, circuit: Circuit, plan: Schedule) -> dict[str, Any]:
    """Return the content of ``interface.json``."""
    inputs, outputs = verilog_ports(circuit)
    net = circuit.net
    made = [i for i, stage in enumerate(plan.stages) if stage >= 0 and DELAYS[net.ops[i].kind]]
    return {
        "schema": SCHEMA,
        "top": TOP,
        "latency_cycles": plan.latency_cycles,
        "initiation_interval": 1,
        "stages": len(plan.cuts) + 1,
        "adders_per_stage": plan.depth,
        "operations": len(made),
        "register_bits": plan.register_bits,
        "inputs": [_input(graph, port, source) for port, source in zip(inputs, circuit.inputs, strict=True)],
        "outputs": [_output(graph, port, source) for port, source in zip(outputs, circuit.outputs, strict=True)],
    }


def _entry(port: VerilogPort, source: Port) -> dict[str, Any]:
    return {
        "port": port.name,
        "tensor": port.tensor,
        "shape": list(source.shape),
        "type": str(source.qtype),
        "bits": port.bits,
    }


def _input(graph: Graph, port: VerilogPort, source: Port) -> dict[str, Any]:
    node = graph.producer(port.tensor)
    assert node is not None, "codes are made by a quantizer"
    scale, zero_point = (graph.params[name] for name in node.inputs[1:3])
    more = {"input": node.inputs[0], "scale": float(scale), "zero_point": int(zero_point)}
    return _entry(port, source) | more | grid_entry(source.grid)


def grid_entry(grid: ChannelGrid | None) -> dict[str, Any]:
    """Return what an entry of an input says of its channels' grids."""
    if grid is None:
        return {}
    return {"grid": {name: getattr(grid, name).tolist() for name in ("shift", "low", "high")}}


def entry_grid(entry: dict[str, Any]) -> ChannelGrid | None:
    """Return the channels' grids of an entry of an input, if it has them."""
    return ChannelGrid(**entry["grid"]) if "grid" in entry else None


def _output(graph: Graph, port: VerilogPort, source: Port) -> dict[str, Any]:
    info = graph.tensors[port.tensor]
    scale = np.asarray(1.0 if info.scale is None else info.scale).tolist()
    return _entry(port, source) | {"scale": scale, "zero_point": info.zero_point}


def read_interface(folder: Path) -> dict[str, Any]:
    """Return the ``interface.json`` of a written folder.

    Raises:
        ArtifactError: Missing, damaged, or of another schema.
    """
    file = folder / FILENAME
    try:
        interface = json.loads(read_bytes(file))
    except ValueError as error:
        raise ArtifactError(f"{file}: is no JSON: {error}. Export the program again.") from error
    if not isinstance(interface, dict) or interface.get("schema") != SCHEMA:
        raise ArtifactError(f"{file}: is not of schema {SCHEMA!r}. Export the program again.")
    return interface


def input_codes(entry: dict[str, Any], x: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return what the input quantizer of an entry of ``inputs`` makes of real values, as the reference does it.

    Example:
        >>> input_codes({"type": "int4", "scale": 0.5, "zero_point": 1}, np.array([0.25, -9.0])).tolist()
        [2, -8]
    """
    qtype, grid = QType.parse(entry["type"]), entry_grid(entry)
    if grid is not None:
        return grid.quantize(x, entry["scale"])
    if qtype.bipolar:
        return np.where(x >= 0, 1, -1).astype(np.int64)
    steps = np.floor(x / entry["scale"] + 0.5) + entry["zero_point"]
    codes: NDArray[np.int64] = np.clip(steps, qtype.qmin, qtype.qmax).astype(np.int64)
    return codes


def carried_type_of(entry: dict[str, Any]) -> QType:
    """Return the type of an element as a port carries it."""
    grid = entry_grid(entry)
    return QType.parse(entry["type"]) if grid is None else carried_type(grid)


def carried_codes(entry: dict[str, Any], x: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return what a port carries of real values: their codes, or the numbers of their steps."""
    grid, codes = entry_grid(entry), input_codes(entry, x)
    return codes if grid is None else grid.numbers(codes)
