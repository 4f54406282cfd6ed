"""Block-sparse convolutions: how much faster than our own dense kernels, at the 3x3 layers of ResNet-18.

    python benchmarks/engine_sparse.py [--rounds N] [--json PATH] [--table]

Weights of int8 of which only some blocks of 16 outputs by 4 inputs (of one tap), or of 4 by 4, are not zero, chosen at
random. One program is compiled with sparse weights and without, and both are timed in turns (engine_layers), the step
that lays inputs out for blocks of 4 by 4 included; a ratio is the median over rounds of dense / sparse. Writes
benchmarks/results/engine_sparse.json.
"""

from pathlib import Path

from engine_layers import LAYERS, compare, main_of, program_of, speedup_cell

RESULTS = Path(__file__).parent / "results/engine_sparse.json"
DENSITIES = (0.5, 0.25, 0.1)
BLOCKS = {"16x4": (16, "sparse"), "4x4": (4, "sparse4x4")}  # outputs of a block, algorithm


def table(document):
    """The rows of docs/validation.md."""
    lines = ["| layer | blocks | " + " | ".join(f"{100 * (1 - d):.0f} % zero" for d in DENSITIES) + " |"]
    lines.append("|---|---|" + "---|" * len(DENSITIES))
    for layer, (channels, size) in LAYERS.items():
        for blocks in BLOCKS:
            cells = [speedup_cell(document["rows"][blocks][f"{layer} {density}"]) for density in DENSITIES]
            lines.append(f"| {layer}, {channels} channels, {size} x {size} | {blocks} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rows(n_rounds, folder):
    for blocks, (n, algorithm) in BLOCKS.items():
        for layer, (channels, size) in LAYERS.items():
            for density in DENSITIES:
                program, sample, kept = program_of(channels, size, (8, 8), density, block=n)
                row = compare(program, sample, ("direct", algorithm), n_rounds, folder)
                yield (blocks, f"{layer} {density}"), row | {"density": round(kept, 4)}


if __name__ == "__main__":
    main_of(__doc__, RESULTS, table, rows)
