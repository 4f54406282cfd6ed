"""CIFAR-10, ResNet-20, fine-tuned at few bits: accuracy of integer programs. Run: python benchmarks/qat_cifar.py

For every case and seed: bits chosen by the Gram diagonal under an average width (exact allocation), ranges by squared
error, channels smoothed (in some cases), weights rounded by GPTQ, then fine-tuned with distillation from a float
network on mixed images, averages of weights at the end (5,000 training images are left out and logged, nothing is
chosen by them), then the integer program on the 8,000 test images, once. Resumable: finished rows stay in
results/qat_cifar.json, and a run that was stopped goes on after its last epoch. Exit code 1 if a row misses its floor
or an executor differs.
"""

import argparse
import json
import resource
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from environment import environment
from recipe_runs import mean_and_spread, percent, write_results

import dyadiq as dq
from dyadiq.core.facts import QuantConfig
from dyadiq.core.format import Format
from dyadiq.core.store import load_plan, save_plan
from dyadiq.quant.exact import run_exact
from dyadiq.quant.reconstruct import reconstruct_
from dyadiq.quant.store import load_quant_module, save_quant_module
from dyadiq.train import TrainConfig, evaluate, finetune
from dyadiq.zoo import build_model, load_dataset

N_SENSITIVITY, N_CALIBRATION, N_VERIFIED = 256, 512, 32
POOLED = "avg_pool2d"  # what the last layer of ResNet-20 reads


@dataclass(frozen=True)
class Case:
    """Average weight bits, activation bits, candidates for weights, and the most that may be lost.

    ``pooled_bits`` is the width of the 64 pooled values that the last layer reads, if they have one of their own: as
    in PACT, LSQ and HAWQ, whose first and last layers read 8 bits (the first one of all cases here does).
    ``teacher`` is the float network whose outputs are imitated: itself, asked for an image and, with ``mirror`` as
    ``teacher_views``, for its mirror image too; or a larger one (Mishra and Marr 2018,
    "Apprentice"; case w4a4_apprentice). What starts close to float is trained at a rate that stays there.
    """

    weight_bits: float
    activation_bits: int
    candidates: tuple
    max_drop: float
    learning_rate: float = 1e-3
    residual_bits: int | None = None
    teacher: str = "cifar_resnet20"
    methods: tuple = ("gptq",)
    teacher_views: str = "one"
    augment: str = "crop_flip_mixup"
    pooled_bits: int | None = None


W4A4 = Case(
    4.0,
    4,
    (3, 4, 5, 6, 8),
    0.001,
    learning_rate=4e-4,
    residual_bits=8,
    methods=("smooth", "gptq"),
    teacher_views="mirror",
)
CASES = {
    "w4a4": W4A4,
    "w4a4_cutmix": replace(W4A4, learning_rate=6e-4, augment="crop_flip_cutmix", pooled_bits=8),
    "w4a4_apprentice": Case(4.0, 4, (3, 4, 5, 6, 8), 0.001, residual_bits=8, teacher="cifar_resnet56"),
    "w3a8": Case(3.0, 8, (2, 3, 4, 5, 6, 8), 0.004, learning_rate=3e-4),
    "w2a8": Case(2.0, 8, (1, 2, 3, 4, 5, 6, 8), 0.012, teacher_views="mirror"),
}


def quant_config(case):
    """Return the formats; of 4-bit activations, those that adds read keep more bits (`dyadiq.separate_residuals`)."""
    return QuantConfig(weight=Format(8, signed=True, granularity="channel"), residual_bits=case.residual_bits)


def settings(case, epochs, seed):
    return TrainConfig(
        epochs=epochs,
        batch_size=64,
        learning_rate=case.learning_rate,
        distill_weight=1.0,
        temperature=2.0,
        teacher_views=case.teacher_views,
        freeze_bn_epoch=0,
        augment=case.augment,
        average_decay=0.998,
        precision="bfloat16",
        keep_best=False,
        seed=seed,
    )


def chosen_plan(folder, graph, images, case, seed):
    """Return the plan of a case, from the folder if it was made before."""
    path = folder / "plan.json"
    if not path.exists():
        table = dq.analyze(
            graph,
            [images[:N_SENSITIVITY]],
            bits=case.candidates,
            activation_bits=(case.activation_bits,),
            config=quant_config(case),
            seed=seed,
        )
        budget = {"weight_bits": f"{100 * case.weight_bits / 32}%"}
        activations = (case.activation_bits,)
        plan = dq.allocate(table, budget, bits=case.candidates, activation_bits=activations, front_points=0)
        if case.pooled_bits is not None:
            wider = replace(plan.formats[POOLED], bits=case.pooled_bits)
            plan = replace(plan, formats={**plan.formats, POOLED: wider})
        save_plan(path, plan)
    return load_plan(path)


