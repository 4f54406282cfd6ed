"""``interface.json`` and README of a streaming circuit; the schema of `interface`, with control pins among the ports.

Used by target `verilog_stream`. ``shape`` is what a port carries in one clock, one position; ``tensor_shape`` the whole
tensor. Control pins have no tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dyadiq.fpga.interface import SCHEMA
from dyadiq.fpga.netlist import DELAYS
from dyadiq.fpga.stream_parts import Pipeline, Stream
from dyadiq.fpga.stream_verilog import stream_ports
from dyadiq.fpga.verilog import TOP, VerilogPort
from dyadiq.ir.graph import Graph

__all__ = ["describe_stream", "stream_readme"]


def describe_stream(graph: Graph, pipeline: Pipeline) -> dict[str, Any]:
    """Return the content of ``interface.json``."""
    given, made = stream_ports(pipeline)
    node = graph.producer(given.tensor)
    assert node is not None, "codes are made by a quantizer"
    scale, zero_point = (graph.params[name] for name in node.inputs[1:3])
    quantizer = {"input": node.inputs[0], "scale": float(scale), "zero_point": int(zero_point)}
    outputs: list[dict[str, Any]] = []
    for port in made:
        info, stream = graph.tensors[port.tensor], pipeline.streams[port.tensor]
        real = {"scale": np.asarray(1.0 if info.scale is None else info.scale).tolist(), "zero_point": info.zero_point}
        valid = {"valid": f"{port.name}_valid", "first_cycle": stream.times[0], "last_cycle": stream.times[-1]}
        outputs += [_entry(graph, port, stream) | real | valid, _pin(f"{port.name}_valid")]
    made_ops = sum(
        1
        for stage in pipeline.stages
        for i, when in enumerate(stage.plan.stages)
        if when >= 0 and DELAYS[stage.circuit.net.ops[i].kind]
    )
    return {
        "schema": SCHEMA,
        "style": "stream",
        "top": TOP,
        "latency_cycles": pipeline.latency_cycles,
        "initiation_interval": pipeline.period,
        "stages": sum(len(stage.plan.cuts) + 1 for stage in pipeline.stages),
        "adders_per_stage": max((stage.plan.depth for stage in pipeline.stages), default=0),
        "operations": made_ops,
        "register_bits": pipeline.register_bits,
        "inputs": [_entry(graph, given, pipeline.source) | quantizer, _pin("rst"), _pin("in_valid")],
        "outputs": outputs,
    }


def _entry(graph: Graph, port: VerilogPort, stream: Stream) -> dict[str, Any]:
    return {
        "port": port.name,
        "tensor": port.tensor,
        "shape": [port.count],
        "tensor_shape": list(graph.tensors[port.tensor].shape),
        "type": str(stream.qtype),
        "bits": port.bits,
    }


def _pin(name: str) -> dict[str, Any]:
    return {"port": name, "shape": [1], "type": "uint1", "bits": 1}


def stream_readme(interface: Mapping[str, Any]) -> str:
    """Return the README of a written folder."""
    rows = "\n".join(
        f"| `{p['port']}` | {side} | {p['tensor']} | {p['tensor_shape']} | {p['shape'][0]} x {p['type']} | "
        f"{p['scale'] if not isinstance(p['scale'], list) else 'per channel'} | {p['zero_point']} |"
        for side in ("inputs", "outputs")
        for p in interface[side]
        if "tensor" in p
    )
    period = interface["initiation_interval"]
    return f"""# A network as logic, one position of the image per clock

`{TOP}.v` takes one position (all channels) per clock edge at which `in_valid` is high, in row-major order,
{period} per image; images follow each other without a mark between them.
With `in_valid` low nothing moves. `rst`, for one clock at least, makes the next position the first of an image.

The last output of an image is there {interface["latency_cycles"]} such cycles after its first position; a new image
can start every {period} (the initiation interval). An output is valid in a cycle with its `_valid` pin high.
Outputs of the last image leave while positions of the next one, or any others, enter.

| port | side | tensor | shape | carries | scale | zero point |
|---|---|---|---|---|---|---|
{rows}

Element c of a port is channel c, at bits `[c * bits +: bits]` in two's complement (`bipolar`: one bit, set for +1).
Real values: `(code - zero_point) * scale`.
The input quantizer is software: the circuit starts at codes,
`clip(floor(x / scale + 1/2) + zero_point, lowest code, highest code)` in float64.

`make` runs the bench twice, without and with idle clocks in between: it feeds `vectors_in.hex`, compares with
`vectors_out_K.hex` (from Dyadiq's reference interpreter), and says PASS or FAIL.
`interface.json` says all this to programs.
"""
