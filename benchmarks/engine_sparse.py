"""Block-sparse convolutions: how much faster than our own dense kernels, at the 3x3 layers of ResNet-18.

    python benchmarks/engine_sparse.py [--rounds N] [--json PATH] [--table]

Weights of int8 of which only some blocks of 16 outputs by 4 inputs (of one tap) are not zero, chosen at random. One
program is compiled with sparse weights and without, and both are timed in turns (engine_layers); a ratio is the median
over rounds of dense / sparse. Writes benchmarks/results/engine_sparse.json.
"""

from pathlib import Path

from engine_layers import LAYERS, compare, main_of, program_of, speedup_cell

RESULTS = Path(__file__).parent / "results/engine_sparse.json"
DENSITIES = (0.5, 0.25, 0.1)


def table(document):
    """The rows of docs/validation.md."""
    lines = ["| layer | " + " | ".join(f"{100 * (1 - d):.0f} % zero" for d in DENSITIES) + " |"]
    lines.append("|---|" + "---|" * len(DENSITIES))
    for layer, (channels, size) in LAYERS.items():
        cells = [speedup_cell(document["rows"][f"{layer} {density}"]) for density in DENSITIES]
        lines.append(f"| {layer}, {channels} channels, {size} x {size} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rows(n_rounds, folder):
    for layer, (channels, size) in LAYERS.items():
        for density in DENSITIES:
            program, sample, kept = program_of(channels, size, (8, 8), density)
            row = compare(program, sample, ("direct", "sparse"), n_rounds, folder)
            yield (f"{layer} {density}",), row | {"density": round(kept, 4)}


if __name__ == "__main__":
    main_of(__doc__, RESULTS, table, rows)
