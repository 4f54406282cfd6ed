"""Block-sparse convolutions: how much faster than our own dense kernels, at the 3x3 layers of ResNet-18.

    python benchmarks/engine_sparse.py [--rounds N] [--json PATH] [--table]

Weights of int8 of which only some blocks of 16 outputs by 4 inputs (of one tap) are not zero, chosen at random. One
program is compiled with sparse weights and without. Rounds are interleaved: in each, the convolution of both is timed
by the engine's own profile (least of 10 runs); a ratio is the median over rounds of dense / sparse. Both give the same
integers, which is checked first. Writes benchmarks/results/engine_sparse.json.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from environment import environment

import dyadiq as dq
from dyadiq.core.plan import uniform_plan
from dyadiq.cost.facts import network_facts
from dyadiq.engine import EngineProgram, compile_program, write_engine_file
from dyadiq.ir.passes import canonicalize

RESULTS = Path(__file__).parent / "results/engine_sparse.json"
LAYERS = {"layer1": (64, 56), "layer2": (128, 28), "layer3": (256, 14), "layer4": (512, 7)}
DENSITIES = (0.5, 0.25, 0.1)
SEED = 0


def program_of(channels, size, density):
    """One 3x3 convolution, its weights thinned, and a sample for it."""
    generator = torch.Generator().manual_seed(SEED)
    conv = torch.nn.Conv2d(channels, channels, 3, padding=1)
    kept = torch.rand((channels // 16, channels // 4, 3, 3), generator=generator) < density
    with torch.no_grad():
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=generator))
        conv.weight.mul_(kept.repeat_interleave(16, dim=0).repeat_interleave(4, dim=1))
    model = torch.nn.Sequential(conv, torch.nn.ReLU()).eval()
    batch = torch.rand((2, channels, size, size), generator=generator)
    graph = dq.capture(model, batch[:1])
    plan = uniform_plan(network_facts(canonicalize(graph)), 8, 8)
    return dq.lower(dq.quantize(graph, plan, [batch.numpy()])), batch[:1].numpy(), kept.float().mean().item()


def measure(channels, size, density, n_rounds, folder):
    program, sample, kept = program_of(channels, size, density)
    engines = {}
    (layer,) = (node.name for node in program.graph.nodes if node.op == "conv2d")
    for name, algorithm in (("dense", "direct"), ("sparse", "sparse")):
        write_engine_file(compile_program(program, algorithms={layer: algorithm}), folder / f"{name}.dyqe")
        engines[name] = EngineProgram(folder / f"{name}.dyqe")
    feeds = {next(iter(engines["dense"].inputs)): sample}
    found = [engine.run(feeds) for engine in engines.values()]
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0]), "sparse differs from dense"
    times = {name: [] for name in engines}
    for _ in range(n_rounds):
        for name, engine in engines.items():
            times[name].append(next(s.time_us for s in engine.profile(feeds, repeats=10) if s.op == "conv"))
    ratios = np.array(times["dense"]) / np.array(times["sparse"])
    return {
        "density": round(kept, 4),
        "least_us": {name: round(min(t), 1) for name, t in times.items()},
        "speedup": round(float(np.median(ratios)), 2),
        "speedup_quartiles": [round(float(q), 2) for q in np.quantile(ratios, (0.25, 0.75))],
        "file_bytes": {name: (folder / f"{name}.dyqe").stat().st_size for name in engines},
        "isa": engines["sparse"].isa,
    }


def table(document):
    """The rows of docs/validation.md."""
    lines = ["| layer | " + " | ".join(f"{100 * (1 - d):.0f} % zero" for d in DENSITIES) + " |"]
    lines.append("|---|" + "---|" * len(DENSITIES))
    for layer, (channels, size) in LAYERS.items():
        cells = []
        for density in DENSITIES:
            row = document["rows"][f"{layer} {density}"]
            low, high = row["speedup_quartiles"]
            cells.append(f"{row['speedup']:.2f} ({low:.2f} to {high:.2f})")
        lines.append(f"| {layer}, {channels} channels, {size} x {size} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what is stored, and measure nothing")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads(arguments.json.read_text())))
        return
    torch.set_num_threads(1)
    document = {"kind": "measured", "seed": SEED, "n_rounds": arguments.rounds, "rows": {}}
    with tempfile.TemporaryDirectory() as temporary:
        for layer, (channels, size) in LAYERS.items():
            for density in DENSITIES:
                row = measure(channels, size, density, arguments.rounds, Path(temporary))
                document["rows"][f"{layer} {density}"] = row
                print(layer, density, row, flush=True)
    document["environment"] = environment()
    arguments.json.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
