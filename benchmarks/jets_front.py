"""Jets: accuracy against LUTs of networks of few signed digits, over seeds; the other half of jets_vs_hgq.py.

Run: python benchmarks/jets_front.py [--budgets 3000 11500] [--work FOLDER]

For each seed a float network of 16-64-32-32-5 is trained; from it, for each budget of LUTs, one of 8-bit weights and 4
or 5-bit activations, power-of-two scales, whose weights are given their signed digits by curvature while it is trained
on (`train.sparsify`), and its input features as few bits as pay (``input_grids``); then its codes are chosen once more
and digits exchanged by the loss (`train.polish`), and small circuits trimmed by the LUTs that they are counted to take,
with training in between (`train.circuit`). The epoch is chosen on the validation split, the accuracy is that of
the integer program on the whole test split. LUTs are those of Yosys for UltraScale+, no DSPs. One thread; CPU seconds
are those of float and further training together. Finished rows are kept in the work folder; those of other budgets of
this script that the results file holds stay in it, each with the commit it was measured at.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from environment import environment
from jets_runs import FLOAT, Runs, calibration, described, measured
from recipe_runs import mean_and_spread, percent, write_results

from dyadiq.core.facts import QuantConfig
from dyadiq.core.format import Format
from dyadiq.core.plan import uniform_plan
from dyadiq.core.signed_digits import count_digits
from dyadiq.cost import network_facts
from dyadiq.fpga.estimate import estimate_hardware
from dyadiq.fpga.synth import synthesize
from dyadiq.ir.integer import effective_weight
from dyadiq.ir.passes import canonicalize
from dyadiq.ir.serialize import save_program
from dyadiq.quant.lower import lower
from dyadiq.quant.quantize import quantize
from dyadiq.quant.refine import refine_ranges_
from dyadiq.targets.verilog import VerilogConfig, VerilogTarget
from dyadiq.train.config import TrainConfig
from dyadiq.train.finetune import finetune
from dyadiq.train.sparsify_config import SparsifyConfig

# Widths of hidden activations by LUTs: small circuits want narrow adders. Chosen on validation jets.
BUDGETS = {1340: 4, 3000: 4, 6000: 5, 11500: 5}
INPUT_BITS = 10  # of the grid that features take their steps from
WEIGHT_BITS, DEPTH, FAMILY = 8, 4, "xcup"
CONFIG = QuantConfig(
    weight=Format(8, signed=True, narrow=True, granularity="tensor", scale="pow2"),
    activation=Format(8, scale="pow2"),
    product_bits=24,
)
# Scales stay as refined: learned ones jump by factors of two, which small networks do not recover from.
TRIMS, TRIM_EPOCHS = 8, 8  # passes over the circuit, and epochs between them
MOST_TRIMMED = 3000  # LUTs of a circuit that is counted for every change
END_FRAC = 0.65  # of the epochs, after which limits are final
TRAINING = TrainConfig(epochs=56, batch_size=1024, learning_rate=6e-3)
RESULTS = Path(__file__).parent / "results"
_N_CALIBRATION = 8192


def row(runs, budget, seed, epochs):
    """Return one network, trained and measured unless it was."""
    trained, graph = runs.float_network(False, 0.0, seed)
    training = runs.config(replace(TRAINING, epochs=epochs), seed, 0.0)
    n_updates, n_polish = (1, 16) if runs.quick else (30, 16384)
    n_trims = TRIMS if budget <= MOST_TRIMMED and not runs.quick else 0
    sparsify = SparsifyConfig(
        lut=budget,
        n_updates=n_updates,
        end_frac=END_FRAC,
        input_grids=True,
        polish_samples=n_polish,
        exchanges=1,
        trims=n_trims,
        trim_epochs=TRIM_EPOCHS if n_trims else 0,
    )
    key = {"kind": "front", "float": runs.config(FLOAT, seed, 0.0).to_json(), "finetune": training.to_json()}
    activation_bits, config = BUDGETS[budget], replace(CONFIG, input_bits=INPUT_BITS)
    key |= {"sparsify": sparsify.to_json(), "config": config.to_json(), "bits": [WEIGHT_BITS, activation_bits]}

    def make(path):
        data, start = runs.data(seed), time.process_time()
        plan = uniform_plan(network_facts(canonicalize(graph), config), WEIGHT_BITS, activation_bits)
        batches = calibration(data, _N_CALIBRATION)
        qmod = quantize(graph, plan, batches, config=config, learn_scales=False, seed=seed)
        factors = refine_ranges_(qmod, batches)
        result = finetune(qmod, data.train, config=training, validation=data.validation, sparsify=sparsify)
        seconds = time.process_time() - start
        program = lower(qmod)
        stored = runs.work / f"jets_{budget}_seed{seed}.safetensors"
        save_program(stored, program)
        folder = path.with_suffix(".verilog")
        VerilogTarget(VerilogConfig(depth=DEPTH)).write(program, folder)
        synthesised, estimate = synthesize(folder, FAMILY), estimate_hardware(program, DEPTH)
        weights = [effective_weight(program.graph, n) for n in program.graph.nodes if n.op == "linear"]
        return {
            "budget": budget,
            "seed": seed,
            "epochs": training.epochs,
            "best_epoch": result.best_epoch,
            "float_accuracy": trained["accuracy"],
            "factors": factors,
            "feature_bits": qmod.quantizers_by_name()["x"].channel_grid().bits().tolist(),
            "polished": result.polished,
            **described(program, plan),
            **measured(program, data, ("exact",)),
            "nonzero": [int((w != 0).sum()) for w in weights],
            "digits": [int(count_digits(w).sum()) for w in weights],
            "lut_yosys": synthesised.lut,
            "lut_estimated": estimate.lut,
            "ff": synthesised.ff,
            "dsp": synthesised.dsp,
            "latency_cycles": synthesised.latency_cycles,
            "yosys": synthesised.version,
            "training_cpu_seconds": round(seconds + trained["cpu_seconds"], 1),
            "program": stored.name,
            "commit": environment()["commit"],
        }

    return runs.row(key, make)


def groups(rows):
    """Return one entry a budget: means and spreads over seeds."""
    found = []
    for budget in sorted({r["budget"] for r in rows}):
        own = [r for r in rows if r["budget"] == budget]
        drops = [r["float_accuracy"] - r["accuracy"] for r in own]
        keys = ("accuracy", "validation", "lut_yosys", "lut_estimated", "ff", "latency_cycles", "training_cpu_seconds")
        entry = {"budget": budget, "n_seeds": len(own), "drop": mean_and_spread(drops)}
        found.append(entry | {key: mean_and_spread(r[key] for r in own) for key in keys})
    return found


def kept(file, budgets):
    """Return a results file's rows of this script's other budgets, and the settings of each commit of them."""
    if not file.is_file():
        return [], {}
    before = json.loads(file.read_text())
    commit = before["environment"]["commit"]
    others = set(BUDGETS) - set(budgets)
    rows = [{"commit": commit, **row} for row in before["rows"] if row["budget"] in others]
    settings = {commit: before["settings"], **before.get("settings_before", {})}
    return rows, {name: settings[name] for name in {row["commit"] for row in rows}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", type=int, nargs="*", choices=BUDGETS, default=list(BUDGETS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=TRAINING.epochs)
    parser.add_argument("--quick", action="store_true", help="few jets, to see that everything runs")
    parser.add_argument("--work", type=Path, default=Path("runs/jets_front"), help="folder of rows")
    parser.add_argument("--out", type=Path, default=RESULTS / "jets_front.json")
    args = parser.parse_args()
    start, runs = environment(), Runs(args.work, quick=args.quick)
    rows, settings_before = kept(args.out, args.budgets)
    rows += [row(runs, budget, seed, args.epochs) for seed in args.seeds for budget in args.budgets]
    wrong = [r for r in rows if any(v["mismatches"] for v in r["verify"].values())]
    settings = {
        "training": asdict(TRAINING),
        "weight_bits": WEIGHT_BITS,
        "activation_bits": BUDGETS,
        "input_bits": INPUT_BITS,
    }
    document = {"schema": "dyadiq.benchmark.jets-front/1", "environment": start, "settings": settings}
    document |= {"settings_before": settings_before, "groups": groups(rows), "rows": rows}
    write_results(args.out, document)
    for entry in document["groups"]:
        print(f"{entry['budget']}: {percent(entry['accuracy'])} %, {entry['lut_yosys']['mean']:.0f} LUT")
    if wrong:
        sys.exit(f"executors differ: {wrong}")


if __name__ == "__main__":
    main()
