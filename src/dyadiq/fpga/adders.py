"""How an adder becomes carry cells: the rule that Yosys maps `$add` and `$sub` with, by family.

Used by `synth` and `place`. Every adder is mapped by itself: left alone, Yosys joins sums into carry-save trees, which
cost two LUTs per bit where a carry chain costs one (8 % on the jets network).

On ECP5 the chain is made here, not by Yosys: a constant carry into Yosys' chain and a carry out that nobody reads make
nextpnr put a cell of two LUTs at either end (4,072 of 15,409 LUTs of a pruned jets network; made here, 11,471 in all).
Half a cell of the chain gives the first carry instead, for it does not depend on what comes in: in chains of even
length that of bit 0, whose sum is then a LUT beside the chain; in chains of odd length, which have half a cell to
spare, the constant itself. What is open at the ends nextpnr must be told with ``x``, which Yosys does not write:
`open_ends`.
``CCU2C`` is that of Yosys' ``ecp5/cells_sim.v``: sum ``l4 ^ cin``, carry ``l4 ? cin : l2``, with ``l4 = INIT[15:12]``
and ``l2 = INIT[3:0]`` at ``{b, a}`` where the other two inputs are one.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from dyadiq.core.errors import ArtifactError, ToolError
from dyadiq.core.storage import atomic_write_text, read_bytes

__all__ = ["adder_rule", "open_ends"]

_HEAD = """(* techmap_celltype = "${kind}" *)
module dyadiq_{kind} (A, B, Y);
    parameter A_SIGNED = 0;
    parameter B_SIGNED = 0;
    parameter A_WIDTH = 1;
    parameter B_WIDTH = 1;
    parameter Y_WIDTH = 1;
    input [A_WIDTH-1:0] A;
    input [B_WIDTH-1:0] B;
    output [Y_WIDTH-1:0] Y;
"""
_ALU = """
    wire [Y_WIDTH-1:0] X, CO;
    \\$alu #(
        .A_SIGNED(A_SIGNED), .B_SIGNED(B_SIGNED), .A_WIDTH(A_WIDTH), .B_WIDTH(B_WIDTH), .Y_WIDTH(Y_WIDTH)
    ) alu (.A(A), .B(B), .CI(1'b{invert}), .BI(1'b{invert}), .X(X), .Y(Y), .CO(CO));
"""
# SPARE is 1 where the constant carry has the first half. Half h of cell i holds bit 2 * i + h - SPARE. Adders of four
# bits and fewer are LUTs, as Yosys has it.
_CCU2C = """
    localparam SPARE = Y_WIDTH % 2;
    localparam CELLS = (Y_WIDTH + SPARE) / 2;
    wire [Y_WIDTH-1:0] AA, BB;
    \\$pos #(.A_SIGNED(A_SIGNED), .A_WIDTH(A_WIDTH), .Y_WIDTH(Y_WIDTH)) extend_a (.A(A), .Y(AA));
    \\$pos #(.A_SIGNED(B_SIGNED), .A_WIDTH(B_WIDTH), .Y_WIDTH(Y_WIDTH)) extend_b (.A(B), .Y(BB));
    wire [CELLS-1:0] C;
    genvar i;
    generate if (Y_WIDTH <= 4) begin:short{alu}    end else begin:long
        for (i = 0; i < CELLS; i = i + 1) begin:cell_
            if (i == 0 && SPARE) begin:first
                CCU2C #(.INIT0(16'h000{constant}), .INIT1(16'h{add}), .INJECT1_0("NO"), .INJECT1_1("NO"))
                    ccu2c (.A0(1'b1), .B0(1'b1), .A1(AA[0]), .B1(BB[0]), .S1(Y[0]), .COUT(C[0]), {ones});
            end else if (i == 0) begin:first
                assign Y[0] = AA[0] ^ BB[0];
                CCU2C #(.INIT0(16'h000{carry}), .INIT1(16'h{add}), .INJECT1_0("NO"), .INJECT1_1("NO"))
                    ccu2c (.A0(AA[0]), .B0(BB[0]), .A1(AA[1]), .B1(BB[1]), .S1(Y[1]), .COUT(C[0]), {ones});
            end else if (i == CELLS - 1) begin:last
                CCU2C #(.INIT0(16'h{add}), .INIT1(16'h{add}), .INJECT1_0("NO"), .INJECT1_1("NO"))
                    ccu2c (.A0(AA[2*i-SPARE]), .B0(BB[2*i-SPARE]), .A1(AA[2*i+1-SPARE]), .B1(BB[2*i+1-SPARE]),
                        .CIN(C[i-1]), .S0(Y[2*i-SPARE]), .S1(Y[2*i+1-SPARE]), {ones});
            end else begin:middle
                CCU2C #(.INIT0(16'h{add}), .INIT1(16'h{add}), .INJECT1_0("NO"), .INJECT1_1("NO"))
                    ccu2c (.A0(AA[2*i-SPARE]), .B0(BB[2*i-SPARE]), .A1(AA[2*i+1-SPARE]), .B1(BB[2*i+1-SPARE]),
                        .CIN(C[i-1]), .S0(Y[2*i-SPARE]), .S1(Y[2*i+1-SPARE]), .COUT(C[i]), {ones});
            end
        end
    end endgenerate
"""
_ONES = ".C0(1'b1), .D0(1'b1), .C1(1'b1), .D1(1'b1)"
# By kind: whether the second term is inverted (and one added), the constant carry, the carry of bit 0, sum and carry.
_KINDS = {
    "add": {"invert": 0, "constant": "0", "carry": "8", "add": "600A"},
    "sub": {"invert": 1, "constant": "F", "carry": "B", "add": "900A"},
}


def adder_rule(family: str) -> str:
    """Return the Verilog text of the rule for a family of `synth.FAMILIES`.

    Example:
        >>> "CCU2C" in adder_rule("ecp5"), "CCU2C" in adder_rule("ice40")
        (True, False)
    """
    return "".join(_module(family, kind) for kind in _KINDS)


def open_ends(file: Path) -> int:
    """Mark the carries of an ECP5 netlist that nothing drives or reads as open; a second time changes nothing.

    Args:
        file: Of Yosys' ``write_json``; written again.

    Returns:
        How many ends were marked.

    Raises:
        ToolError: The file holds no netlist.
        StorageError: It cannot be written.
    """
    try:
        netlist = json.loads(read_bytes(file))
        changed = sum(_open_ends(module) for module in netlist["modules"].values())
    except (ArtifactError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ToolError(f"yosys left no usable netlist in {file}: {error}.") from error
    if changed:
        atomic_write_text(file, json.dumps(netlist))
    return changed


def _open_ends(module: dict[str, Any]) -> int:
    cells, uses = list(module.get("cells", {}).values()), Counter[object]()
    for port in module.get("ports", {}).values():
        uses.update(port["bits"])
    for cell in cells:
        for bits in cell["connections"].values():
            uses.update(bits)
    changed = 0
    for cell in cells:
        if cell["type"] != "CCU2C":
            continue
        for port, direction in (("CIN", "input"), ("COUT", "output")):
            bits = cell["connections"].get(port, [])
            if not bits or (bits != ["x"] and direction == "output" and uses[bits[0]] == 1):
                cell["connections"][port] = ["x"]
                cell["port_directions"][port] = direction
                changed += 1
    return changed


def _module(family: str, kind: str) -> str:
    facts = _KINDS[kind] | {"kind": kind}
    alu = _ALU.format(**facts)
    body = _CCU2C.format(alu=alu, ones=_ONES, **facts) if family == "ecp5" else alu
    return _HEAD.format(**facts) + body + "endmodule\n"