def integer_accuracy(program, split):
    """Return the accuracy of an integer program, and its logit codes."""
    found = run_exact(program, split.x)[program.graph.outputs[0]]
    return float((found.argmax(axis=1) == split.y).mean()), found


def run(name, seed, epochs, work, n_train):
    """Return the row of one case and seed."""
    case, folder = CASES[name], work / f"{name}-epochs{epochs}-seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    data = load_dataset("cifar10", seed=seed, n_train=n_train)
    model = build_model("cifar_resnet20", pretrained=True).eval()
    images = torch.from_numpy(data.train.x[:N_CALIBRATION])
    graph = dq.capture(model, images[:2])
    if case.residual_bits is not None:
        graph = dq.separate_residuals(graph)
    plan = chosen_plan(folder, graph, images, case, seed)
    qmod = dq.quantize(graph, plan, list(images.split(128)), config=quant_config(case))
    started, config = time.process_time(), settings(case, epochs, seed)
    finished = folder / "module.safetensors"
    if not finished.exists():
        reconstruct_(qmod, list(images.split(128)), case.methods, seed=seed)
        before = evaluate(qmod, data.validation, batch_size=500).accuracy
        log(folder, {"epoch": -1, "validation_accuracy": before})
        finetune(
            qmod,
            data.train,
            config=config,
            validation=data.validation,
            teacher=build_model(case.teacher, pretrained=True).eval(),
            checkpoint=folder / "training.safetensors",
            on_epoch=lambda record: log(folder, record),
        )
        save_quant_module(finished, qmod)
    cpu = time.process_time() - started
    qmod = load_quant_module(finished)
    program = dq.lower(qmod)
    accuracy, _ = integer_accuracy(program, data.test)
    dq.verify(program, data.test.x[:N_VERIFIED], against=["exact"])
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters() if name in plan.bits}
    float_accuracy = evaluate(model, data.test, batch_size=500).accuracy
    return {
        "case": name,
        "seed": seed,
        "epochs": epochs,
        "float": float_accuracy,
        "integer": accuracy,
        "drop": float_accuracy - accuracy,
        "n_test": len(data.test),
        "n_train": len(data.train),
        "mean_weight_bits": sum(plan.bits[n] * size for n, size in sizes.items()) / sum(sizes.values()),
        "activation_bits": case.activation_bits,
        "residual_bits": case.residual_bits,
        "pooled_bits": case.pooled_bits,
        "teacher": case.teacher,
        "methods": list(case.methods),
        "bits": dict(plan.bits),
        "gap": plan.certificate.gap,
        "config": config.to_json(),
        "history": [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()],
        "cpu_seconds": cpu,
        "max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def log(folder, record):
    """Keep and print the record of an epoch; -1 is what training starts from."""
    with (folder / "epochs.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(folder.name, record, flush=True)


def finished_rows(path):
    return json.loads(path.read_text())["rows"] if path.exists() else []


def table(rows):
    """Return the Markdown table of all rows, one line a case and number of epochs."""
    lines = [
        "| case | W bits | A bits | epochs | teacher | seeds | float % | integer % | points below | allowed |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, epochs in sorted({(row["case"], row["epochs"]) for row in rows}):
        found = [row for row in rows if (row["case"], row["epochs"]) == (name, epochs)]
        means = {key: percent(mean_and_spread(row[key] for row in found)) for key in ("float", "integer", "drop")}
        lines.append(
            f"| {name} | {np.mean([row['mean_weight_bits'] for row in found]):.3f} | {found[0]['activation_bits']} "
            f"| {epochs} | {found[0]['teacher']} | {', '.join(str(row['seed']) for row in found)} "
            f"| {means['float']} | {means['integer']} | {means['drop']} | {100 * CASES[name].max_drop:.1f} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=["w4a4", "w3a8", "w2a8"], choices=list(CASES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--n-train", type=int, help="of the 40,000 training images; for trials")
    parser.add_argument("--work", type=Path, default=Path("runs/qat_cifar"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "qat_cifar.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = finished_rows(args.out)
    for name in args.cases:
        for seed in args.seeds:
            if any((row["case"], row["seed"], row["epochs"]) == (name, seed, args.epochs) for row in rows):
                continue
            row = run(name, seed, args.epochs, args.work, args.n_train)
            rows = [*finished_rows(args.out), row | {"environment": environment()}]  # Another process may add rows.
            rows.sort(key=lambda row: (row["case"], row["epochs"], row["seed"]))
            write_results(args.out, {"schema": "dyadiq.benchmark.qat-cifar/1", "rows": rows})
            print(table(rows), flush=True)
    print(table(rows))
    missed = [row for row in rows if row["drop"] > CASES[row["case"]].max_drop]
    if missed:
        sys.exit("above the allowed loss: " + ", ".join(f"{row['case']} seed {row['seed']}" for row in missed))


if __name__ == "__main__":
    main()
