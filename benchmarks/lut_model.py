"""The estimate of LUTs and flip-flops against Yosys (UltraScale+), program by program. Prints JSON.

Run: python benchmarks/lut_model.py PROGRAM... [--depth 4] [--out FOLDER]

PROGRAM is a .dyq file or a stored program, for example RUN/lower/program.safetensors. Where RUN holds the graph and the
plan as well, the cost table of the float network at the plan's bits, which `allocate` works with, is compared too.
Ends with exit code 1 where an estimate is off by more than ``--limit``.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from environment import environment

from dyadiq.core.store import load_plan, load_table
from dyadiq.fpga.circuit_config import CircuitConfig
from dyadiq.fpga.costs import hardware_cost_tables
from dyadiq.fpga.estimate import estimate_hardware
from dyadiq.fpga.synth import synthesize
from dyadiq.ir.passes import canonicalize
from dyadiq.ir.serialize import load_graph, load_program
from dyadiq.targets.dyq import read_dyq
from dyadiq.targets.verilog import VerilogConfig, VerilogTarget


def table_totals(run, depth):
    """Return the LUTs and flip-flops of a run's plan by the cost tables; nothing for a program outside a run."""
    names = ("capture/graph.safetensors", "allocate/plan.json", "analyze/sensitivity.safetensors")
    files = [run / name for name in names]
    if not all(file.is_file() for file in files):
        return {}
    plan, facts = load_plan(files[1]), load_table(files[2]).facts
    kinds = {d.name: d.kind for d in facts.decisions}
    widths = {kind: sorted({b for n, b in plan.bits.items() if kinds[n] == kind}) for kind in ("weight", "activation")}
    tables = hardware_cost_tables(
        canonicalize(load_graph(files[0])), facts, widths["weight"], widths["activation"], ["lut", "ff"],
        config=CircuitConfig(depth=depth), cache=run / "cache" / "layer_traces.json",
    )  # fmt: skip
    return {name: table.total(plan.bits) for name, table in tables.items()}


def compare(file, folder, depth):
    program = read_dyq(file) if file.suffix == ".dyq" else load_program(file)
    VerilogTarget(VerilogConfig(depth=depth, n_vectors=1)).write(program, folder)
    estimate, result = estimate_hardware(program, depth), synthesize(folder)
    totals = table_totals(file.parents[1], depth)
    row = {"program": f"{file.parents[1].name}/{file.name}", "circuit": result.circuit, "yosys": result.version}
    for name in ("lut", "ff"):
        counted, built = getattr(estimate, name), getattr(result, name)
        row[name] = {"estimated": counted, "synthesised": built, "error_frac": round(counted / built - 1, 4)}
        if name in totals:
            row[name] |= {"table": totals[name], "table_error_frac": round(totals[name] / counted - 1, 4)}
    row["latency_cycles"] = result.latency_cycles
    row["layers"] = list(estimate.to_json()["layers"])
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="+", type=Path)
    parser.add_argument("--depth", type=int, default=4, help="adders between registers")
    parser.add_argument("--limit", type=float, default=0.02, help="largest allowed error, a fraction")
    parser.add_argument("--out", type=Path, help="folder for the circuits, kept and used again; else temporary")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for i, file in enumerate(args.programs):
            rows.append(compare(file.resolve(), (args.out or Path(place)) / f"{i}-{file.stem}", args.depth))
            print(json.dumps({k: rows[-1][k] for k in ("program", "lut", "ff")}), file=sys.stderr)
    worst = max(abs(row[name]["error_frac"]) for row in rows for name in ("lut", "ff"))
    document = {"schema": "dyadiq.benchmark.lut-model/1", "environment": environment(), "worst_error_frac": worst}
    print(json.dumps(document | {"programs": rows}, indent=2))
    return int(worst > args.limit)


if __name__ == "__main__":
    sys.exit(main())
