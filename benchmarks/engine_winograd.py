"""Winograd convolutions of few bits: how much faster than our own direct kernels, at the 3x3 layers of ResNet-18.

    python benchmarks/engine_winograd.py [--rounds N] [--json PATH] [--table]

Weights of 4 bits, activations of 6, dense. One program is compiled with both algorithms, which are timed in turns
(engine_layers); a ratio is the median over rounds of direct / Winograd. The share of the peak counts the products of
the direct convolution, of which Winograd needs four ninths. Writes benchmarks/results/engine_winograd.json.
"""

import tempfile
from pathlib import Path

import torch
from arguments import parser_of, read_results, write_results
from engine_layers import LAYERS, SEED, compare, program_of, speedup_cell
from environment import environment

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


def main():
    arguments = parser_of(__doc__, 15, RESULTS).parse_args()
    if arguments.table:
        print(table(read_results(arguments.json, {})))
        return
    torch.set_num_threads(1)
    document = {"kind": "measured", "seed": SEED, "n_rounds": arguments.rounds, "rows": {}}
    with tempfile.TemporaryDirectory() as temporary:
        for layer, (channels, size) in LAYERS.items():
            program, sample, _ = program_of(channels, size, BITS)
            row = compare(program, sample, ("direct", "winograd"), arguments.rounds, Path(temporary))
            document["rows"][layer] = row
            print(layer, row, flush=True)
    write_results(arguments.json, document | {"environment": environment()})


if __name__ == "__main__":
    main()
