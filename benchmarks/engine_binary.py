"""Convolutions of bits: how much faster than our own direct kernels of bytes, by layers and instruction sets.

    python benchmarks/engine_binary.py [--rounds N] [--json PATH] [--table]

Weights and activations of one bit: the 3x3 layers of ResNet-18, and smaller ones, from which the rule of
`choose_weights` comes. One program is compiled with both algorithms, which are timed in turns (engine_layers); a ratio
is the median over rounds of direct / binary, and binary includes making bits of the input. Writes
benchmarks/results/engine_binary.json.
"""

import os
from pathlib import Path

from engine_layers import LAYERS, compare, main_of, program_of, speedup_cell

from dyadiq.engine import available_isas

RESULTS = Path(__file__).parent / "results/engine_binary.json"
# Channels, side, outputs, side of the kernel.
SHAPES = {layer: (channels, size, channels, 3) for layer, (channels, size) in LAYERS.items()} | {
    "16 channels": (16, 56, 64, 3),
    "32 channels": (32, 56, 32, 3),
    "1x1, 64 channels": (64, 56, 64, 1),
    "1x1, 128 channels": (128, 28, 128, 1),
    "1x1, 256 channels": (256, 14, 256, 1),
}
ISAS = ("avx512vnni", "avx512vnni256", "avx2")


def table(document):
    """The rows of docs/validation.md."""
    lines = ["| layer | direct, us | bits, us | " + " | ".join(ISAS) + " |", "|---|---|---|" + "---|" * len(ISAS)]
    for layer, (channels, size, n_out, kernel) in SHAPES.items():
        rows = document["rows"][layer]
        times = rows[ISAS[0]]["least_us"]
        cells = [f"{times[name]:.0f}" for name in ("direct", "binary")] + [speedup_cell(rows[isa]) for isa in ISAS]
        lines.append(f"| {layer}: {size} x {size} x {channels}, {kernel} x {kernel} x {n_out} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rows(n_rounds, folder):
    for layer, (channels, size, n_out, kernel) in SHAPES.items():
        program, sample, _ = program_of(channels, size, (1, 1), n_out=n_out, kernel=kernel, padding=kernel // 2)
        for isa in (isa for isa in ISAS if isa in available_isas()):
            os.environ["DYADIQ_ISA"] = isa
            yield (layer, isa), compare(program, sample, ("direct", "binary"), n_rounds, folder)
        del os.environ["DYADIQ_ISA"]


if __name__ == "__main__":
    main_of(__doc__, RESULTS, table, rows)
