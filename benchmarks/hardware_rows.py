"""Programs on parts: mapped, placed and routed, once per seed of the placer. Writes rows for docs/validation.md.

Run: python benchmarks/hardware_rows.py --row PROGRAM DEVICE DEPTH [--row ...] [--seeds 1 2 3] --work FOLDER --out FILE

PROGRAM is a .dyq file or a stored program, DEVICE one of `dyadiq list devices`, DEPTH the adders between registers.
Rows that FILE holds already, of the same program, device, depth and seeds, are kept; FILE is JSON, written after every
row. What the work folder holds of the same circuit is used again.
"""

import argparse
import json
import time
from pathlib import Path

from environment import environment

from dyadiq.cli.commands.programs import load_any_program
from dyadiq.core.storage import sha256_file
from dyadiq.fpga.hardware import measure
from dyadiq.targets import get_target

KEY = ("program", "program_sha256", "device", "adders_per_stage", "seeds_asked")


def row(program, device, depth, args):
    """Return one measured row."""
    key = {
        "program": program.stem,
        "program_sha256": sha256_file(program),
        "device": device,
        "adders_per_stage": depth,
        "seeds_asked": args.seeds,
    }
    folder = args.work / f"{program.stem}-{device}-depth{depth}"
    get_target("verilog").configured(depth=depth).write(load_any_program(program), folder)
    started = time.monotonic()
    measured = measure(folder, device, seeds=args.seeds, target_mhz=args.target_mhz, timeout_s=args.timeout)
    return {
        **measured.to_json(),
        **key,
        "target_mhz": args.target_mhz,
        "seconds": round(time.monotonic() - started, 1),
        "environment": environment(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--row", nargs=3, action="append", required=True, metavar=("PROGRAM", "DEVICE", "DEPTH"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--target-mhz", type=float, default=150.0)
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for each program")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = json.loads(args.out.read_text())["rows"] if args.out.is_file() else []
    for name, device, depth in args.row:
        wanted = (Path(name).stem, sha256_file(Path(name)), device, int(depth), args.seeds)
        if any(tuple(old[key] for key in KEY) == wanted for old in rows):
            continue
        rows.append(row(Path(name), device, int(depth), args))
        args.out.write_text(json.dumps({"schema": "dyadiq.hardware_rows/1", "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
