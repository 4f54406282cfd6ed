"""Simulation of a written circuit by Icarus Verilog or Verilator, and the vector files that the bench reads.

Used by target `verilog`. A vector file has one line of hexadecimal digits per sample: all ports side by side, the first
port and its first element lowest, each element in two's complement (one bit for bipolar codes, set for +1).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ToolError, UnknownNameError
from dyadiq.core.qtype import QType
from dyadiq.core.storage import atomic_write_text
from dyadiq.fpga.tools import find_tool, run_tool
from dyadiq.fpga.verilog import TOP, VerilogPort

__all__ = ["bench_text", "pack_vectors", "simulate", "unpack_vectors"]

SIMULATORS = ("iverilog", "verilator")


def pack_vectors(arrays: Sequence[NDArray[np.int64]], qtypes: Sequence[QType]) -> str:
    """Return the lines of a vector file from codes ``[N, ...]`` of every port.

    Example:
        >>> pack_vectors([np.array([[-1, 2], [3, -8]])], [QType(4, signed=True)]).split()
        ['2f', '83']
    """
    columns = []
    for array, qtype in zip(arrays, qtypes, strict=True):
        codes = array.reshape(len(array), -1).astype(np.int64)
        codes = (codes + 1) // 2 if qtype.bipolar else codes
        bits = (codes[:, :, None] >> np.arange(qtype.bits)) & 1
        columns.append(bits.reshape(len(codes), -1).astype(np.uint8))
    packed = np.packbits(np.concatenate(columns, axis=1), axis=1, bitorder="little")[:, ::-1]
    return "".join(row.tobytes().hex() + "\n" for row in packed)


def unpack_vectors(text: str, counts: Sequence[int], qtypes: Sequence[QType]) -> list[NDArray[np.int64]]:
    r"""Return codes ``[N, count]`` of every port from the lines of a vector file.

    Raises:
        ToolError: A line is no number: the circuit put out unknown bits.

    Example:
        >>> [a.tolist() for a in unpack_vectors("2f\n83\n", [2], [QType(4, signed=True)])]
        [[[-1, 2], [3, -8]]]
    """
    total = sum(count * qtype.bits for count, qtype in zip(counts, qtypes, strict=True))
    n_bytes = -(-total // 8)
    try:
        rows = [bytes.fromhex(line.zfill(2 * n_bytes)) for line in text.split()]
    except ValueError as error:
        raise ToolError("the simulated circuit put out unknown bits (x). This is a fault of the target.") from error
    table = np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(rows), n_bytes)[:, ::-1]
    bits = np.unpackbits(table, axis=1, bitorder="little").astype(np.int64)
    arrays, start = [], 0
    for count, qtype in zip(counts, qtypes, strict=True):
        block = bits[:, start : start + count * qtype.bits].reshape(len(rows), count, qtype.bits)
        start += count * qtype.bits
        weights = np.int64(1) << np.arange(qtype.bits, dtype=np.int64)
        if qtype.signed and not qtype.bipolar:
            weights[-1] = -weights[-1]
        codes = block @ weights
        arrays.append(2 * codes - 1 if qtype.bipolar else codes)
    return arrays


def simulate(folder: Path, vectors: str, *, simulator: str = "iverilog", timeout_s: float = 3600.0) -> str:
    """Run the test bench of a folder on input vectors and return the output vectors.

    Args:
        folder: Written by target `verilog`.
        vectors: From `pack_vectors`.
        simulator: ``iverilog`` starts at once; ``verilator`` compiles for half a minute and then does a hundred
            thousand vectors in seconds.
        timeout_s: A program is stopped after so many seconds.

    Raises:
        UnknownNameError: No such simulator.
        MissingToolError: The simulator is not installed.
        ToolError: It failed or took too long.
        StorageError: The temporary files cannot be written.
    """
    if simulator not in SIMULATORS:
        raise UnknownNameError("simulator", simulator, SIMULATORS)
    sources = [str((folder / name).resolve()) for name in (f"{TOP}.v", "testbench.v")]
    if simulator == "iverilog":
        build = [find_tool("iverilog"), "-g2005", "-Wall", "-o", "bench.vvp", *sources]
        run = [find_tool("vvp"), "bench.vvp"]
    else:
        options = ["--binary", "--timing", "-Wno-fatal", "-Wno-lint", "-Wno-style", "--top-module", "testbench"]
        build = [find_tool("verilator"), *options, "--Mdir", "built", "-o", "bench", *sources]
        run = ["./built/bench"]
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        atomic_write_text(work / "in.hex", vectors)
        run_tool(build, folder=work, timeout_s=timeout_s)
        run_tool([*run, "+inputs=in.hex", "+write=out.hex"], folder=work, timeout_s=timeout_s)
        return (work / "out.hex").read_text("ascii")


def bench_text(inputs: Sequence[VerilogPort], outputs: Sequence[VerilogPort], latency_cycles: int) -> str:
    """Return a bench that feeds one vector per clock, compares every output, and says PASS or FAIL."""
    bits_in, bits_out = (sum(p.bits * p.count for p in ports) for ports in (inputs, outputs))
    wires = [f"    reg [{p.bits * p.count - 1}:0] {p.name};" for p in inputs]
    wires += [f"    wire [{p.bits * p.count - 1}:0] {p.name};" for p in outputs]
    ports = ", ".join(f".{p.name}({p.name})" for p in (*inputs, *outputs))
    feed, seen = (", ".join(p.name for p in reversed(side)) for side in (inputs, outputs))
    return f"""// Feeds vectors_in.hex, one vector per clock, and compares with vectors_out.hex.
