"""How fast codes are packed and unpacked, for every width; prints JSON. Run: python benchmarks/packing.py

One core, codes in the smallest dtype that holds them, 16 million codes. ``codes_gbps`` counts the bytes of the
unpacked codes at one byte each (so codes per nanosecond), ``packed_gbps`` the packed bytes; median of the runs.
"""

import argparse
import json
import statistics
import time

import numpy as np
from environment import environment

from dyadiq.core.packing import code_dtype, pack, unpack
from dyadiq.core.qtype import QType


def seconds(call, n_runs):
    """Return the median and the spread (largest minus smallest) of the wall time of a call."""
    times = []
    for _ in range(n_runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times), max(times) - min(times)


def measure(qtype, n_codes, n_runs, rng):
    """Return one row: speeds of both directions of a type."""
    codes = rng.integers(qtype.qmin, qtype.qmax, n_codes, endpoint=True).astype(code_dtype(qtype))
    packed = pack(codes, qtype)
    if not np.array_equal(unpack(packed, qtype, n_codes), codes):
        raise SystemExit(f"{qtype}: unpack(pack(x)) is not x")
    row = {"type": str(qtype), "bits": qtype.bits, "packed_bytes": packed.size}
    for name, call in (("pack", lambda: pack(codes, qtype)), ("unpack", lambda: unpack(packed, qtype, n_codes))):
        median, spread = seconds(call, n_runs)
        row[name] = {
            "codes_gbps": round(n_codes / median / 1e9, 3),
            "packed_gbps": round(packed.size / median / 1e9, 3),
            "seconds_median": median,
            "seconds_spread": spread,
        }
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codes", type=int, default=1 << 24, help="codes per run")
    parser.add_argument("--runs", type=int, default=11, help="runs per direction")
    parser.add_argument("--bits", type=int, nargs="*", default=list(range(1, 33)), help="widths")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = [measure(QType(bits, signed=True), args.codes, args.runs, rng) for bits in args.bits]
    document = {"schema": "dyadiq.benchmark.packing/1", "environment": environment(), "n_codes": args.codes}
    print(json.dumps({**document, "n_runs": args.runs, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
