"""Convolutions alone, one algorithm of the engine beside another: for engine_sparse, engine_winograd and others."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from arguments import parser_of, read_results, write_results
from environment import environment

import dyadiq as dq
from dyadiq.core.plan import uniform_plan
from dyadiq.cost.facts import network_facts
from dyadiq.engine import EngineProgram, compile_program, write_engine_file
from dyadiq.ir.passes import canonicalize

LAYERS = {"layer1": (64, 56), "layer2": (128, 28), "layer3": (256, 14), "layer4": (512, 7)}  # channels, side
SEED = 0


def program_of(channels, size, bits, kept=1.0, *, block=16, n_out=None, kernel=3, stride=1, padding=1, powers=False):
    """A convolution at some bits of weights and activations, a sample, and the share of blocks that is kept.

    All weights but those of some blocks of 16 outputs, or other many, by 4 inputs of one tap are zero; with `powers`,
    others are powers of two, up to rounding. Depthwise layers stand before it and behind it, since inputs and outputs
    of networks have 8 bits and 16.
    """
    generator, n_out = torch.Generator().manual_seed(SEED), n_out or channels
    before, behind = (torch.nn.Conv2d(n, n, 1, groups=n) for n in (channels, n_out))
    conv = torch.nn.Conv2d(channels, n_out, kernel, stride, padding)
    blocks = (-(-n_out // block), -(-channels // 4), *conv.weight.shape[2:])
    mask = torch.rand(blocks, generator=generator) < kept
    with torch.no_grad():
        for other in (before, behind):
            other.weight.fill_(1.0)
        weight = torch.randn(conv.weight.shape, generator=generator)
        conv.weight.copy_(weight.sign() * 2.0 ** weight.abs().mul(3).clamp(max=6).round() if powers else weight)
        conv.weight.mul_(mask.repeat_interleave(block, dim=0)[:n_out].repeat_interleave(4, dim=1)[:, :channels])
    model = torch.nn.Sequential(before, torch.nn.ReLU(), conv, torch.nn.ReLU(), behind).eval()
    batch = torch.rand((2, channels, size, size), generator=generator)
    graph = dq.capture(model, batch[:1])
    plan = uniform_plan(network_facts(canonicalize(graph)), *bits)
    return dq.lower(dq.quantize(graph, plan, [batch.numpy()])), batch[:1].numpy(), mask.float().mean().item()


def compare(program, sample, algorithms, n_rounds, folder, isa=None):
    """Times of the second convolution of a program by two algorithms, in turns, and how much faster the second is.

    In each round both are timed by the engine's own profile, least of 10 runs; both give the same integers.
    """
    layer = [node.name for node in program.graph.nodes if node.op == "conv2d"][1]
    engines = {}
    for name in algorithms:
        write_engine_file(compile_program(program, algorithms={layer: name}), folder / f"{name}.dyqe")
        engines[name] = EngineProgram(folder / f"{name}.dyqe", isa=isa)
    feeds = {next(iter(engines[algorithms[0]].inputs)): sample}
    found = [engine.run(feeds) for engine in engines.values()]
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0]), "algorithms differ"
    times, shares = {name: [] for name in engines}, {}
    for _ in range(n_rounds):
        for name, engine in engines.items():
            steps = [step for step in engine.profile(feeds, repeats=10) if step.layer == layer]
            times[name].append(sum(step.time_us for step in steps))
            share = sum((step.peak_frac or 0.0) * step.time_us for step in steps) / times[name][-1]
            shares[name] = max(shares.get(name, 0.0), share)
    ratios = np.array(times[algorithms[0]]) / np.array(times[algorithms[1]])
    return {
        "least_us": {name: round(min(t), 1) for name, t in times.items()},
        "peak_frac": {name: round(share, 3) for name, share in shares.items()},
        "speedup": round(float(np.median(ratios)), 2),
        "speedup_quartiles": [round(float(q), 2) for q in np.quantile(ratios, (0.25, 0.75))],
        "file_bytes": {name: (folder / f"{name}.dyqe").stat().st_size for name in engines},
        "isa": engines[algorithms[0]].isa,
    }


def speedup_cell(row):
    """A speed-up with its quartiles, for a table."""
    low, high = row["speedup_quartiles"]
    return f"{row['speedup']:.2f} ({low:.2f} to {high:.2f})"


def main_of(doc, results, table, rows):
    """Run a script: print the table of what is stored, or measure its rows and store them.

    `rows(n_rounds, folder)` yields pairs: where a row belongs, as names from the outermost on, and the row.
    """
    arguments = parser_of(doc, 15, results).parse_args()
    if arguments.table:
        print(table(read_results(arguments.json, {})))
        return
    torch.set_num_threads(1)
    document = {"kind": "measured", "seed": SEED, "n_rounds": arguments.rounds, "rows": {}}
    with tempfile.TemporaryDirectory() as temporary:
        for (*outer, last), row in rows(arguments.rounds, Path(temporary)):
            place = document["rows"]
            for name in outer:
                place = place.setdefault(name, {})
            place[last] = row
            print(*outer, last, row, flush=True)
    write_results(arguments.json, document | {"environment": environment()})
