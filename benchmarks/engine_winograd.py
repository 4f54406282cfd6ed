"""Winograd convolutions of few bits: how much faster than our own direct kernels, at the 3x3 layers of ResNet-18.

    python benchmarks/engine_winograd.py [--rounds N] [--json PATH] [--table]

F(2x2, 3x3) with weights of 4 bits and activations of 6; F(2, 3) along one axis with 6 and 7, there also kernels of one
row and of one column as InceptionV3's last blocks have them. Dense weights. One program is compiled with both
algorithms, which are timed in turns (engine_layers); a ratio is the median over rounds of direct / Winograd. The share
of the peak counts the products of the direct convolution, of which Winograd needs four ninths, or two thirds.
Instruction sets that this machine lacks are left out. Writes benchmarks/results/engine_winograd.json.
"""

from pathlib import Path

from engine_layers import LAYERS, compare, main_of, program_of, speedup_cell

from dyadiq.engine import available_isas

RESULTS = Path(__file__).parent / "results/engine_winograd.json"
ISAS = ("avx512vnni", "avx512vnni256", "avx2", "neondot", "neon")
SHAPES = {name: (*shape, 3, 1) for name, shape in LAYERS.items()}  # channels, side, kernel, padding
LINES = {"1x3": (384, 8, (1, 3), (0, 1)), "3x1": (384, 8, (3, 1), (1, 0))}
CASES = {"winograd": ((4, 6), SHAPES), "winograd1d": ((6, 7), SHAPES | LINES)}


def table(document):
    """The rows of docs/validation.md."""
    lines = [
        "| kernels | weights, codes | layer | direct, us | share of peak | Winograd, us | share of peak | speed-up |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for isa in filter(document["rows"].get, ISAS):
        for algorithm, (bits, shapes) in CASES.items():
            for layer, (channels, side, *_) in shapes.items():
                row, cells = document["rows"][isa][algorithm][layer], []
                for name in ("direct", algorithm):
                    share = row["peak_frac"][name]
                    cells += [f"{row['least_us'][name]:.0f}", f"{100 * share:.0f} %" if share else ""]
                what = f"{isa}, {algorithm} | {bits[0]}, {bits[1]} | {layer}, {channels} channels, {side} x {side}"
                lines.append(f"| {what} | {' | '.join(cells)} | {speedup_cell(row)} |")
    return "\n".join(lines)


def rows(n_rounds, folder):
    for isa in ISAS:
        for algorithm, (bits, shapes) in CASES.items() if isa in available_isas() else ():
            for layer, (channels, size, kernel, padding) in shapes.items():
                program, sample, _ = program_of(channels, size, bits, kernel=kernel, padding=padding)
                yield (
                    (isa, algorithm, layer),
                    compare(program, sample, ("direct", algorithm), n_rounds, folder, isa=isa),
                )


if __name__ == "__main__":
    main_of(__doc__, RESULTS, table, rows)
