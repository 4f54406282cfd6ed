"""Placing and routing of a synthesised circuit by nextpnr: the clock it reaches on a real part.

Used by command `synth`. Works on what `synth` left in the folder. A circuit with more pins than the package has is
wrapped in shift registers, one pin each way; their flip-flops and LUTs are in the counts, and the result says so.

How to add a device: one line in `DEVICES`. Kind ``placed``: a static timing analysis of a placed and routed design at
one seed; other seeds differ by some per cent.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from dyadiq.core.errors import ArtifactError, ToolError, UnknownNameError
from dyadiq.core.storage import atomic_write_text, read_bytes, sha256_file
from dyadiq.fpga.interface import read_interface
from dyadiq.fpga.synth import kept_result, synthesis_script
from dyadiq.fpga.tools import find_tool, run_tool, tool_version
from dyadiq.fpga.verilog import TOP

__all__ = ["DEVICES", "Device", "PlaceResult", "place"]


@dataclass(frozen=True, slots=True)
class Device:
    """A part with open timing.

    Attributes:
        family: Its family in `synth.FAMILIES`.
        tool: The program that places it.
        options: Options that name part and package.
        pins: Pins a circuit may use, clock included.
    """

    family: str
    tool: str
    options: tuple[str, ...]
    pins: int


DEVICES: Mapping[str, Device] = MappingProxyType(
    {
        "hx8k": Device("ice40", "nextpnr-ice40", ("--hx8k", "--package", "ct256", "--pcf-allow-unconstrained"), 206),
        "ecp5-85": Device("ecp5", "nextpnr-ecp5", ("--85k", "--package", "CABGA756", "--lpf-allow-unconstrained"), 365),
    }
)


@dataclass(frozen=True)
class PlaceResult:
    """What placing and routing reached.

    Attributes:
        device: Key in `DEVICES`.
        fmax_mhz: Highest clock of the routed design.
        latency_cycles: From the folder's interface.
        latency_ns: ``latency_cycles / fmax_mhz``.
        seed: Seed of the placer.
        used: Cells used by type.
        available: Cells the part has by type.
        wrapped: Whether shift registers stand in for missing pins.
        tool: Name of the program.
        version: Its version.
        seconds: What it took, synthesis included.
        circuit: SHA-256 of the Verilog file.
        kind: How the numbers were obtained.
    """

    device: str
    fmax_mhz: float
    latency_cycles: int
    latency_ns: float
    seed: int
    used: Mapping[str, int]
    available: Mapping[str, int]
    wrapped: bool
    tool: str
    version: str
    seconds: float
    circuit: str
    kind: Literal["placed"] = "placed"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def place(
    folder: Path, device: str = "hx8k", *, seed: int = 1, target_mhz: float = 150.0, timeout_s: float = 3600.0
) -> PlaceResult:
    """Synthesise, place and route the circuit of a folder.

    Args:
        folder: Written by target `verilog`.
        device: Key in `DEVICES`.
        seed: Of the placer.
        target_mhz: Clock that the placer works for; a result below it is a result.
        timeout_s: Each program is stopped after so many seconds.

    Raises:
        UnknownNameError: No such device.
        ArtifactError: The folder holds no circuit.
        MissingToolError: Yosys or nextpnr is not installed.
        ToolError: A program failed (a circuit too large for the part, for example) or took too long; logs stay.
        StorageError: The result cannot be written.
    """
    if device not in DEVICES:
        raise UnknownNameError("device", device, DEVICES)
    part, interface = DEVICES[device], read_interface(folder)
    circuit = sha256_file(folder / f"{TOP}.v")
    yosys, placer, version = find_tool("yosys"), find_tool(part.tool), tool_version(part.tool)
    name = f"place-{device}-seed{seed}"
    same = {"circuit": circuit, "version": version, "seed": seed}
    old = kept_result(folder / f"{name}.json", same)
    if old is not None:
        return PlaceResult(**old)
    wrapped = 1 + sum(_bits(port) for side in ("inputs", "outputs") for port in interface[side]) > part.pins
    sources, top = [f"{TOP}.v"], TOP
    if wrapped:
        sources, top = [*sources, "pins.v"], "pins"
        atomic_write_text(folder / "pins.v", _shift_registers(interface))
    started = time.monotonic()
    script = f"{synthesis_script(folder, part.family, sources, top)}; write_json {name}.netlist.json"
    run_tool(
        [yosys, "-Q", "-T", "-q", "-p", script], folder=folder, log=folder / f"{name}.yosys.log", timeout_s=timeout_s
    )
    options = ["--json", f"{name}.netlist.json", "--freq", f"{target_mhz:g}", "--seed", str(seed)]
    options += ["--timing-allow-fail", "--report", f"{name}.report", *part.options]
    run_tool([placer, *options], folder=folder, log=folder / f"{name}.log", timeout_s=timeout_s)
    report = _report(folder / f"{name}.report")
    fmax = min(float(clock["achieved"]) for clock in report["fmax"].values())
    cycles = int(interface["latency_cycles"])
    cells = report["utilization"].items()
    result = PlaceResult(
        device=device,
        fmax_mhz=round(fmax, 2),
        latency_cycles=cycles,
        latency_ns=round(1000.0 * cycles / fmax, 1),
        seed=seed,
        used={cell: int(n["used"]) for cell, n in cells if n["used"]},
        available={cell: int(n["available"]) for cell, n in cells if n["used"]},
        wrapped=wrapped,
        tool=part.tool,
        version=version,
        seconds=round(time.monotonic() - started, 2),
        circuit=circuit,
    )
    atomic_write_text(folder / f"{name}.json", json.dumps(result.to_json(), indent=2) + "\n")
    return result


def _bits(port: Mapping[str, Any]) -> int:
    count = 1
    for size in port["shape"]:
        count *= int(size)
    return count * int(port["bits"])


def _shift_registers(interface: Mapping[str, Any]) -> str:
    """Return a module with five pins: bits are shifted in, and out after ``load``."""
    n_in, n_out = (sum(_bits(port) for port in interface[side]) for side in ("inputs", "outputs"))
    lines, ports = [], [".clk(clk)"]
    for side, register in (("inputs", "given"), ("outputs", "made")):
        start = 0
        for port in interface[side]:
            ports.append(f".{port['port']}({register}[{start + _bits(port) - 1}:{start}])")
            start += _bits(port)
    lines.append(f"    {TOP} network_of_pins ({', '.join(ports)});")
    body = "\n".join(lines)
    return f"""// Shift registers in place of pins, for a package with too few of them.
module pins (input wire clk, input wire in_bit, input wire load, output wire out_bit);
    reg [{n_in - 1}:0] given;
    reg [{n_out - 1}:0] kept;
    wire [{n_out - 1}:0] made;
    assign out_bit = kept[0];
    always @(posedge clk) begin
        given <= {{in_bit, given[{n_in - 1}:1]}};
        kept <= load ? made : {{1'b0, kept[{n_out - 1}:1]}};
    end
{body}
endmodule
"""


def _report(file: Path) -> dict[str, Any]:
    """Return nextpnr's report.

    Raises:
        ToolError: It does not hold what it should.
    """
    try:
        report = json.loads(read_bytes(file))
    except (ArtifactError, ValueError) as error:
        raise ToolError(f"nextpnr left no usable report in {file}: {error}.") from error
    if not isinstance(report, dict) or not report.get("fmax") or "utilization" not in report:
        raise ToolError(f"nextpnr's report {file} holds no clock. See its log beside it.")
    return report