// Plusargs: +inputs=FILE, +expected=FILE, and +write=FILE to write the outputs instead of comparing them.
`timescale 1ns / 1ps
module testbench;
    localparam LATENCY = {latency_cycles};
    reg clk = 0;
{chr(10).join(wires)}
    reg [{bits_in - 1}:0] vector;
    reg [{bits_out - 1}:0] expected;
    wire [{bits_out - 1}:0] got = {{{seen}}};
    reg [8191:0] name;
    integer source, answers, sink, cycle, sent, seen, wrong, more, found;

    {TOP} dut (.clk(clk), {ports});

    initial begin
        if (!$value$plusargs("inputs=%s", name)) name = "vectors_in.hex";
        source = $fopen(name, "r");
        sink = 0;
        answers = 0;
        if ($value$plusargs("write=%s", name)) sink = $fopen(name, "w");
        else begin
            if (!$value$plusargs("expected=%s", name)) name = "vectors_out.hex";
            answers = $fopen(name, "r");
        end
        if (source == 0 || (sink == 0 && answers == 0)) begin
            $display("FAIL: a vector file cannot be opened");
            $finish(1);
        end
        cycle = 0;
        sent = 0;
        seen = 0;
        wrong = 0;
        more = 1;
        while (more || seen < sent) begin
            if (more) begin
                found = $fscanf(source, "%h", vector);
                more = found == 1;
                if (more) begin
                    {{{feed}}} = vector;
                    sent = sent + 1;
                end
            end
            #5 clk = 1;
            #1 cycle = cycle + 1;
            if (cycle >= LATENCY && seen < sent) begin
                if (sink != 0) $fdisplay(sink, "%h", got);
                else begin
                    found = $fscanf(answers, "%h", expected);
                    if (found != 1 || got !== expected) begin
                        wrong = wrong + 1;
                        if (wrong <= 10) $display("vector %0d: got %h, expected %h", seen, got, expected);
                    end
                end
                seen = seen + 1;
            end
            #4 clk = 0;
        end
        if (sink != 0) $fclose(sink);
        if (wrong == 0 && seen > 0) $display("PASS: %0d vectors, latency %0d cycles", seen, LATENCY);
        else $display("FAIL: %0d of %0d vectors differ", wrong, seen);
        $finish;
    end
endmodule
"""
