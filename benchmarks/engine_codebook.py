"""Weights that are places in a table: time and bytes beside our own direct kernels of int8, by layers.

    python benchmarks/engine_codebook.py [--rounds N] [--json PATH] [--table]

Weights of 8 bits that are powers of two, activations of 8: the 3x3 layers of ResNet-18, 1x1 layers, and a linear one. One
program is compiled with both algorithms, which are timed in turns (engine_layers); a ratio is the median over rounds of
direct / codebook. Writes benchmarks/results/engine_codebook.json.
"""

import tempfile
from pathlib import Path

import torch
from arguments import parser_of, read_results, write_results
from engine_layers import LAYERS, SEED, compare, program_of, speedup_cell
from environment import environment

RESULTS = Path(__file__).parent / "results/engine_codebook.json"
# Channels, side, side of the kernel.
SHAPES = {layer: (channels, size, 3) for layer, (channels, size) in LAYERS.items()} | {
    "1x1": (256, 14, 1),
    "linear": (512, 1, 1),
    "large linear": (4096, 1, 1),
}


def table(document):
    """The rows of docs/validation.md."""
    lines = [
        "| layer | direct, us | table, us | direct / table | file, kB: direct | table |",
        "|---|---|---|---|---|---|",
    ]
    for layer, (channels, size, kernel) in SHAPES.items():
        row = document["rows"][layer]
        times, sizes = row["least_us"], row["file_bytes"]
        cells = [f"{times[name]:.1f}" for name in ("direct", "codebook")] + [speedup_cell(row)]
        cells += [f"{sizes[name] / 1000:.0f}" for name in ("direct", "codebook")]
        lines.append(f"| {layer}: {size} x {size} x {channels}, {kernel} x {kernel} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    arguments = parser_of(__doc__, 15, RESULTS).parse_args()
    if arguments.table:
        print(table(read_results(arguments.json, {})))
        return
    torch.set_num_threads(1)
    document = {"kind": "measured", "seed": SEED, "n_rounds": arguments.rounds, "rows": {}}
    with tempfile.TemporaryDirectory() as temporary:
        for layer, (channels, size, kernel) in SHAPES.items():
            program, sample, _ = program_of(channels, size, (8, 8), kernel=kernel, padding=kernel // 2, powers=True)
            row = compare(program, sample, ("direct", "codebook"), arguments.rounds, Path(temporary))
            document["rows"][layer] = row
            print(layer, row, flush=True)
    write_results(arguments.json, document | {"environment": environment()})


if __name__ == "__main__":
    main()
