"""Multiplying against dividing on an iCE40 HX8K, and what a dyadic requantizer costs instead. Prints Markdown.

Run: python benchmarks/ice40_division.py [--out benchmarks/results/ice40_division.json] [--seeds 0 1 2] [--widths 8 16]

Every circuit has registered inputs and outputs. *plain* is Verilog's own operator between two registers; *pipelined*
takes operands every clock as well, cut into stages for a short clock: a multiplier of two stages, a restoring divider
of one quotient bit a stage. Before it is synthesised, each circuit is simulated with Icarus Verilog and compared with
Python: 8-bit ones on all pairs, wider ones on the corners and random pairs; division by zero is left undefined. Cells
and clock are those of Yosys and nextpnr, placed and routed at each seed. Area x delay is logic cells times the mean
shortest period, in LC x ns.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from environment import environment

from dyadiq.fpga.tools import find_tool, run_tool, tool_version

DIVIDER_STEP = """
    // Stage {k}: one bit of the quotient, by trial subtraction.
    wire [{w}:0] trial_{k} = {{rest_{k}[{w1}:0], upper_{k}[{w1}]}};
    wire fits_{k} = trial_{k} >= {{1'b0, by_{k}}};
    wire [{w}:0] less_{k} = trial_{k} - {{1'b0, by_{k}}};
    reg [{w1}:0] rest_{n}, upper_{n}, by_{n};
    reg sign_{n};
    always @(posedge clk) begin
        rest_{n} <= fits_{k} ? less_{k}[{w1}:0] : trial_{k}[{w1}:0];
        upper_{n} <= {{upper_{k}[{w2}:0], fits_{k}}};
        by_{n} <= by_{k};
        sign_{n} <= sign_{k};
    end"""


@dataclass(frozen=True)
class Design:
    """A circuit: `what` at `bits`, how it is built, and the cycles from operands to result."""

    what: str
    bits: int
    signed: bool
    built: str
    latency: int
    out_bits: int

    @property
    def name(self):
        sign = "signed" if self.signed else "unsigned"
        return f"{self.what}{self.bits}-{sign}-{self.built}"


def designs(widths):
    made = []
    for bits in widths:
        for signed in (False, True):
            made.append(Design("multiply", bits, signed, "plain", 2, 2 * bits))
            made.append(Design("divide", bits, signed, "plain", 2, bits))
            made.append(Design("multiply", bits, signed, "pipelined", 3, 2 * bits))
            made.append(Design("divide", bits, signed, "pipelined", bits + 2 + signed, bits))
    requantize = (Design("requantize", 16, True, built, n, 8) for built, n in (("plain", 2), ("pipelined", 3)))
    return [*made, *requantize]


def verilog(design):
    """Return the module ``top (clk, a, b, y)``; `b` has no part in a requantizer."""
    bits, sign = design.bits, " signed" if design.signed else ""
    head = f"module top (input clk, input{sign} [{bits - 1}:0] a, input{sign} [{bits - 1}:0] b, "
    head += f"output reg{sign} [{design.out_bits - 1}:0] y);\n"
    head += f"    reg{sign} [{bits - 1}:0] p, q;\n    always @(posedge clk) begin p <= a; q <= b; end\n"
    if design.what == "requantize":
        body = requantizer(piped=design.built == "pipelined")
    elif design.built == "plain":
        operator = {"multiply": "p * q", "divide": "p / q"}[design.what]
        body = f"    always @(posedge clk) y <= {operator};\n"
    elif design.what == "multiply":
        body = split_product(design)
    else:
        body = divider(design)
    return head + body + "endmodule\n"


def requantizer(*, piped):
    """Return ``clip((a * 147 + 2^13) >>> 14)`` from 16 to 8 bits: an 8-bit multiplier, half up."""
    made = (
        "reg signed [24:0] product;\n    always @(posedge clk) product <=" if piped else "wire signed [24:0] product ="
    )
    return f"""    {made} p * 25'sd147 + 25'sd8192;
    wire [10:0] shifted = product[24:14];
    wire fits = &shifted[10:7] | ~|shifted[10:7];
    always @(posedge clk) y <= fits ? shifted[7:0] : {{shifted[10], {{7{{~shifted[10]}}}}}};
"""


def split_product(design):
    """Return a multiplier of two stages: the halves of one operand, then their sum."""
    bits, half = design.bits, design.bits // 2
    low = f"$signed({{1'b0, q[{half - 1}:0]}})" if design.signed else f"q[{half - 1}:0]"
    sign = " signed" if design.signed else ""
    return f"""    reg{sign} [{bits + half}:0] low;
    reg{sign} [{bits + half}:0] high;
    wire{sign} [{bits - half - 1}:0] upper = q[{bits - 1}:{half}];
    always @(posedge clk) begin
        low <= p * {low};
        high <= p * upper;
        y <= (high <<< {half}) + low;
    end
"""


def divider(design):
    """Return a restoring divider, one bit of the quotient a stage; signed operands are made positive around it."""
    w = design.bits
    lines = []
    if design.signed:
        lines.append(f"""    reg [{w - 1}:0] rest_0, upper_0, by_0;
    reg sign_0;
    always @(posedge clk) begin
        rest_0 <= 0;
        upper_0 <= p[{w - 1}] ? -p : p;
        by_0 <= q[{w - 1}] ? -q : q;
        sign_0 <= p[{w - 1}] ^ q[{w - 1}];
    end""")
    else:
        lines.append(f"    wire [{w - 1}:0] rest_0 = 0, upper_0 = p, by_0 = q;\n    wire sign_0 = 0;")
    lines += [DIVIDER_STEP.format(k=k, n=k + 1, w=w, w1=w - 1, w2=w - 2) for k in range(w)]
    result = f"sign_{w} ? -upper_{w} : upper_{w}" if design.signed else f"upper_{w}"
    return "\n".join(lines) + f"\n    always @(posedge clk) y <= {result};\n"


def answer(design, a, b):
    """Return what the circuit must give, as a code without sign."""
    if design.what == "requantize":
        return min(127, max(-128, (a * 147 + (1 << 13)) >> 14)) % 256
    if design.what == "multiply":
        return a * b % (1 << design.out_bits)
    quotient = abs(a) // abs(b)
    return (-quotient if (a < 0) != (b < 0) else quotient) % (1 << design.bits)


def operands(design, seed=0):
    """Return all pairs of 8 bits; of wider operands the corners and random pairs, half of them of mixed magnitude."""
    bits = design.bits
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if design.signed else (0, (1 << bits) - 1)
    if design.what == "requantize":
        return [(a, 0) for a in range(low, high + 1)]
    if bits == 8:
        return [(a, b) for a in range(low, high + 1) for b in range(low, high + 1) if b or design.what == "multiply"]
    rng = random.Random(seed)
    corners = [low, low + 1, -1 if design.signed else 2, 0, 1, high - 1, high]
    pairs = [(a, b) for a in corners for b in corners]
    while len(pairs) < 65_536:
        a, b = rng.randint(low, high), rng.randint(low, high)
        pairs.append((a, b >> rng.randrange(bits)))
    return [(a, b) for a, b in pairs if b or design.what == "multiply"]


def simulate(design, folder):
    """Return (pairs, mismatches) of the circuit against Python, one pair a clock."""
    pairs, mask = operands(design), (1 << design.bits) - 1
    digits = -(-design.bits // 4)
    lines = [f"{(a & mask):0{digits}x}{(b & mask):0{digits}x}" for a, b in pairs]
    (folder / "in.hex").write_text("\n".join(lines) + "\n")
    bench = f"""module bench;
    reg clk = 0;
    reg [{8 * digits - 1}:0] memory [0:{len(pairs) - 1}];
    reg [{design.bits - 1}:0] a, b;
    wire [{design.out_bits - 1}:0] y;
    integer i, sink;
    top dut (.clk(clk), .a(a), .b(b), .y(y));
    initial begin
        $readmemh("in.hex", memory);
        sink = $fopen("out.hex", "w");
        for (i = 0; i < {len(pairs) + design.latency - 1}; i = i + 1) begin
            if (i < {len(pairs)}) begin
                a = memory[i][{4 * digits} +: {design.bits}];
                b = memory[i][0 +: {design.bits}];
            end
            #5 clk = 1;
            #1 if (i >= {design.latency - 1}) $fdisplay(sink, "%h", y);
            #4 clk = 0;
        end
        $fclose(sink);
        $finish;
    end
endmodule
"""
    (folder / "bench.v").write_text(bench)
    run_tool([find_tool("iverilog"), "-g2005", "-o", "bench.vvp", "top.v", "bench.v"], folder=folder)
    run_tool([find_tool("vvp"), "bench.vvp"], folder=folder)
    got = (folder / "out.hex").read_text().split()
    want = [f"{answer(design, a, b):0{-(-design.out_bits // 4)}x}" for a, b in pairs]
    return len(pairs), sum(g != w for g, w in zip(got, want, strict=True))


def measure(design, folder, seeds):
    """Return the row of one circuit."""
    (folder / "top.v").write_text(verilog(design))
    pairs, wrong = simulate(design, folder)
    script = "read_verilog top.v; synth_ice40 -top top; write_json top.json; tee -q -o top.stat stat -json"
    run_tool([find_tool("yosys"), "-Q", "-T", "-q", "-p", script], folder=folder, log=folder / "yosys.log")
    cells = json.loads((folder / "top.stat").read_text())["design"]["num_cells_by_type"]
    placed = {}
    for seed in seeds:
        options = ["--hx8k", "--package", "ct256", "--pcf-allow-unconstrained", "--json", "top.json", "--freq", "150"]
        options += ["--seed", str(seed), "--timing-allow-fail", "--report", "top.report"]
        run_tool([find_tool("nextpnr-ice40"), *options], folder=folder, log=folder / f"place{seed}.log")
        report = json.loads((folder / "top.report").read_text())
        clock = min(entry["achieved"] for entry in report["fmax"].values())
        placed[seed] = {"lc": report["utilization"]["ICESTORM_LC"]["used"], "fmax_mhz": round(clock, 2)}
    lcs, clocks = ([row[key] for row in placed.values()] for key in ("lc", "fmax_mhz"))
    mean = statistics.mean(clocks)
    return {
        "name": design.name,
        **asdict(design),
        "pairs": pairs,
        "mismatches": wrong,
        "lut4": cells.get("SB_LUT4", 0),
        "carry": cells.get("SB_CARRY", 0),
        "ff": sum(n for cell, n in cells.items() if cell.startswith("SB_DFF")),
        "seeds": placed,
        "lc": max(lcs),
        "fmax_mhz": round(mean, 1),
        "fmax_mhz_stdev": round(statistics.stdev(clocks), 1) if len(clocks) > 1 else None,
        "area_delay": round(max(lcs) * 1000 / mean),
        "kind": "placed",
    }


def table(document):
    """Return the rows as Markdown."""
    lines = [
        "| circuit | bits | built | cycles | LUT4 | LC | MHz | LC x ns | pairs compared | different |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        sign = "signed" if row["signed"] else "unsigned"
        spread = "" if row["fmax_mhz_stdev"] is None else f" ± {row['fmax_mhz_stdev']}"
        lines.append(
            f"| {row['what']}, {sign} | {row['bits']} | {row['built']} | {row['latency']} | {row['lut4']:,} | "
            f"{row['lc']:,} | {row['fmax_mhz']}{spread} | {row['area_delay']:,} | {row['pairs']:,} | "
            f"{row['mismatches']} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file for the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the placer")
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 16], help="bits of the operands")
    args = parser.parse_args()
    rows = []
    for design in designs(args.widths):
        with tempfile.TemporaryDirectory() as place:
            rows.append(measure(design, Path(place), args.seeds))
        print(f"{design.name}: {rows[-1]['lc']} LC, {rows[-1]['fmax_mhz']} MHz", file=sys.stderr)
    document = {
        "schema": "dyadiq.benchmark.division/1",
        "environment": environment(),
        "tools": {name: tool_version(name) for name in ("yosys", "nextpnr-ice40", "iverilog")},
        "device": "iCE40HX8K, package ct256",
        "rows": rows,
        "problems": [f"{row['name']}: {row['mismatches']} wrong" for row in rows if row["mismatches"]],
    }
    if args.out:
        args.out.write_text(json.dumps(document, indent=1) + "\n")
    print(table(document))
    return 1 if document["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
