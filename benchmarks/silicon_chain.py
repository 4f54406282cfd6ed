"""One network in every executor on the way to silicon: equal integer for integer, then synthesised. Prints JSON.

Run: python benchmarks/silicon_chain.py PROGRAM [--data jets] [--out FOLDER]

PROGRAM is a .dyq file or a stored program, for example RUN/lower/program.safetensors of recipes/jets.toml. Samples are
those of the data set's test split, then codes drawn uniformly from the input type (which reach every corner that data
do not). All ``--samples`` go through hls4ml's C simulation, the emulator of the circuit and, if it is installed,
Verilator; the first and last ``--executed / 2`` through the qonnx executor, which is slow, and ``--simulated / 2``
through Icarus Verilog. Every output integer is compared with the reference. hls4ml and the qonnx executor get values
on the grid of the input quantizer; exit code 1 if one integer differs.
"""

import argparse
import json
import shutil
import sys
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
from dyadiq.targets import get_target
from dyadiq.targets.dyq import read_dyq
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


def on_grid(program, codes):
    """Return the real values of input codes: what executors that compute in float32 are given."""
    graph, feeds = program.graph, {}
    for node in graph.nodes:
        if node.op == "quantize":
            scale, zero_point = (graph.params[name] for name in node.inputs[1:3])
            feeds[node.inputs[0]] = (codes[node.output] - int(zero_point)) * float(scale)
    return feeds


def ends(count, n_samples):
    """Return the first and last ``count / 2`` of the samples."""
    half = min(count, n_samples) // 2
    return np.r_[:half, n_samples - half : n_samples]


def compared(target, folder, feeds, expected, chosen):
    """Run a written artifact on chosen samples and count the integers that differ."""
    some = {name: x[chosen] for name, x in feeds.items()}
    got, seconds = timed(lambda: target.emulate(folder, some))
    wrong = mismatches(got, {name: codes[chosen] for name, codes in expected.items()})
    count = sum(codes[chosen].size for codes in expected.values())
    return {"samples": len(chosen), "compared": count, "mismatches": wrong, "seconds": seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("--samples", type=int, default=100_000, help="through the C simulation, emulator and Verilator")
    parser.add_argument("--executed", type=int, default=2_000, help="through the qonnx executor")
    parser.add_argument("--simulated", type=int, default=10_000, help="through Icarus Verilog")
    parser.add_argument("--data", default="", help="data set whose test split comes first, for example jets")
    parser.add_argument("--backend", default="Vitis", help="of hls4ml")
    parser.add_argument("--families", nargs="*", default=["xcup"], help="Yosys families")
    parser.add_argument("--depth", type=int, default=4, help="adders between registers")
    parser.add_argument("--out", type=Path, help="folder for what is written; a temporary one if not given")
    args = parser.parse_args()
    program = read_dyq(args.program) if args.program.suffix == ".dyq" else load_program(args.program)
    feeds, n_data = samples(program, args.samples, args.data)
    quantizers = [node.output for node in program.graph.nodes if node.op == "quantize"]
    expected, reference_s = timed(lambda: run_reference(program, feeds, taps=quantizers))
    outputs = {name: expected[name] for name in program.graph.outputs}
    grid, everything = on_grid(program, expected), np.arange(args.samples)
    circuit, trace_s = timed(lambda: trace(program))
    emulated, emulator_s = timed(lambda: circuit.predict({name: expected[name] for name in quantizers}))
    n_compared = sum(codes.size for codes in outputs.values())
    executors = {
        "emulator": {
            "samples": args.samples,
            "compared": n_compared,
            "mismatches": mismatches(emulated, outputs),
            "seconds": emulator_s,
        }
    }
    with tempfile.TemporaryDirectory() as place:
        folder = args.out or Path(place)
        chain = (
            ("qonnx", get_target("qonnx"), grid, ends(args.executed, args.samples)),
            ("hls4ml", get_target("hls4ml").configured(backend=args.backend), grid, everything),
            ("iverilog", get_target("verilog").configured(depth=args.depth), feeds, ends(args.simulated, args.samples)),
        )
        for name, target, x, chosen in chain:
            _, write_s = timed(lambda target=target, name=name: target.write(program, folder / target.name))
            executors[name] = compared(target, folder / target.name, x, outputs, chosen) | {"write_s": write_s}
        executors["qonnx"]["proven"] = not get_target("qonnx").unproven(program)
        executors["iverilog"]["version"] = tool_version("iverilog")
        rtl = folder / "verilog"
        if shutil.which("verilator"):
            fast = get_target("verilog").configured(simulator="verilator")
            executors["verilator"] = compared(fast, rtl, feeds, outputs, everything)
            executors["verilator"]["version"] = tool_version("verilator")
        interface = read_interface(rtl)
        estimate = estimate_luts(circuit.net, schedule(circuit, args.depth).wires)
        hardware = [synthesize(rtl, family).to_json() for family in args.families]
    for result in hardware:
        result.pop("script")
        if result["family"] in ("xcup", "xc7") and result["lut"]:
            result["estimate_error_frac"] = round(estimate / result["lut"] - 1, 4)
    document = {
        "schema": "dyadiq.benchmark.silicon_chain/1",
        "environment": environment(),
        "n_samples": args.samples,
        "n_from_data": n_data,
        "executors": executors,
        "seconds": {"reference": reference_s, "trace": trace_s},
        "lut": {"value": estimate, "kind": "estimated"},
        **{key: interface[key] for key in ("latency_cycles", "initiation_interval", "stages", "operations")},
        "hardware": hardware,
    }
    print(json.dumps(document, indent=2))
    return 1 if any(found["mismatches"] for found in executors.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
