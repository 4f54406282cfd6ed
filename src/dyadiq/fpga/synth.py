"""Synthesis of a written circuit by Yosys: LUTs, flip-flops, carries, DSPs; gate equivalents for a chip.

Used by `hardware` and the benchmarks. Reads a folder that target `verilog` wrote; results are kept in it, with the
log, and used again while the circuit and the settings are the same. Placing is `place`.

How to add a family: one line in `FAMILIES`. Adders are mapped first, one by one, by the rule of `adders`. LUTs with
more inputs than a LUT has, which are several LUTs and multiplexers, are not made (up to 6 % of the LUTs).

Counts are those of technology mapping, kind ``synthesised``: no placement, no timing. ``lut`` is LUT1 to LUT6 (LUT4 on
ECP5 and iCE40; a CCU2C of ECP5 holds two more); inverters that Yosys leaves are counted apart, a vendor's tool takes
them into the LUTs and flip-flops nearby.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from dyadiq.core.errors import ArtifactError, ToolError, UnknownNameError
from dyadiq.core.storage import atomic_write_text, read_bytes, sha256_file
from dyadiq.fpga.adders import adder_rule
from dyadiq.fpga.interface import read_interface
from dyadiq.fpga.tools import find_tool, run_tool, tool_version
from dyadiq.fpga.verilog import TOP

__all__ = [
    "FAMILIES",
    "SynthResult",
    "count_cells",
    "default_depth",
    "kept_result",
    "netlist_file",
    "read_cells",
    "synthesis_script",
    "synthesize",
]

FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "xcup": "synth_xilinx -family xcup -flatten -nodsp -noiopad -nowidelut",
        "xc7": "synth_xilinx -family xc7 -flatten -nodsp -noiopad -nowidelut",
        "ecp5": "synth_ecp5 -nodsp -nowidelut",
        "ice40": "synth_ice40",
        "asic": "synth -flatten; dfflegalize -cell $_DFF_P_ x; abc -g AND,NAND,OR,NOR,XOR,XNOR,MUX; opt_clean",
    }
)
# Adders between registers that suit a family. On iCE40 a jets network with 80 % of its weights zero reaches 125 MHz in
# 6,161 cells of an HX8K with 2 and 98 MHz in 5,913 with 3 (12 and 9 cycles); with 1 that network does not fit.
_DEPTHS = MappingProxyType({"ice40": 2, "ecp5": 3})
_DEPTH = 4
_PLACED = ("ice40", "ecp5")  # families whose netlists are written for `place`
_PREPARE = "hierarchy -top {top}; proc; flatten; opt -full; wreduce; opt_clean; techmap -map {adders}; opt_clean; "
_ADDERS = "adders.techmap.v"
# Transistors of a static CMOS gate as Yosys counts them (stat -tech cmos); a two-input NAND, 4, is one gate equivalent.
_TRANSISTORS = {
    "NOT": 2,
    "NAND": 4,
    "NOR": 4,
    "AND": 6,
    "OR": 6,
    "XOR": 12,
    "XNOR": 12,
    "MUX": 12,
    "DFF_P": 16,
}

# LUTs of cells that hold shift registers and small memories, on Xilinx parts and ECP5.
_MEMORY_LUTS = {
    "SRL16E": 1,
    "SRLC32E": 1,
    "RAM32X1D": 2,
    "RAM64X1D": 2,
    "RAM128X1D": 4,
    "RAM32M": 4,
    "RAM64M": 4,
    "RAM32M16": 8,
    "RAM64M8": 8,
    "TRELLIS_DPR16X4": 6,
}


@dataclass(frozen=True)
class SynthResult:
    """What a synthesis counted.

    Attributes:
        family: Key in `FAMILIES`.
        lut: Look-up tables.
        ff: Flip-flops.
        carry: Carry cells as the family has them (CARRY4, CCU2C, SB_CARRY).
        dsp: Multiplier blocks: none are used.
        mux: Wide multiplexers beside the LUTs; none on Xilinx parts.
        inverter: Inverters that mapping left.
        gate_equivalents: Area in two-input NAND gates; ``asic`` only.
        latency_cycles: From the folder's interface.
        tool: Name of the program.
        version: Its version.
        seconds: What it took.
        circuit: SHA-256 of the Verilog file.
        script: The commands it was given.
        kind: How the numbers were obtained.
        cells: Every cell by type.
    """

    family: str
    lut: int
    ff: int
    carry: int
    dsp: int
    mux: int
    inverter: int
    gate_equivalents: float | None
    latency_cycles: int
    tool: str
    version: str
    seconds: float
    circuit: str
    script: str
    kind: Literal["synthesised"] = "synthesised"
    cells: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def synthesize(folder: Path, family: str = "xcup", *, timeout_s: float = 3600.0, fresh: bool = False) -> SynthResult:
    """Synthesise the circuit of a folder for a family.

    Args:
        folder: Written by target `verilog`.
        family: Key in `FAMILIES`.
        timeout_s: Yosys is stopped after so many seconds.
        fresh: Synthesise even if the folder holds a result of this very circuit.

    Raises:
        UnknownNameError: No such family.
        ArtifactError: The folder holds no circuit.
        MissingToolError: Yosys is not installed.
        ToolError: Yosys failed or took too long; its log stays in the folder.
        StorageError: The result cannot be written.
    """
    if family not in FAMILIES:
        raise UnknownNameError("family", family, FAMILIES)
    interface = read_interface(folder)
    circuit = sha256_file(folder / f"{TOP}.v")
    name = f"synth-{family}"
    file = folder / f"{name}.json"
    yosys = find_tool("yosys")
    version = tool_version("yosys")
    script = synthesis_script(folder, family)
    old = None if fresh else kept_result(file, {"circuit": circuit, "version": version, "script": script})
    netlist = f"write_json {netlist_file(family)}; " if family in _PLACED else ""
    if old is not None and (not netlist or (folder / netlist_file(family)).is_file()):
        return SynthResult(**old)
    file.unlink(missing_ok=True)  # an unfinished netlist must not pass for a finished one
    started = time.monotonic()
    run_tool(
        [yosys, "-Q", "-T", "-q", "-p", f"{script}; {netlist}tee -q -o {name}.stat stat -json"],
        folder=folder,
        log=folder / f"{name}.log",
        timeout_s=timeout_s,
    )
    seconds = time.monotonic() - started
    cells = read_cells(folder / f"{name}.stat")
    counts = count_cells(cells)
    result = SynthResult(
        family=family,
        lut=counts["lut"],
        ff=counts["ff"],
        carry=counts["carry"],
        dsp=counts["dsp"],
        mux=_count(cells, "MUXF7", "MUXF8", "MUXF9", "PFUMX", "L6MUX21"),
        inverter=_count(cells, "INV"),
        gate_equivalents=_gate_equivalents(cells) if family == "asic" else None,
        latency_cycles=int(interface["latency_cycles"]),
        tool="yosys",
        version=version,
        seconds=round(seconds, 2),
        circuit=circuit,
        script=script,
        cells=cells,
    )
    atomic_write_text(file, json.dumps(result.to_json(), indent=2) + "\n")
    return result


def netlist_file(family: str) -> str:
    """Return the name of the file, beside the circuit, in which `synthesize` leaves the netlist for `place`."""
    return f"synth-{family}.netlist.json"


def default_depth(family: str) -> int:
    """Return how many adders between registers suit a family.

    Example:
        >>> default_depth("ice40"), default_depth("xcup")
        (2, 4)
    """
    return _DEPTHS.get(family, _DEPTH)


def synthesis_script(folder: Path, family: str, sources: Sequence[str] = (f"{TOP}.v",), top: str = TOP) -> str:
    """Return the Yosys commands that read and map a circuit; puts the rule for adders into the folder.

    Raises:
        StorageError: It cannot be written.
    """
    first, _, rest = FAMILIES[family].partition(";")
    prepare = "" if family == "asic" else _PREPARE.format(top=top, adders=_ADDERS)
    atomic_write_text(folder / _ADDERS, adder_rule(family))
    return f"read_verilog {' '.join(sources)}; {prepare}{first} -top {top};{rest}".rstrip(";")


def kept_result(file: Path, same: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a stored result whose fields are the same, or None."""
    try:
        old = json.loads(read_bytes(file))
    except (ArtifactError, ValueError):
        return None
    if not isinstance(old, dict) or any(old.get(key) != value for key, value in same.items()):
        return None
    return old


