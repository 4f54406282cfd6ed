"""Jets: accuracy against LUTs, beside HGQ2 with da4ml. Run: python benchmarks/jets_vs_hgq.py peer|plot

`peer` trains HGQ2 (module `hgq_peer`) on the jets of the recipes: the same training jets, the same validation jets for
every choice, the same test jets for the accuracy of the integer program. LUTs are counted by the flow that counts
ours. Finished trainings and rows are kept in the work folder and not made again. One thread.

`plot` draws both fronts, this one and that of jets_front.py, from the stored results, and prints the table of both.

Needs ``pip install 'dyadiq[peers]'``, Yosys, and the jets in the folder that DYADIQ_DATA names.
Exit code 1 if an integer program differs from Keras on a test jet.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import matplotlib as mpl
from environment import environment
from jets_runs import save_svg
from matplotlib.figure import Figure
from recipe_runs import mean_and_spread, percent, write_results

from dyadiq.zoo import load_dataset

BETAS = (1e-6, 5e-6, 2e-5, 4e-5)
RAMP = (5e-7, 8e-5)
STOCK_BETAS = (5e-6, 4e-5)  # also synthesised by plain Yosys, on the first seed: which flow favours whom
RESULTS = Path(__file__).parent / "results"
FRONTS = {"Dyadiq": "jets_front.json", "HGQ2 + da4ml": "jets_hgq.json"}


def peer(args):
    """Train and measure what is missing; write the rows."""
    import hgq_peer  # brings Keras in, which the other commands do without

    start = environment()
    dataset = load_dataset("jets", n_train=args.n_train)
    rows = kept(args.out, args.betas, args.epochs) if args.keep else []
    for seed in args.seeds:
        for beta in args.betas:
            folder = args.work / f"beta{beta:g}-seed{seed}"
            if not (folder / "training.json").is_file():
                if args.only_trained:
                    continue
                hgq_peer.train_point(dataset, folder, beta=beta, seed=seed, epochs=args.epochs)
            stock = seed == args.seeds[0] and beta in STOCK_BETAS
            rows.append(_row(hgq_peer, dataset, folder, "model.keras", "fixed beta", stock=stock))
    for seed in args.ramp_seeds:
        folder = args.work / f"ramp-seed{seed}"
        if not (folder / "training.json").is_file():
            if args.only_trained:
                continue
            hgq_peer.train_ramp(dataset, folder, betas=RAMP, seed=seed, epochs=args.ramp_epochs)
        rows += [_row(hgq_peer, dataset, folder, f"front/{name}", "ramp", stock=False) for name in front_of(folder)]
    document = {
        "schema": "dyadiq.benchmark.jets-hgq/1",
        "environment": start,
        "settings": {
            "betas": sorted({row["beta"] for row in rows if row["kind"] == "fixed beta"}),
            "ramp": RAMP,
            "batch_size": hgq_peer.BATCH_SIZE,
            "learning_rate": hgq_peer.LEARNING_RATE,
            "depth": hgq_peer.DEPTH,
        },
        # The integer program must be what Keras computes: else its accuracy were not that of the trained network.
        "problems": [
            f"{row['kind']} {row['beta']:g}, seed {row['seed']}: {row['n_different_from_keras']} jets differ from Keras"
            for row in rows
            if row["n_different_from_keras"]
        ],
        "groups": groups(rows),
        "rows": rows,
    }
    write_results(args.out, document)
    print(table(document))
    if document["problems"]:
        sys.exit("\n".join(document["problems"]))


def kept(file, betas, epochs):
    """Return the rows of a results file that are of other betas or of trainings of another length."""
    rows = json.loads(file.read_text())["rows"]
    again = [any(math.isclose(row["beta"], b, rel_tol=1e-6) for b in betas) and row["epochs"] == epochs for row in rows]
    return [row for row, made in zip(rows, again, strict=True) if not made]


def _row(hgq_peer, dataset, folder, model, kind, *, stock):
    """Return the row of one network, measured unless it was."""
    file = folder / "rows" / f"{Path(model).stem}.json"
    if not file.is_file():
        training = json.loads((folder / "training.json").read_text())
        row = {"kind": kind, "seed": training["seed"], "epochs": training["epochs"]}
        epoch = int(Path(model).stem) if kind == "ramp" else -1
        row |= {"beta": training["history"]["beta"][epoch], "epoch": epoch % training["epochs"]}
        row |= {key: round(training[key], 1) for key in ("seconds", "cpu_seconds")}
        row |= hgq_peer.measure(dataset, folder / model, folder / "circuit", stock=stock)
        write_results(file, row)
        print(
            f"{folder.name}, epoch {row['epoch']}: {row['accuracy']:.4f}, {row['lut_yosys']} LUT",
            file=sys.stderr,
            flush=True,
        )
    return json.loads(file.read_text())


def front_of(folder, *, n_per_octave=2):
    """Return the checkpoints of a ramp to measure: by EBOPs, the best in validation accuracy of each half octave."""
    history = json.loads((folder / "training.json").read_text())["history"]
    best = {}
    for file in sorted((folder / "front").glob("*.keras")):
        ebops, accuracy = (history[key][int(file.stem)] for key in ("ebops", "val_accuracy"))
        place = int(math.log2(max(ebops, 1)) * n_per_octave)
        best[place] = max(best.get(place, (0.0, "")), (accuracy, file.name))
    return [name for _, name in sorted(best.values(), key=lambda found: found[1])]


def groups(rows):
    """Return one entry for each fixed beta and length of training: means and spreads over seeds."""
    found = []
    fixed = [row for row in rows if row["kind"] == "fixed beta"]
    for beta, epochs in sorted({(row["beta"], row["epochs"]) for row in fixed}):
        own = [row for row in fixed if (row["beta"], row["epochs"]) == (beta, epochs)]
        keys = ("accuracy", "val_accuracy", "ebops", "lut_da4ml", "lut_yosys", "ff", "latency_cycles", "cpu_seconds")
        entry = {"beta": beta, "epochs": epochs, "n_seeds": len(own)}
        found.append(entry | {k: mean_and_spread(r[k] for r in own) for k in keys})
    return found


def table(document):
    """Return the Markdown table of a result."""
    lines = [
        "| beta | epochs | seeds | accuracy % | EBOPs | LUT (da4ml's estimate) | LUT (Yosys) | FF | cycles "
        "| training, CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in document["groups"]:
        counts = (entry[key] for key in ("ebops", "lut_da4ml", "lut_yosys", "ff", "latency_cycles", "cpu_seconds"))
        cells = " | ".join(f"{found['mean']:,.0f} ± {found['std']:,.0f}" for found in counts)
        lines.append(
            f"| {entry['beta']:g} | {entry['epochs']} | {entry['n_seeds']} | {percent(entry['accuracy'])} | {cells} |"
        )
    return "\n".join(lines)


def plot(args):
    """Draw both fronts and print their table."""
    both = {name: json.loads((RESULTS / file).read_text()) for name, file in FRONTS.items()}
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        for (name, document), marker, colour in zip(both.items(), "o^", ("tab:blue", "tab:red"), strict=True):
            rows = [row for row in document["rows"] if row.get("kind", "fixed beta") == "fixed beta"]
            luts, accuracies = [row["lut_yosys"] for row in rows], [100 * row["accuracy"] for row in rows]
            axes.plot(luts, accuracies, marker, color=colour, markersize=4, alpha=0.5)
            groups_ = sorted(document["groups"], key=lambda e: e["lut_yosys"]["mean"])
            x, y = ([e[key]["mean"] for e in groups_] for key in ("lut_yosys", "accuracy"))
            axes.plot(x, [100 * v for v in y], "-", color=colour, label=f"{name} (line: means over seeds)")
        axes.set(xscale="log", xlabel="LUTs (Yosys, UltraScale+, no DSPs)", ylabel="accuracy on the test split, %")
        axes.legend(frameon=False, loc="lower right")
    save_svg(figure, args.figure)
    print(both_table(*both.values()))


def both_table(ours, theirs):
    """Return the Markdown table of both fronts, by LUTs."""
    lines = [
        "| network | accuracy % | validation % | LUT (Yosys) | FF | cycles | training, CPU s | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    entries = [(f"Dyadiq, lut = {e['budget']}", "validation", "training_cpu_seconds", e) for e in ours["groups"]]
    entries += [
        (f"HGQ2, beta = {e['beta']:g}, {e['epochs']} epochs", "val_accuracy", "cpu_seconds", e)
        for e in theirs["groups"]
    ]
    for name, validation, seconds, e in sorted(entries, key=lambda entry: entry[3]["lut_yosys"]["mean"]):
        counts = " | ".join(
            f"{e[key]['mean']:,.0f} ± {e[key]['std']:,.0f}" for key in ("lut_yosys", "ff", "latency_cycles", seconds)
        )
        lines.append(f"| {name} | {percent(e['accuracy'])} | {percent(e[validation])} | {counts} | {e['n_seeds']} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("peer", help="train and measure HGQ2")
    command.set_defaults(run=peer)
    command.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of the trainings for one beta")
    command.add_argument("--betas", type=float, nargs="*", default=list(BETAS))
    command.add_argument("--epochs", type=int, default=160)
    command.add_argument("--keep", action="store_true", help="keep rows of other betas and epochs that the file holds")
    command.add_argument("--ramp-seeds", type=int, nargs="*", default=[], help="of the trainings with growing beta")
    command.add_argument("--ramp-epochs", type=int, default=640, help="as many as the four betas together")
    command.add_argument("--only-trained", action="store_true", help="start no training; leave out what is missing")
    command.add_argument("--n-train", type=int, help="use only the first jets of the training part")
    command.add_argument("--work", type=Path, default=Path("runs/jets_hgq"), help="folder of trainings and rows")
    command.add_argument("--out", type=Path, default=RESULTS / "jets_hgq.json")
    command = commands.add_parser("plot", help="draw both fronts")
    command.set_defaults(run=plot)
    command.add_argument("--figure", type=Path, default=Path("docs/figures/jets_front.svg"))
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
