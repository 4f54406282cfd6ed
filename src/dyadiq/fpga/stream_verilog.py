"""Verilog-2001 text of a `stream_parts.Pipeline`: a module per stage, and the module that joins them; and its bench.

Used by target `verilog_stream`. Pure text: writes no file and runs nothing.

A cycle is a clock edge with ``in_valid`` high: nothing moves otherwise. ``rst`` goes back to cycle 0, the first
position of a frame. Control is a counter of cycles modulo the period, and one flip-flop per flag, set from a table
one cycle ahead.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from dyadiq.fpga.stream_parts import Pipeline, Queue, Stage, Stream, Window
from dyadiq.fpga.verilog import TOP, VerilogPort, module_text, verilog_ports

__all__ = ["stream_bench_text", "stream_ports", "stream_text"]


def stream_ports(pipeline: Pipeline) -> tuple[VerilogPort, tuple[VerilogPort, ...]]:
    """Return the ports of the input and of the outputs: one position each."""
    source = pipeline.source
    outputs = (pipeline.streams[name] for name in pipeline.outputs)
    given = VerilogPort("in_data", source.tensor, source.qtype.bits, source.elements)
    made = (VerilogPort(f"out_{k}", s.tensor, s.qtype.bits, s.elements) for k, s in enumerate(outputs))
    return given, tuple(made)


def stream_text(pipeline: Pipeline, head: str = "") -> str:
    """Return all modules, ``network`` last.

    Args:
        pipeline: What it computes.
        head: Comment lines at the top, without slashes.
    """
    modules = [
        module_text(stage.circuit, stage.plan, name=f"stage_{k}", enable="enable")
        for k, stage in enumerate(pipeline.stages)
    ]
    comment = "".join(f"// {line}".rstrip() + "\n" for line in head.splitlines())
    return comment + "\n".join([*modules, _Top(pipeline).text()])


class _Top:
    """Prints the module ``network``."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._p = pipeline
        self._flags: dict[int, str] = {}  # table over the period to the name of its flag
        self._flag_lines: list[str] = []
        self._wires = {pipeline.source.tensor: "source"}

    def text(self) -> str:
        """Return the module."""
        p = self._p
        given, made = stream_ports(p)
        body: list[str] = []
        for k, stage in enumerate(p.stages):
            body += self._stage(k, stage)
        for k, name in enumerate(p.outputs):
            stream = p.streams[name]
            ready = f"(age >= {stream.times[0]})"
            body += ["", f"assign out_{k} = {self._wires[name]};"]
            body.append(f"assign out_{k}_valid = in_valid & {self._flag(stream.times)} & {ready};")
        ports = ["input wire clk", "input wire rst", "input wire in_valid"]
        ports += [f"input wire [{given.bits * given.count - 1}:0] {given.name}"]
        for port in made:
            ports += [f"output wire [{port.bits * port.count - 1}:0] {port.name}", f"output wire {port.name}_valid"]
        last = p.period - 1
        oldest = max(p.streams[name].times[0] for name in p.outputs)
        lines = [f"module {TOP} (", ",\n".join(f"    {port}" for port in ports), ");", ""]
        lines += [
            f"reg [{_bits(last) - 1}:0] phase;  // cycle modulo the period",
            "always @(posedge clk)",
            "    if (rst) phase <= 0;",
            f"    else if (in_valid) phase <= (phase == {last}) ? 0 : phase + 1'b1;",
            f"reg [{_bits(oldest) - 1}:0] age;  // cycles until the first output, then constant",
            "always @(posedge clk)",
            "    if (rst) age <= 0;",
            f"    else if (in_valid && age != {oldest}) age <= age + 1'b1;",
            f"reg [{p.source.bits - 1}:0] source;",
            f"always @(posedge clk) if (in_valid) source <= {given.name};",
        ]
        return "\n".join([*lines, *self._flag_lines, *body, "", "endmodule", ""])

    def _flag(self, times: Iterable[int]) -> str:
        """Return a signal that is high in these cycles, modulo the period; one per table."""
        period = self._p.period
        table = sum(1 << t for t in {t % period for t in times})
        if table == (1 << period) - 1 or table == 0:
            return f"1'b{int(table > 0)}"
        if table not in self._flags:
            name = self._flags[table] = f"flag_{len(self._flags)}"
            ahead = (table >> 1) | ((table & 1) << (period - 1))
            self._flag_lines += [
                f"localparam [{period - 1}:0] {name.upper()} = {period}'h{ahead:x};  // bit c: high in cycle c + 1",
                f"reg {name};",
                "always @(posedge clk)",
                f"    if (rst) {name} <= 1'b{table & 1};",
                f"    else if (in_valid) {name} <= {name.upper()}[phase];",
            ]
        return self._flags[table]

    def _stage(self, k: int, stage: Stage) -> list[str]:
        lines = ["", f"// stage {k}: {', '.join(port.tensor for port in stage.circuit.outputs)}"]
        inputs, outputs = verilog_ports(stage.circuit)
        ends = [".clk(clk)", ".enable(in_valid)"]
        for i, (read, port) in enumerate(zip(stage.reads, inputs, strict=True)):
            stream, name = self._p.streams[read.tensor], f"read_{k}_{i}"
            if isinstance(read, Window):
                lines += self._window(name, read, stream, stage.times)
            else:
                lines += self._queue(name, read, stream, stage.times)
            ends.append(f".{port.name}({name})")
        for i, port in enumerate(outputs):
            name = self._wires[port.tensor] = f"made_{k}_{i}"
            lines.append(f"wire [{port.bits * port.count - 1}:0] {name};")
            ends.append(f".{port.name}({name})")
        return [*lines, f"stage_{k} logic_{k} ({', '.join(ends)});"]

    def _window(self, name: str, read: Window, stream: Stream, times: tuple[int, ...]) -> list[str]:
        """Return the shift register of a window, its taps, and the vector of all of them as the stage wants it."""
        now, top = self._wires[read.tensor], stream.bits - 1
        back = [now, *(f"{name}_back{d}" for d in range(1, read.depth + 1))]
        lines = [f"reg [{top}:0] {reg};" for reg in back[1:]]
        if read.depth:
            lines.append(f"always @(posedge clk) if (in_valid & {self._flag(stream.times)}) begin")
            lines += [f"    {new} <= {old};" for old, new in pairwise(back)]
            lines.append("end")
        code = int(read.pad > 0) if stream.qtype.bipolar else read.pad % (1 << stream.qtype.bits)
        pad = f"{{{stream.elements}{{{stream.qtype.bits}'d{code}}}}}"
        taps = []
        for i, (offsets, row) in enumerate(zip(read.offsets, read.rows_inside, strict=True)):
            for j, (offset, column) in enumerate(zip(offsets, read.columns_inside, strict=True)):
                tap = f"{name}_tap{i}_{j}"
                row_flag, column_flag = (
                    self._flag(t for t, ok in zip(times, side, strict=True) if ok) if not all(side) else ""
                    for side in (row, column)
                )
                inside = " & ".join(flag for flag in (row_flag, column_flag) if flag)
                value = f"({inside}) ? {back[offset]} : {pad}" if inside else back[offset]
                lines.append(f"wire [{top}:0] {tap} = {value};")
                taps.append(tap)
        bits = stream.qtype.bits
        parts = [f"{tap}[{c * bits} +: {bits}]" for c in range(stream.elements) for tap in taps]
        vector = ", ".join(reversed(parts))
        return [*lines, f"wire [{len(parts) * bits - 1}:0] {name} = {{{vector}}};"]

    def _queue(self, name: str, read: Queue, stream: Stream, times: tuple[int, ...]) -> list[str]:
        """Return a queue: a memory that is written when the stream comes and read when the stage does."""
        now, top = self._wires[read.tensor], stream.bits - 1
        if read.depth == 0:
            return [f"wire [{top}:0] {name} = {now};"]
        come = f"in_valid & {self._flag(stream.times)}"
        if read.depth == 1:
            return [f"reg [{top}:0] {name};", f"always @(posedge clk) if ({come}) {name} <= {now};"]
        last, width = read.depth - 1, _bits(read.depth - 1)
        lines = [f"reg [{top}:0] {name}_memory [0:{last}];", f"reg [{width - 1}:0] {name}_in, {name}_out;"]
        lines.append(f"always @(posedge clk) if ({come}) {name}_memory[{name}_in] <= {now};")
        for side, when, start in (("in", come, read.ahead), ("out", f"in_valid & {self._flag(times)}", 0)):
            place = f"{name}_{side}"
            lines += [
                "always @(posedge clk)",
                f"    if (rst) {place} <= {start};",
                f"    else if ({when}) {place} <= ({place} == {last}) ? 0 : {place} + 1'b1;",
            ]
        return [*lines, f"wire [{top}:0] {name} = {name}_memory[{name}_out];"]


