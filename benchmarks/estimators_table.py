"""Training estimators on one network: accuracy of integer programs. Run: python benchmarks/estimators_table.py

The residual network of the digits, 2-bit weights and activations (8-bit inputs), ranges by squared error. Every
estimator starts from the same calibrated network of its seed and is trained alike: Adam or SGD, 8 epochs,
distillation from the float network; the epoch and the optimizer with its rates are chosen on validation images.
Accuracy is that of the integer program on the test images. Finished rows stay in results/estimators_table.json. A
seed decides the initial weights, the order of samples and all splits.
"""

import argparse
import json
from pathlib import Path

import torch
from environment import environment
from recipe_runs import mean_and_spread, percent, write_results

import dyadiq as dq
from dyadiq.core.plan import uniform_plan
from dyadiq.cost.facts import network_facts
from dyadiq.ir.passes import canonicalize
from dyadiq.quant.estimators import ESTIMATORS
from dyadiq.train import TrainConfig, accuracy, finetune, train
from dyadiq.zoo import build_model, load_dataset

WEIGHT_BITS, ACTIVATION_BITS = 2, 2
# Optimizer, learning rate, and that of ranges as a fraction of it: steps of linear ranges must be small.
TRIALS = (("adam", 3e-3, 1.0), ("sgd", 1e-2, 0.1))


def settings(name, trial, epochs, seed):
    optimizer, rate, scale_rate_frac = trial
    return TrainConfig(
        epochs=epochs,
        batch_size=64,
        optimizer=optimizer,
        learning_rate=rate,
        scale_rate_frac=scale_rate_frac,
        estimator=name,
        freeze_bn_epoch=0,
        distill_weight=0.5,
        seed=seed,
    )


def integer_accuracy(qmod, split):
    return accuracy(qmod.set_mode_("exact"), split, batch_size=512)


def rows_of_seed(seed, epochs):
    """Return one row an estimator, and one without training."""
    data = load_dataset("digits", seed=seed)
    model = build_model("digits_resnet", seed=seed)
    train(model, data.train, TrainConfig(epochs=40, learning_rate=3e-3, seed=seed), validation=data.validation)
    x = torch.from_numpy(data.train.x)
    graph = dq.capture(model, x[:2])
    plan = uniform_plan(network_facts(canonicalize(graph)), WEIGHT_BITS, ACTIVATION_BITS)

    def calibrated():
        return dq.quantize(graph, plan, [x[:512]])

    base = {"seed": seed, "float": accuracy(model, data.test), "n_test": len(data.test)}
    qmod = calibrated()
    rows = [base | {"estimator": "none", "integer": integer_accuracy(qmod, data.test), "epochs": 0}]
    for name in ESTIMATORS:
        found = []
        for trial in TRIALS:
            qmod = calibrated()
            config = settings(name, trial, epochs, seed)
            result = finetune(qmod, data.train, config=config, validation=data.validation, teacher=model)
            found.append((result.validation_accuracy, -min(r["validation_loss"] for r in result.history), trial, qmod))
        chosen = max(found, key=lambda row: row[:2])
        program = dq.lower(chosen[3])
        dq.verify(program, data.test.x[:64], against=["exact"])
        row = {"estimator": name, "integer": integer_accuracy(chosen[3], data.test), "epochs": epochs}
        row |= {"validation": chosen[0], "chosen": chosen[2], "validation_of_trials": [row[0] for row in found]}
        rows.append(base | row)
    return rows


def table(rows):
    """Return the Markdown table."""
    lines = ["| estimator | seeds | float % | integer % | chosen on validation |", "|---|---|---|---|---|"]
    for name in ("none", *ESTIMATORS):
        found = [row for row in rows if row["estimator"] == name]
        if not found:
            continue
        float_, integer = (percent(mean_and_spread(row[key] for row in found)) for key in ("float", "integer"))
        chosen = "; ".join(" ".join(map(str, row["chosen"])) for row in found if "chosen" in row)
        lines.append(f"| {name} | {', '.join(str(r['seed']) for r in found)} | {float_} | {integer} | {chosen} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "estimators_table.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    for seed in args.seeds:
        if not any((row["seed"], row["epochs"]) == (seed, args.epochs) for row in rows):
            rows += rows_of_seed(seed, args.epochs)
            document = {"schema": "dyadiq.benchmark.estimators-table/1", "environment": environment(), "rows": rows}
            write_results(args.out, document)
            print(table(rows), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
