"""Winograd convolutions of few bits: how much faster than our own direct kernels, at the 3x3 layers of ResNet-18.

    python benchmarks/engine_winograd.py [--rounds N] [--json PATH] [--table]

Weights of 4 bits, activations of 6, dense. One program is compiled with both algorithms, which are timed in turns
(engine_layers); a ratio is the median over rounds of direct / Winograd. The share of the peak counts the products of
the direct convolution, of which Winograd needs four ninths. Writes benchmarks/results/engine_winograd.json.
"""

from pathlib import Path

from engine_layers import LAYERS, compare, main_of, program_of, speedup_cell

RESULTS = Path(__file__).parent / "results/engine_winograd.json"
BITS = (4, 6)


def table(document):
    """The rows of docs/validation.md."""
    lines = [
        "| layer | direct, us | share of peak | Winograd, us | share of peak | speed-up |",
        "|---|---|---|---|---|---|",
    ]
    for layer, (channels, size) in LAYERS.items():
        row, cells = document["rows"][layer], []
        for name in ("direct", "winograd"):
            cells += [f"{row['least_us'][name]:.0f}", f"{100 * row['peak_frac'][name]:.0f} %"]
        lines.append(f"| {layer}, {channels} channels, {size} x {size} | {' | '.join(cells)} | {speedup_cell(row)} |")
    return "\n".join(lines)


def rows(n_rounds, folder):
    for layer, (channels, size) in LAYERS.items():
        program, sample, _ = program_of(channels, size, BITS)
        yield (layer,), compare(program, sample, ("direct", "winograd"), n_rounds, folder)


if __name__ == "__main__":
    main_of(__doc__, RESULTS, table, rows)
