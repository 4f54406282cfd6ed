"""Placing and routing of a circuit by nextpnr: the clock it reaches on a real part.

Used by `hardware` and the benchmarks. Works in the folder of the circuit. A circuit with more pins than the package has
is wrapped in shift registers, one pin each way; their flip-flops and LUTs are in the counts, and the result says so.

Parts are in `devices`. Kind ``placed``: a static timing analysis of a placed and routed design at one seed; other seeds
differ by some per cent, so give several and state the spread.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dyadiq.core.errors import ArtifactError, ConfigError, InfeasibleError, ToolError
from dyadiq.core.storage import atomic_write_text, read_bytes, sha256_file
from dyadiq.fpga.adders import open_ends
from dyadiq.fpga.devices import DEVICES, Placer, find_device, occupied_luts
from dyadiq.fpga.interface import read_interface
from dyadiq.fpga.synth import count_cells, kept_result, netlist_file, read_cells, synthesis_script, synthesize
from dyadiq.fpga.tools import find_tool, run_tool, tool_version
from dyadiq.fpga.verilog import TOP

__all__ = ["PlaceResult", "place"]

_FULL = re.compile(r"Info:\s+(\w+):\s*(\d+)\s*/\s*(\d+)\s+\d+%")


@dataclass(frozen=True)
class PlaceResult:
    """What placing and routing reached.

    Attributes:
        device: Key in `devices.DEVICES`.
        fmax_mhz: Highest clock of the routed design.
        latency_cycles: From the folder's interface.
        latency_ns: ``latency_cycles / fmax_mhz``.
        seed: Seed of the placer.
        target_mhz: Clock that the placer worked for.
        lut: LUTs of four inputs in the netlist that was placed, carry chains apart.
        ff: Flip-flops of it.
        carry: Carry cells of it.
        dsp: Multiplier blocks: none are used.
        used: Cells of the part by type, as placed.
        available: Cells the part has, of these types.
        wrapped: Whether shift registers stand in for missing pins.
        tool: Program that placed; ``yowasp-...`` is the same program as WebAssembly.
        version: Its version.
        synthesis: Program that mapped, and its version.
        seconds: What placing took, and mapping where it was not done before.
        circuit: SHA-256 of the Verilog file.
        kind: How the numbers were obtained.
    """

    device: str
    fmax_mhz: float
    latency_cycles: int
    latency_ns: float
    seed: int
    target_mhz: float
    lut: int
    ff: int
    carry: int
    dsp: int
    used: Mapping[str, int]
    available: Mapping[str, int]
    wrapped: bool
    tool: str
    version: str
    synthesis: str
    seconds: float
    circuit: str
    kind: Literal["placed"] = "placed"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def place(
    folder: Path, device: str = "hx8k", *, seed: int = 1, target_mhz: float = 150.0, timeout_s: float = 3600.0
) -> PlaceResult:
    """Synthesise, place and route the circuit of a folder; what the folder holds of this very circuit is used again.

    Args:
        folder: Written by target `verilog`.
        device: Key in `devices.DEVICES` of a part with open timing.
        seed: Of the placer.
        target_mhz: Clock that the placer works for; a result below it is a result.
        timeout_s: Each program is stopped after so many seconds.

    Raises:
        UnknownNameError: No such device.
        ConfigError: No open tool places this device.
        ArtifactError: The folder holds no circuit.
        MissingToolError: Yosys or nextpnr is not installed.
        InfeasibleError: The circuit needs more cells than the part has.
        ToolError: A program failed or took too long; logs stay.
        StorageError: The result cannot be written.
    """
    part, interface = find_device(device), read_interface(folder)
    placer = part.placer
    if placer is None:
        raise ConfigError(
            f"{device}: no open tool places and routes this part, so its clock cannot be measured. "
            f"Place on {' or '.join(name for name, d in DEVICES.items() if d.placer)}, or only count cells."
        )
    circuit = sha256_file(folder / f"{TOP}.v")
    program, version = find_tool(placer.tool), tool_version(placer.tool)
    yosys = f"yosys {tool_version('yosys')}"
    name = f"place-{device}-seed{seed}"
    facts: dict[str, Any] = {
        "circuit": circuit,
        "tool": Path(program).name,
        "version": version,
        "seed": seed,
        "target_mhz": target_mhz,
        "synthesis": yosys,
    }
    old = kept_result(folder / f"{name}.json", facts)
    if old is not None:
        return PlaceResult(**old)
    started = time.monotonic()
    wrapped = _pins(interface) > placer.pins
    netlist, cells = _map(folder, device, part.family, wrapped, timeout_s)
    if part.family == "ecp5":
        open_ends(folder / netlist)
    options = ["--json", netlist, "--freq", f"{target_mhz:g}", "--seed", str(seed)]
    options += ["--timing-allow-fail", "--report", f"{name}.report", *placer.options]
    counts = count_cells(cells)
    if occupied_luts(counts["lut"], counts["carry"], part.family) > placer.dense_frac * part.lut:
        options += placer.dense_options
    log = folder / f"{name}.log"
    try:
        run_tool([program, *options], folder=folder, log=log, timeout_s=timeout_s)
    except ToolError as error:
        _explain_full(device, placer, log, error)
        raise
    report = _report(folder / f"{name}.report")
    fmax = min(float(clock["achieved"]) for clock in report["fmax"].values())
    cycles = int(interface["latency_cycles"])
    found = report["utilization"].items()
    result = PlaceResult(
        device=device,
        fmax_mhz=round(fmax, 2),
        latency_cycles=cycles,
        latency_ns=round(1000.0 * cycles / fmax, 1),
        seed=seed,
        target_mhz=target_mhz,
        lut=counts["lut"],
        ff=counts["ff"],
        carry=counts["carry"],
        dsp=counts["dsp"],
        used={cell: int(n["used"]) for cell, n in found if n["used"]},
        available={cell: int(n["available"]) for cell, n in found if n["used"]},
        wrapped=wrapped,
        tool=facts["tool"],
        version=version,
        synthesis=yosys,
        seconds=round(time.monotonic() - started, 2),
        circuit=circuit,
    )
    atomic_write_text(folder / f"{name}.json", json.dumps(result.to_json(), indent=2) + "\n")
    return result


def _map(folder: Path, device: str, family: str, wrap: bool, timeout_s: float) -> tuple[str, Mapping[str, int]]:
    """Return the file of the netlist that is placed, and its cells; both are used again while they are the same."""
    if not wrap:
        return netlist_file(family), synthesize(folder, family, timeout_s=timeout_s).cells
    name = f"place-{device}"
    atomic_write_text(folder / "pins.v", _shift_registers(read_interface(folder)))
    script = synthesis_script(folder, family, [f"{TOP}.v", "pins.v"], "pins")
    same = {"circuit": sha256_file(folder / f"{TOP}.v"), "version": tool_version("yosys"), "script": script}
    netlist, stamp = f"{name}.netlist.json", folder / f"{name}.mapped.json"
    if not (folder / netlist).is_file() or kept_result(stamp, same) is None:
        commands = f"{script}; write_json {netlist}; tee -q -o {name}.stat stat -json"
        log = folder / f"{name}.yosys.log"
        run_tool([find_tool("yosys"), "-Q", "-T", "-q", "-p", commands], folder=folder, log=log, timeout_s=timeout_s)
        atomic_write_text(stamp, json.dumps(same) + "\n")  # last: the netlist is whole
    return netlist, read_cells(folder / f"{name}.stat")


def _explain_full(device: str, placer: Placer, log: Path, error: ToolError) -> None:
    """Raise what the log says if the part is too small.

    Raises:
        InfeasibleError: It is.
    """
    text = log.read_text("utf-8", "replace") if log.is_file() else ""
    for cell, used, available in _FULL.findall(text):
        if int(used) > int(available):
            raise InfeasibleError(
                f"{device}: the circuit takes {int(used):,} {cell}, the part has {int(available):,}. Use fewer bits, "
                f"prune, put more adders between registers, or take a larger part. {placer.tool}'s log is {log}.",
                {cell: float(used)},
            ) from error


def _pins(interface: Mapping[str, Any]) -> int:
    return 1 + sum(_bits(port) for side in ("inputs", "outputs") for port in interface[side])


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