def read_cells(file: Path) -> dict[str, int]:
    """Return the cells by type from the file that Yosys' ``stat -json`` wrote.

    Raises:
        ToolError: The file does not hold what it should.
    """
    try:
        return dict(json.loads(read_bytes(file))["design"]["num_cells_by_type"])
    except (ArtifactError, ValueError, KeyError, TypeError) as error:
        raise ToolError(f"yosys left no usable statistics in {file}: {error}.") from error


def count_cells(cells: Mapping[str, int]) -> dict[str, int]:
    """Return LUTs, those used as memory included, flip-flops, carry cells and multiplier blocks of any family.

    Example:
        >>> count_cells({"SB_LUT4": 3, "SB_DFF": 2, "SB_DFFE": 1}), count_cells({"LUT2": 5, "SRL16E": 2, "RAM32M": 1})
        ({'lut': 3, 'ff': 3, 'carry': 0, 'dsp': 0}, {'lut': 11, 'ff': 0, 'carry': 0, 'dsp': 0})
    """
    flip_flops = ("FD", "SB_DFF", "TRELLIS_FF", "$_DFF", "$_SDFF")
    return {
        "lut": _count(cells, "LUT1", "LUT2", "LUT3", "LUT4", "LUT5", "LUT6", "SB_LUT4")
        + sum(cells.get(cell, 0) * luts for cell, luts in _MEMORY_LUTS.items()),
        "ff": sum(n for cell, n in cells.items() if cell.startswith(flip_flops)),
        "carry": _count(cells, "CARRY4", "CARRY8", "CCU2C", "SB_CARRY"),
        "dsp": _count(cells, "DSP48E1", "DSP48E2", "MULT18X18D", "SB_MAC16"),
    }


def _count(cells: Mapping[str, int], *names: str) -> int:
    return sum(cells.get(name, 0) for name in names)


def _gate_equivalents(cells: Mapping[str, int]) -> float:
    """Return transistors / 4.

    Raises:
        ToolError: A cell is none of the gates that were asked for.
    """
    total = 0
    for cell, count in cells.items():
        gate = cell.removeprefix("$_").removesuffix("_")
        if gate not in _TRANSISTORS:
            raise ToolError(f"yosys mapped to a cell {cell!r}, whose area is not known.")
        total += _TRANSISTORS[gate] * count
    return total / 4