def _bits(number: int) -> int:
    return max(1, number.bit_length())


def stream_bench_text(pipeline: Pipeline) -> str:
    """Return a bench that feeds one position per clock, compares every output, and says PASS or FAIL."""
    given, made = stream_ports(pipeline)
    wires, ends, checks = [], [], []
    for k, port in enumerate(made):
        top = port.bits * port.count - 1
        wires += [
            f"    wire [{top}:0] {port.name};",
            f"    wire {port.name}_valid;",
            f"    reg [{top}:0] expected_{k};",
        ]
        wires += [f"    integer answers_{k}, seen_{k};", f"    initial seen_{k} = 0;"]
        ends += [f".{port.name}({port.name})", f".{port.name}_valid({port.name}_valid)"]
        positions = len(pipeline.streams[port.tensor].times)
        checks.append(f"""            if ({port.name}_valid && seen_{k} < frames * {positions}) begin
                if (sink != 0) $fdisplay(sink, "{k} %h", {port.name});
                else begin
                    found = $fscanf(answers_{k}, "%h", expected_{k});
                    if (found != 1 || {port.name} !== expected_{k}) begin
                        wrong = wrong + 1;
                        if (wrong <= 10) $display("{port.name}, position %0d: got %h, expected %h", seen_{k}, {port.name}, expected_{k});
                    end
                end
                seen_{k} = seen_{k} + 1;
                left = left - 1;
            end""")  # noqa: E501  # a line of Verilog
    opened = "\n".join(f'            answers_{k} = $fopen("vectors_out_{k}.hex", "r");' for k in range(len(made)))
    missing = " || ".join(f"answers_{k} == 0" for k in range(len(made)))
    per_frame = sum(len(pipeline.streams[port.tensor].times) for port in made)
    newline = "\n"
    return f"""// Feeds vectors_in.hex, one position per clock, and compares with vectors_out_K.hex.
// Plusargs: +inputs=FILE, +write=FILE to write "K code" per output position instead of comparing, and +gaps=1 for
// clocks without a position in between.
`timescale 1ns / 1ps
module testbench;
    localparam PERIOD = {pipeline.period};
    reg clk = 0, rst = 1, in_valid = 0;
    reg [{given.bits * given.count - 1}:0] {given.name} = 0, vector;
{newline.join(wires)}
    reg [8191:0] name;
    integer source, sink, sent, frames, left, wrong, more, found, gaps, idle;

    {TOP} dut (.clk(clk), .rst(rst), .in_valid(in_valid), .{given.name}({given.name}), {", ".join(ends)});

    initial begin
        if (!$value$plusargs("inputs=%s", name)) name = "vectors_in.hex";
        if (!$value$plusargs("gaps=%d", gaps)) gaps = 0;
        source = $fopen(name, "r");
        sink = 0;
        if ($value$plusargs("write=%s", name)) sink = $fopen(name, "w");
        else begin
{opened}
            if ({missing}) source = 0;
        end
        if (source == 0) begin
            $display("FAIL: a vector file cannot be opened");
            $finish(1);
        end
        sent = 0;
        frames = 0;
        left = 0;
        wrong = 0;
        more = 1;
        idle = 0;
        #5 clk = 1;
        #5 clk = 0;
        rst = 0;
        while (more || left > 0) begin
            in_valid = gaps == 0 || ($random & 3) != 0;
            if (in_valid && more) begin
                found = $fscanf(source, "%h", vector);
                more = found == 1;
                {given.name} = more ? vector : 0;
                if (more) begin
                    if (sent % PERIOD == 0) begin
                        frames = frames + 1;
                        left = left + {per_frame};
                    end
                    sent = sent + 1;
                end
            end
            if (!more) idle = idle + 1;
            if (idle > {16 * (pipeline.latency_cycles + pipeline.period)}) begin
                $display("FAIL: %0d outputs did not come", left);
                $finish(1);
            end
            #4;
{newline.join(checks)}
            #1 clk = 1;
            #5 clk = 0;
        end
        if (sink != 0) $fclose(sink);
        if (wrong == 0 && frames > 0) $display("PASS: %0d frames of %0d cycles", frames, PERIOD);
        else $display("FAIL: %0d outputs of %0d frames differ", wrong, frames);
        $finish;
    end
endmodule
"""
