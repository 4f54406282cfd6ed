"""A program as logic: equal to the reference on many samples, its LUTs estimated and synthesised. Prints JSON.

Run: python benchmarks/rtl_jets.py PROGRAM [--data jets] [--out FOLDER]

PROGRAM is a .dyq file or a stored program, for example RUN/lower/program.safetensors of recipes/jets.toml. Samples are
those of the data set's test split, then codes drawn uniformly from the input type (which reach every corner that data
do not). All ``--samples`` go through the emulator of the circuit and, if it is installed, through Verilator; the first
and last ``--simulated / 2`` through Icarus Verilog as well. Every output integer is compared.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from environment import environment

from dyadiq.fpga.area import estimate_luts
from dyadiq.fpga.interface import read_interface
from dyadiq.fpga.pipeline import schedule
from dyadiq.fpga.synth import synthesize
from dyadiq.fpga.tools import tool_version
from dyadiq.fpga.trace import trace
from dyadiq.ir.reference import run_reference
from dyadiq.ir.serialize import load_program
from dyadiq.targets.dyq import read_dyq
from dyadiq.targets.verilog import VerilogConfig, VerilogTarget
from dyadiq.zoo import load_dataset


def samples(program, count, data):
    """Return real inputs by name: a data set's test split first, then on-grid values of uniform random codes."""
    graph, rng = program.graph, np.random.default_rng(0)
    feeds = {}
    for node in graph.nodes:
        if node.op != "quantize":
            continue
        qtype, shape = graph.tensors[node.output].qtype, graph.tensors[node.output].shape
        scale, zero_point = (graph.params[name] for name in node.inputs[1:3])
        codes = rng.integers(qtype.qmin, qtype.qmax, (count, *shape), endpoint=True)
        feeds[node.inputs[0]] = (codes - int(zero_point)) * float(scale)
    n_data = 0
    if data:
        (name,) = feeds
        known = np.asarray(load_dataset(data).test.x, dtype=np.float64)[:count]
        feeds[name][: len(known)] = known
        n_data = len(known)
    return feeds, n_data


def mismatches(got, expected):
    return sum(int((got[name] != codes).sum()) for name, codes in expected.items())


def timed(call):
    start = time.perf_counter()
    result = call()
    return result, round(time.perf_counter() - start, 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("--samples", type=int, default=100_000, help="through the emulator")
    parser.add_argument("--simulated", type=int, default=10_000, help="through Icarus Verilog")
    parser.add_argument("--data", default="", help="data set whose test split comes first, for example jets")
    parser.add_argument("--families", nargs="*", default=["xcup"], help="Yosys families")
    parser.add_argument("--depth", type=int, default=4, help="adders between registers")
    parser.add_argument("--out", type=Path, help="folder for the circuit; a temporary one if not given")
    args = parser.parse_args()
    program = read_dyq(args.program) if args.program.suffix == ".dyq" else load_program(args.program)
    feeds, n_data = samples(program, args.samples, args.data)
    quantizers = [node for node in program.graph.nodes if node.op == "quantize"]
    expected, reference_s = timed(lambda: run_reference(program, feeds, taps=[node.output for node in quantizers]))
    outputs = {name: expected[name] for name in program.graph.outputs}
    circuit, trace_s = timed(lambda: trace(program))
    emulated, emulator_s = timed(lambda: circuit.predict({node.output: expected[node.output] for node in quantizers}))
    half = min(args.simulated, args.samples) // 2
    chosen = np.r_[:half, args.samples - half : args.samples]
    target = VerilogTarget(VerilogConfig(depth=args.depth))
    with tempfile.TemporaryDirectory() as place:
        folder = args.out or Path(place)
        target.write(program, folder)
        simulated, simulation_s = timed(lambda: target.emulate(folder, {n: x[chosen] for n, x in feeds.items()}))
        verilator = None
        if shutil.which("verilator"):
            fast = VerilogTarget(VerilogConfig(simulator="verilator"))
            compiled, verilator_s = timed(lambda: fast.emulate(folder, feeds))
            verilator = {"version": tool_version("verilator"), "samples": args.samples, "seconds": verilator_s}
            verilator["mismatches"] = mismatches(compiled, outputs)
        interface = read_interface(folder)
        estimate = estimate_luts(circuit.net, schedule(circuit, args.depth).wires)
        hardware = [synthesize(folder, family).to_json() for family in args.families]
    for result in hardware:
        result.pop("script")
        if result["family"] in ("xcup", "xc7") and result["lut"]:
            result["estimate_error_frac"] = round(estimate / result["lut"] - 1, 4)
    document = {
        "schema": "dyadiq.benchmark.rtl/1",
        "environment": environment(),
        "n_samples": args.samples,
        "n_from_data": n_data,
        "emulator": {"mismatches": mismatches(emulated, outputs), "seconds": emulator_s},
        "verilator": verilator,
        "iverilog": {
            "version": tool_version("iverilog"),
            "samples": len(chosen),
            "mismatches": mismatches(simulated, {n: codes[chosen] for n, codes in outputs.items()}),
            "seconds": simulation_s,
        },
        "seconds": {"reference": reference_s, "trace": trace_s},
        "lut": {"value": estimate, "kind": "estimated"},
        **{key: interface[key] for key in ("latency_cycles", "initiation_interval", "stages", "operations")},
        "hardware": hardware,
    }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
