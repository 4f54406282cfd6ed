"""Direct convolutions beside im2col and MEC: time and memory, on the twelve layers of MEC's paper.

    python benchmarks/engine_baselines.py [--rounds N] [--json PATH] [--table]

QEngine compared its direct kernels with im2col and MEC on ten convolutions; its shapes are not published, so those of
Cho and Brand 2017, table 2, are taken: inputs as they stand there, without padding. Weights and activations of 8 bits,
one thread. All three run the same multiplying kernels of ours: what differs is the copy of the input, its time and its
bytes. Each is timed in turns with the direct one (engine_layers); a ratio is the median over rounds of it / direct.
Writes benchmarks/results/engine_baselines.json.
"""

from pathlib import Path

from engine_layers import compare, main_of, program_of, speedup_cell

from dyadiq.engine import compile_program
from dyadiq.engine.lowering import BASELINES

RESULTS = Path(__file__).parent / "results/engine_baselines.json"
# Channels, side, outputs, kernel, stride.
LAYERS = {
    "cv1": (3, 227, 96, 11, 4),
    "cv2": (3, 231, 96, 11, 4),
    "cv3": (3, 227, 64, 7, 2),
    "cv4": (64, 224, 64, 7, 2),
    "cv5": (96, 24, 256, 5, 1),
    "cv6": (256, 12, 512, 3, 1),
    "cv7": (3, 224, 64, 3, 1),
    "cv8": (64, 112, 128, 3, 1),
    "cv9": (64, 56, 64, 3, 1),
    "cv10": (128, 28, 128, 3, 1),
    "cv11": (256, 14, 256, 3, 1),
    "cv12": (512, 7, 512, 3, 1),
}
MB = 1e6


def copy_bytes(program, algorithm):
    """Bytes of the copy of its input that the second convolution of a program reads."""
    layer = [node.name for node in program.graph.nodes if node.op == "conv2d"][1]
    plan = compile_program(program, algorithms={layer: algorithm})
    (step,) = (step for step in plan.steps if step.op == "lower")
    return plan.buffers[step.writes[0].buffer].n_bytes


def table(document):
    """The rows of docs/validation.md."""
    lines = [
        "| layer | direct, us | im2col, us | MEC, us | im2col / direct | MEC / direct | im2col, MB | MEC, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for layer, (channels, size, n_out, kernel, stride) in LAYERS.items():
        rows = document["rows"][layer]
        times = [min(rows[name]["least_us"]["direct"] for name in BASELINES)]
        times += [rows[name]["least_us"][name] for name in BASELINES]
        cells = [f"{us:.0f}" for us in times] + [speedup_cell(rows[name]) for name in BASELINES]
        cells += [f"{rows[name]['copy_bytes'] / MB:.2f}" for name in BASELINES]
        shape = f"{size} x {size} x {channels}, {kernel} x {kernel} x {n_out} / {stride}"
        lines.append(f"| {layer}, {shape} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rows(n_rounds, folder):
    for layer, (channels, size, n_out, kernel, stride) in LAYERS.items():
        program, sample, _ = program_of(channels, size, (8, 8), n_out=n_out, kernel=kernel, stride=stride, padding=0)
        for name in BASELINES:
            row = compare(program, sample, (name, "direct"), n_rounds, folder)
            yield (layer, name), row | {"copy_bytes": copy_bytes(program, name)}


if __name__ == "__main__":
    main_of(__doc__, RESULTS, table, rows)
