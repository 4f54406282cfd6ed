"""Convolutions as logic: the digits networks unrolled and in line buffers, simulated bit for bit, synthesised.

Run: python benchmarks/digits_rtl.py PROGRAM TARGET [PROGRAM TARGET ...] --work FOLDER [--out FILE]

PROGRAM is a stored program, for example runs/digits_fpga/lower/program.safetensors; TARGET is verilog or
verilog_stream. Every row: the written circuit, simulated by Verilator on images of the digits, test split first, each
output integer compared with the reference; then LUTs by Yosys for UltraScale+, no DSPs. Rows of the same program,
target and number of images that FILE holds already are kept. Exit code 1 if one integer differs.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from environment import environment
from recipe_runs import write_results

from dyadiq.core.storage import sha256_file
from dyadiq.fpga.interface import read_interface
from dyadiq.fpga.synth import synthesize
from dyadiq.fpga.tools import tool_version
from dyadiq.ir.reference import run_reference
from dyadiq.ir.serialize import load_program
from dyadiq.targets import get_target
from dyadiq.zoo import load_dataset

RESULTS = Path(__file__).parent / "results"
KEY = ("program_sha256", "target", "images")


def images(count):
    """Return images of the digits, those of the test split first."""
    dataset = load_dataset("digits")
    parts = (dataset.test, dataset.validation, dataset.train)
    return np.concatenate([np.asarray(part.x, dtype=np.float64) for part in parts])[:count], len(dataset.test)


def row(file, name, target, args):
    """Return the row of one program as one target's circuit."""
    program, (x, n_test) = load_program(file), images(args.images)
    (expected,) = run_reference(program, x).values()
    folder = args.work / f"{name}-{target}"
    writer = get_target(target).configured(simulator=args.simulator)
    started = time.perf_counter()
    writer.write(program, folder)
    written = time.perf_counter()
    (got,) = writer.emulate(folder, {program.graph.inputs[0]: x}).values()
    simulated = time.perf_counter()
    labels = load_dataset("digits").test.y[: len(x)]
    found = {
        "network": name,
        "program_sha256": sha256_file(file),
        "target": target,
        "images": len(x),
        "images_from_test": min(n_test, len(x)),
        "compared": int(expected.size),
        "mismatches": int((got != expected).sum()),
        "accuracy": float((expected[: len(labels)].argmax(1) == labels).mean()),
        "simulator": f"{args.simulator} {tool_version(args.simulator)}",
        "seconds_write": round(written - started, 1),
        "seconds_simulate": round(simulated - written, 1),
    }
    interface = read_interface(folder)
    found |= {key: interface[key] for key in ("latency_cycles", "initiation_interval")}
    if not args.no_synthesis:
        result = synthesize(folder, "xcup", timeout_s=args.timeout)
        found |= {"lut": result.lut, "ff": result.ff, "dsp": result.dsp, "yosys": result.version}
    return found | {"seconds_synthesis": round(time.perf_counter() - simulated, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="PROGRAM TARGET")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--simulator", default="verilator")
    parser.add_argument("--no-synthesis", action="store_true")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds of Yosys")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS / "digits_rtl.json")
    args = parser.parse_args()
    if len(args.pairs) % 2:
        parser.error("every PROGRAM needs a TARGET")
    start = environment()
    rows = json.loads(args.out.read_text())["rows"] if args.out.is_file() else []
    for program, target in zip(args.pairs[::2], args.pairs[1::2], strict=True):
        file = Path(program)
        name = file.parent.parent.name or file.stem  # runs/NAME/lower/program.safetensors
        wanted = (sha256_file(file), target, args.images)
        if not any(tuple(old[key] for key in KEY) == wanted for old in rows):
            rows = [old for old in rows if (old["network"], old["target"]) != (name, target)]
            rows.append(row(file, name, target, args))
            write_results(args.out, {"schema": "dyadiq.benchmark.digits-rtl/1", "environment": start, "rows": rows})
    for found in rows:
        print(f"{found['network']}, {found['target']}: {found.get('lut')} LUT, {found['mismatches']} different")
    return 1 if any(found["mismatches"] for found in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
