"""Block-sparse convolutions: how much faster than our own dense kernels, at the 3x3 layers of ResNet-18.

    python benchmarks/engine_sparse.py [--rounds N] [--json PATH] [--table]

Weights of int8 of which only some blocks of 16 outputs by 4 inputs (of one tap) are not zero, chosen at random. One
program is compiled with sparse weights and without, and both are timed in turns (engine_layers); a ratio is the median
over rounds of dense / sparse. Writes benchmarks/results/engine_sparse.json.
"""

import tempfile
from pathlib import Path

import torch
from arguments import parser_of, read_results, write_results
from engine_layers import LAYERS, SEED, compare, program_of, speedup_cell
from environment import environment

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


def main():
    arguments = parser_of(__doc__, 15, RESULTS).parse_args()
    if arguments.table:
        print(table(read_results(arguments.json, {})))
        return
    torch.set_num_threads(1)
    document = {"kind": "measured", "seed": SEED, "n_rounds": arguments.rounds, "rows": {}}
    with tempfile.TemporaryDirectory() as temporary:
        for layer, (channels, size) in LAYERS.items():
            for density in DENSITIES:
                program, sample, kept = program_of(channels, size, (8, 8), density)
                row = compare(program, sample, ("direct", "sparse"), arguments.rounds, Path(temporary))
                document["rows"][f"{layer} {density}"] = row | {"density": round(kept, 4)}
                print(layer, density, row, flush=True)
    write_results(arguments.json, document | {"environment": environment()})


if __name__ == "__main__":
    main()
