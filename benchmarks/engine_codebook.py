"""Weights that are places in a table: time and bytes beside our own direct kernels of int8, by layers.

    python benchmarks/engine_codebook.py [--rounds N] [--json PATH] [--table]

Weights of 8 bits that are powers of two, activations of 8: the 3x3 layers of ResNet-18, a 1x1 layer and linear ones.
One program is compiled with both algorithms, which are timed in turns (engine_layers); a ratio is the median over
rounds of direct / codebook. Writes benchmarks/results/engine_codebook.json.
"""

from pathlib import Path

from engine_layers import LAYERS, compare, main_of, program_of, speedup_cell

RESULTS = Path(__file__).parent / "results/engine_codebook.json"
# Channels, side, side of the kernel.
SHAPES = {layer: (channels, size, 3) for layer, (channels, size) in LAYERS.items()} | {
    "1x1": (256, 14, 1),
    "linear": (512, 1, 1),
    "large linear": (4096, 1, 1),
}


def table(document):
    """The rows of docs/validation.md."""
    lines = ["| layer | direct, us | table, us | direct / table | file, kB: direct | table |"]
    lines.append("|---|---|---|---|---|---|")
    for layer, (channels, size, kernel) in SHAPES.items():
        row = document["rows"][layer]
        times, sizes = row["least_us"], row["file_bytes"]
        cells = [f"{times[name]:.1f}" for name in ("direct", "codebook")] + [speedup_cell(row)]
        cells += [f"{sizes[name] / 1000:.0f}" for name in ("direct", "codebook")]
        lines.append(f"| {layer}: {size} x {size} x {channels}, {kernel} x {kernel} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rows(n_rounds, folder):
    for layer, (channels, size, kernel) in SHAPES.items():
        program, sample, _ = program_of(channels, size, (8, 8), kernel=kernel, padding=kernel // 2, powers=True)
        yield (layer,), compare(program, sample, ("direct", "codebook"), n_rounds, folder)


if __name__ == "__main__":
    main_of(__doc__, RESULTS, table, rows)
