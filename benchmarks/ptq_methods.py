"""Every post-training method on one network: integer accuracy, divergence from the float network, seconds.

Run: python benchmarks/ptq_methods.py [--widths 8 4 3] [--variants NAME ...] [--seeds 0] [--test N]
     python benchmarks/ptq_methods.py --table       prints Markdown from results/ptq_methods.json

ResNet-20 with its shipped weights on CIFAR-10, one width for all weights, activations of 8 bits. Every variant starts
from the same 512 training images of a seed. Accuracy is that of the integer program in the engine, whose first 250
images are compared with `run_exact`, on test images, by which nothing is chosen; the divergence KL(float || integer) is
measured on the same images. Seconds are CPU seconds from calibration to the lowered program. A row is written as soon
as it is measured, and rows that are there are not measured again.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from environment import environment

import dyadiq as dq
from dyadiq.core.facts import QuantConfig
from dyadiq.engine import EngineProgram, compile_program, write_engine_file
from dyadiq.ir.reference import named_inputs
from dyadiq.quant.reconstruct import reconstruct_
from dyadiq.zoo import build_model, load_dataset

RESULTS = Path(__file__).parent / "results" / "ptq_methods.json"
SCHEMA = "dyadiq.benchmark.ptq-methods/1"
NETWORK, CHUNK = "cifar_resnet20", 250
# Name -> how ranges are chosen (weights and activations), then which methods of `quant.reconstruct` run.
VARIANTS = {
    "nearest, min-max": ("minmax", ()),
    "nearest, percentile": ("percentile", ()),
    "nearest, mse": ("mse", ()),
    "bias correction": ("mse", ("bias_correction",)),
    "batch norm": ("mse", ("batch_norm",)),
    "equalization": ("mse", ("equalize",)),
    "equalization, bias correction": ("mse", ("equalize", "bias_correction")),
    "gptq": ("mse", ("gptq",)),
    "equalization, gptq": ("mse", ("equalize", "gptq")),
    "adaround": ("mse", ("adaround",)),
    "brecq": ("mse", ("brecq",)),
    "qdrop": ("mse", ("qdrop",)),
}


def read(path):
    return json.loads(path.read_text()) if path.is_file() else {"schema": SCHEMA, "rows": []}


def integer_outputs(program, images):
    """Return the program's real outputs on images, by the engine, the first chunk compared with `run_exact`."""
    (name,) = program.graph.outputs
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.engine"
        write_engine_file(compile_program(program), path)
        engine, parts = EngineProgram(path), []
        for start in range(0, len(images), CHUNK):
            chunk = images[start : start + CHUNK]
            parts.append(engine.run(named_inputs(program.graph, chunk))[name])
            if start == 0:
                assert np.array_equal(parts[0], dq.run_exact(program, chunk)[name]), "engine and exact differ"
    return program.dequantize({name: np.concatenate(parts)})[name]


def divergence(wanted, got):
    wanted, got = (torch.from_numpy(np.asarray(v)).double().log_softmax(1) for v in (wanted, got))
    return float((wanted.exp() * (wanted - got)).sum(1).mean())


def measure(variant, width, seed, n_test):
    ranges, methods = VARIANTS[variant]
    data = load_dataset("cifar10", seed=seed, n_train=512)
    test = data.test.take(n_test)
    model = build_model(NETWORK, pretrained=True).eval()
    with torch.no_grad():
        wanted = torch.cat([model(x) for x in torch.from_numpy(test.x).split(CHUNK)]).numpy()
    start = time.process_time()
    graph = dq.capture(model, (torch.zeros(1, 3, 32, 32),))
    config = QuantConfig()
    config = replace(
        config,
        weight=replace(config.weight, range_method=ranges),
        activation=replace(config.activation, range_method=ranges),
    )
    plan = dq.uniform_plan(dq.network_facts(dq.canonicalize(graph), config), width, 8)
    module = dq.quantize(graph, plan, [data.train.x], config=config, seed=seed)
    if methods:
        reconstruct_(module, [data.train.x], methods, seed=seed)
    program = dq.lower(module)
    seconds = time.process_time() - start
    got = integer_outputs(program, test.x)
    return {
        "float": float(np.mean(wanted.argmax(1) == test.y)),
        "accuracy": float(np.mean(got.argmax(1) == test.y)),
        "kl": divergence(wanted, got),
        "cpu_s": seconds,
        "n_calibration": len(data.train),
        "ranges": ranges,
        "methods": list(methods),
    }


def table(document):
    """Return Markdown: one line a variant, accuracy and divergence a width."""
    rows = document["rows"]
    widths = sorted({row["width"] for row in rows}, reverse=True)
    head = " | ".join(f"W{w}A8 %, KL" for w in widths)
    lines = [f"| method | {head} | CPU s |", "|---" * (2 + len(widths)) + "|"]
    for variant in VARIANTS:
        own = [row for row in rows if row["variant"] == variant]
        if not own:
            continue
        cells = []
        for width in widths:
            found = [row for row in own if row["width"] == width]
            values = [100 * row["accuracy"] for row in found]
            spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
            kl = np.mean([row["kl"] for row in found]) if found else 0
            cells.append(f"{np.mean(values):.2f}{spread}, {kl:.4f}" if found else "not run")
        lines.append(f"| {variant} | {' | '.join(cells)} | {np.mean([row['cpu_s'] for row in own]):.0f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 4, 3])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--test", type=int, default=8000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table of what is measured")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for seed in args.seeds if not args.table else ():
        for variant in args.variants:
            for width in args.widths:
                key = {"variant": variant, "width": width, "seed": seed, "n_test": args.test}
                if any(all(row[k] == v for k, v in key.items()) for row in read(args.out)["rows"]):
                    continue
                row = key | measure(variant, width, seed, args.test)
                document = read(args.out)
                document["rows"].append(row | {"environment": environment()})
                args.out.write_text(json.dumps(document, indent=1) + "\n")
                print(json.dumps(row), flush=True)
    print(table(read(args.out)))


if __name__ == "__main__":
    main()
