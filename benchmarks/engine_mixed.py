"""Weights of 4 or 8 bits and activations of 6 or 8, chosen by `allocate` under a budget of time, beside int8 of others.

    python benchmarks/engine_mixed.py [NAME ...] [--rounds N] [--test N] [--json PATH] [--table]

The chain's own parts: `latency_cost` times every layer at all four pairs of widths on this machine; `analyze` measures
with the forward Gram, on calibration images, how much every tensor hurts at either width; `allocate` chooses under
`latency_us`, at several shares of the time of uniform W8A8 in that table. Beside these plans: uniform W8A8, and weights
of 4 bits (first and last layer: 8) by activations of 6. All are lowered, compiled, compared with the reference on one
image and timed in turns with onnxruntime and OpenVINO in int8, as in engine_vs_peers.py, which says how. Trained
weights are rounded by GPTQ, for `analyze` too, others to the nearest code.

Of the integer program, run by the engine on test images that nothing was chosen by: accuracy where weights are trained;
and on all networks how often it gives the class that the float network gives, and the divergence KL(float || integer).
Where there are no trained weights, batch norms are settled on the calibration images, so that activations have the
spread of a network's; its classes mean nothing. Writes benchmarks/results/engine_mixed.json, one entry a network.
"""

import tempfile
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from arguments import parser_of, read_results, write_results
from engine_vs_peers import build, peer_runners, plan_of, ratio_of, time_in_turns
from environment import environment
from ptq_methods import divergence

import dyadiq as dq
from dyadiq.engine import EngineProgram, compile_program, write_engine_file
from dyadiq.engine.latency_cost import latency_cost
from dyadiq.quant.candidates import rounded_candidates
from dyadiq.zoo import load_dataset

RESULTS = Path(__file__).parent / "results/engine_mixed.json"
WEIGHT_BITS, ACTIVATION_BITS = (4, 8), (6, 8)
SEED, N_CHUNK, N_SENSITIVITY = 0, 16, 16


@dataclass(frozen=True)
class Case:
    """The data of a network, and its budgets as shares of the time of uniform W8A8."""

    data: str
    shares: tuple[float, ...]
    options: dict = field(default_factory=dict)


CASES = {
    "resnet18": Case("imagenet_sample", (0.9, 0.8), {"n_train": 64}),
    "squeezenet1_1": Case("imagenet_sample", (0.97,), {"preparation": "caffe"}),
    "cifar_resnet20": Case("cifar10", (0.97, 0.94), {"n_train": 512, "n_validation": 500}),
}


def settle_(model, x):
    """Give batch norms the mean and variance of calibration images, which untrained ones do not have."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over batches
    with torch.no_grad():
        for part in x.split(N_CHUNK):
            model.train()(part)
    return model.eval()


def choose(graph, facts, batches, shares, trained):
    """Plans by name, each with its budget in microseconds, and the table of times."""
    start = time.perf_counter()
    times = latency_cost(dq.canonicalize(graph), facts, WEIGHT_BITS, ACTIVATION_BITS)
    timed = time.perf_counter()
    candidates = rounded_candidates(graph, batches, WEIGHT_BITS, seed=SEED) if trained else None
    table = dq.analyze(
        graph, batches, bits=WEIGHT_BITS, activation_bits=ACTIVATION_BITS, seed=SEED, max_samples=N_SENSITIVITY,
        candidates=candidates, facts=facts,
    )  # fmt: skip
    seconds = {"latency_cost": timed - start, "analyze": time.perf_counter() - timed}
    whole = plan_of(facts, (8, 8))
    plans = {"w8a8": (whole, None), "w4a6": (plan_of(facts, (4, 6)), None)}
    for share in shares:
        budget_us = round(share * times.total(whole.bits) / 1000)
        plan = dq.allocate(
            table, {"latency_us": budget_us}, bits=WEIGHT_BITS, activation_bits=ACTIVATION_BITS,
            costs={"latency_us": times}, front_points=0,
        )  # fmt: skip
        plans[f"mixed_{round(100 * share)}"] = plan, budget_us
    return plans, times, {name: round(value, 1) for name, value in seconds.items()}


def lowered(graph, plan, batches, trained, path):
    """The engine with the program of a plan, and the program."""
    module = dq.quantize(graph, plan, batches)
    if trained:
        dq.reconstruct_(module, batches, ["gptq"], seed=SEED)
    program = dq.lower(module)
    write_engine_file(compile_program(program), path)
    return EngineProgram(path), program


def outputs_of(engine, program, images):
    """Real outputs of the integer program."""
    (name,) = engine.inputs
    parts = [program.dequantize(engine.run({name: part})) for part in np.array_split(images, -(-len(images) // 50))]
    return np.concatenate([next(iter(part.values())) for part in parts])


def measure(name, n_rounds, n_test):
    case = CASES[name]
    data = load_dataset(case.data, seed=SEED, **case.options)
    test, x = data.test if n_test is None else data.test.take(n_test), torch.from_numpy(data.train.x)
    model, trained = build(name)
    model = model if trained else settle_(model, x)
    with torch.no_grad():
        wanted = torch.cat([model(part) for part in torch.from_numpy(test.x).split(N_CHUNK)]).numpy()
    graph, batches = dq.capture(model, x[:1]), [part.numpy() for part in x.split(64)]
    facts = dq.network_facts(dq.canonicalize(graph))
    weights = [d.name for d in facts.decisions if d.kind == "weight"]
    chosen = {d.name for d in facts.decisions if d.fixed_bits is None}
    plans, times, seconds = choose(graph, facts, batches, case.shares, trained)
    with tempfile.TemporaryDirectory() as temporary:
        folder, runners, found = Path(temporary), {}, {}
        for label, (plan, budget_us) in plans.items():
            engine, program = lowered(graph, plan, batches, trained, folder / f"{label}.dyqe")
            one = {next(iter(engine.inputs)): test.x[:1]}
            expected, codes = dq.run_reference(program, one), engine.run(one)
            assert all(np.array_equal(codes[key], expected[key]) for key in expected), "differs from the reference"
            runners[label] = lambda engine=engine, one=one: engine.run(one)
            got = outputs_of(engine, program, test.x)
            found[label] = {
                "budget_us": budget_us,
                "predicted_us": round(times.total(plan.bits) / 1000, 1),
                "n_weights_of_4_bits": sum(plan.bits[weight] == 4 for weight in weights),
                "file_bytes": (folder / f"{label}.dyqe").stat().st_size,
                "accuracy": float(np.mean(got.argmax(1) == test.y)) if trained else None,
                "same_class_frac": float(np.mean(got.argmax(1) == wanted.argmax(1))),
                "kl": divergence(wanted, got),
                "bits": {key: bits for key, bits in plan.bits.items() if key in chosen},
            }
            print(name, label, {key: value for key, value in found[label].items() if key != "bits"}, flush=True)
        others, missing = peer_runners(model, x[:4], folder)
        turns = time_in_turns(runners | others, n_rounds)
    for label, row in found.items():
        row |= {"median_us": round(float(np.median(turns[label])), 1), "least_us": round(min(turns[label]), 1)}
        for peer in (*others, *(["w8a8"] if label != "w8a8" else [])):
            row |= ratio_of(turns, label, peer, "time")
    return {
        "network": name,
        "weights": "trained" if trained else "random, batch norms settled",
        "n_weights": len(weights),
        "data": {"name": data.name, "options": case.options, "sha256": data.sha256},
        "n_calibration": len(x),
        "n_sensitivity": N_SENSITIVITY,
        "n_test": len(test),
        "seed": SEED,
        "float_accuracy": float(np.mean(wanted.argmax(1) == test.y)) if trained else None,
        "latency_cost": dict(times.measurement),
        "seconds": seconds,
        "n_rounds": n_rounds,
        "missing": missing,
        "versions": {peer: metadata.version(peer) for peer in others},
        "peers_median_us": {peer: round(float(np.median(turns[peer])), 1) for peer in others},
        "peers_least_us": {peer: round(min(turns[peer]), 1) for peer in others},
        "plans": found,
        "kind": "measured",
    }


def table(document):
    """The rows of docs/validation.md."""
    lines = [
        "| network, plan | budget, us | predicted | least | / openvino int8 | / onnxruntime int8 | / our W8A8 "
        "| weights of 4 bits | file, MB | accuracy | class of float | KL |",
        "|---" * 12 + "|",
    ]
    for name in (name for name in CASES if name in document["networks"]):
        network = document["networks"][name]
        for label, row in sorted(network["plans"].items(), key=lambda item: -item[1]["predicted_us"]):
            budget = "" if row["budget_us"] is None else f"{row['budget_us']:,}"
            cells = [f"{name} {label}", budget, f"{row['predicted_us']:,.0f}", f"{row['least_us']:,.0f}"]
            for peer in ("openvino", "onnxruntime", "w8a8"):
                low, high = row.get(f"time_vs_{peer}_quartiles", (None, None))
                cells.append("" if low is None else f"{row[f'time_vs_{peer}']:.2f} ({low:.2f} to {high:.2f})")
            cells += [f"{row['n_weights_of_4_bits']} of {network['n_weights']}", f"{row['file_bytes'] / 1e6:.2f}"]
            cells.append("" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f} %")
            cells += [f"{100 * row['same_class_frac']:.1f} %", f"{row['kl']:.4f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = parser_of(__doc__, 21, RESULTS)
    parser.add_argument("names", nargs="*", default=list(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--test", type=int, help="test images (default: all)")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(read_results(arguments.json, {})))
        return
    torch.set_num_threads(1)
    for name in arguments.names:
        row = measure(name, arguments.rounds, arguments.test)
        document = read_results(arguments.json, {"networks": {}})
        document["networks"][name] = row | {"environment": environment()}
        write_results(arguments.json, document)
    print(table(read_results(arguments.json, {})))


if __name__ == "__main__":
    main()
