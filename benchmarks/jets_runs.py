"""Networks of the jets tables: float trainings and integer programs, each made once and kept; used by jets_*.py.

A `Runs` holds a work folder with one JSON file a row (and one of weights a float network), named by the hash of
everything that decides the row; a row that is there is not made again, so that a table may be interrupted anywhere.
Accuracies on the test split are in the rows, but nothing here or in the tables is chosen by them.
"""

import hashlib
import json
import sys
import time
import warnings
from dataclasses import replace

import matplotlib as mpl
import torch

from dyadiq.core.artifact import atomic_write_text
from dyadiq.core.facts import QuantConfig
from dyadiq.core.format import Format
from dyadiq.core.qtype import bits_for_range
from dyadiq.cost import network_facts
from dyadiq.cost.bops import program_bops
from dyadiq.fpga.estimate import estimate_hardware
from dyadiq.ir.capture import capture
from dyadiq.ir.integer import effective_weight
from dyadiq.ir.passes import canonicalize
from dyadiq.pipeline.evaluate import evaluate_program
from dyadiq.pipeline.sources import load_state, save_state
from dyadiq.quant.lower import lower
from dyadiq.quant.quantize import quantize
from dyadiq.targets.verify import verify
from dyadiq.train import TrainConfig, evaluate, train
from dyadiq.train.finetune import finetune
from dyadiq.zoo import build_model, load_dataset

# The quantization of recipes/jets.toml, without its bound on products: 12-bit codes leave float32 executors.
WEIGHT = Format(8, signed=True, narrow=True, granularity="tensor", scale="pow2", range_method="mse")
ACTIVATION = Format(8, scale="pow2", range_method="mse")
# Rates were chosen on the validation split of seed 0, epochs by time.
FLOAT = TrainConfig(epochs=40, batch_size=2048, learning_rate=1.4e-2, schedule="onecycle")
LONG = TrainConfig(epochs=6, batch_size=2048, learning_rate=3e-3, schedule="onecycle")
SHORT = TrainConfig(epochs=2, batch_size=4096, learning_rate=5e-3, schedule="onecycle")
QUICK_JETS = {"n_train": 3000, "n_test": 500}
_N_CALIBRATION, _BATCH = 8192, 1024


class Runs:
    """Rows of one table, by what decides them.

    Args:
        work: Folder of what is kept.
        quick: One epoch on a few jets, to see that everything runs.
    """

    def __init__(self, work, *, quick=False):
        self.work, self.quick, self._data = work, quick, {}
        work.mkdir(parents=True, exist_ok=True)

    def data(self, seed):
        """Return the jets with the validation split of a seed."""
        if seed not in self._data:
            self._data = {seed: load_dataset("jets", seed=seed, **(QUICK_JETS if self.quick else {}))}
        return self._data[seed]

    def config(self, config, seed, l1):
        """Return training settings with everything filled in."""
        config = replace(config, seed=seed, l1=l1)
        return replace(config, epochs=1, batch_size=256) if self.quick else config

    def row(self, key, make):
        """Return the row that a JSON-able key decides, made by ``make()`` unless it is in the work folder."""
        text = json.dumps({**key, "quick": self.quick}, sort_keys=True)
        path = self.work / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"
        if not path.is_file():
            start = time.process_time()
            row = {**make(path), "cpu_seconds": round(time.process_time() - start, 1)}
            atomic_write_text(path, json.dumps({"key": json.loads(text), "row": row}, indent=1))
            print({k: v for k, v in row.items() if not isinstance(v, dict | list)}, file=sys.stderr, flush=True)
        return json.loads(path.read_text())["row"]

    def float_network(self, batch_norm, l1, seed):
        """Return the row of a float network (accuracies) and its captured graph."""
        config, data = self.config(FLOAT, seed, l1), self.data(seed)
        key = {"kind": "float", "batch_norm": batch_norm, "train": config.to_json()}
        model = build_model("jet_tagger", seed=seed, batch_norm=batch_norm)

        def make(path):
            result = train(model, data.train, config, validation=data.validation)
            weights = path.with_suffix(".safetensors")
            save_state(weights, model)
            accuracy = {"accuracy": evaluate(model, data.test).accuracy, "validation": result.validation_accuracy}
            return {
                "seed": seed,
                "weights": path.with_suffix(".safetensors").name,
                **accuracy,
                "n_test": len(data.test),
            }

        row = self.row(key, make)
        load_state(self.work / row["weights"], model)
        return row, capture(model.eval(), torch.from_numpy(data.train.x[:4]))

    def integer_network(self, batch_norm, l1, seed, config, plan_of, training, against=("exact",), depth=None):
        """Return the row of an integer program: calibrated, fine-tuned and lowered from the float network.

        ``plan_of`` maps the network's facts to a `BitPlan`; with a ``depth``, the row has the circuit's estimated LUTs.
        """
        _, graph = self.float_network(batch_norm, l1, seed)
        plan, settings = plan_of(network_facts(canonicalize(graph), config)), self.config(training, seed, l1)
        key = {"kind": "integer", "batch_norm": batch_norm, "float": self.config(FLOAT, seed, l1).to_json()}
        key |= {"finetune": settings.to_json(), "config": config.to_json(), "bits": plan.bits, "against": list(against)}
        key |= {} if depth is None else {"depth": depth}

        def make(_):
            data = self.data(seed)
            batches = calibration(data, _N_CALIBRATION)
            qmod = quantize(graph, plan, batches, config=config, seed=seed)
            finetune(qmod, data.train, config=settings, validation=data.validation)
            program = lower(qmod)
            found = {"seed": seed, **described(program, plan), **measured(program, data, against)}
            return found if depth is None else {**found, "lut": estimate_hardware(program, depth).lut}

        return self.row(key, make)


def calibration(data, n_samples):
    """Return the first training jets in batches."""
    x = data.train.x[:n_samples]
    return [x[start : start + _BATCH] for start in range(0, len(x), _BATCH)]


def quant_config(input_bits):
    """Return the quantization of every table, with the width of the network's input."""
    return QuantConfig(weight=WEIGHT, activation=ACTIVATION, input_bits=input_bits)


def described(program, plan):
    """Return bits, zeros and bit operations of a program; lists are in the order of layers."""
    graph = program.graph
    layers = [node for node in graph.nodes if node.op == "linear"]
    weights = [effective_weight(graph, node) for node in layers]
    biases = [graph.params[node.inputs[2]] for node in layers]
    return {
        "weight_bits": [graph.param_types[node.inputs[1]].bits for node in layers],
        "activation_bits": [graph.tensors[node.inputs[0]].qtype.bits for node in layers],
        "output_bits": graph.tensors[graph.outputs[0]].qtype.bits,
        # What the values need, by sign and magnitude; nobody chooses it.
        "bias_bits": [bits_for_range(min(-1, int(b.min())), int(b.max())).bits for b in biases],
        "accumulator_bits": [graph.tensors[node.output].qtype.bits for node in layers],
        "zero_frac": sum(int((w == 0).sum()) for w in weights) / sum(w.size for w in weights),
        "bops": program_bops(program),
        "bops_dense": program_bops(program, dense=True),
        "bits": plan.bits,
    }


def measured(program, data, against):
    """Return accuracies of the integer program, and what other executors made of the test split."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of exporters; what matters is in the result
        compared = verify(program, data.test.x, against=against)
    return {
        "accuracy": evaluate_program(program, data.test),
        "validation": evaluate_program(program, data.validation),
        "n_test": len(data.test),
        "verify": {
            name: {key: getattr(found, key) for key in ("samples", "compared", "mismatches")}
            for name, found in compared.items()
            if found.exact
        },
    }


def span(values):
    """Return ``low–high`` of integers, or the one value they all have, as text."""
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}–{high}"


def mismatches(rows):
    """Return what is wrong: rows with an executor that differs from the reference."""
    return [
        f"{row['label']}, seed {row['seed']}: {name}: {found}"
        for row in rows
        for name, found in row.get("verify", {}).items()
        if found["mismatches"] or found["samples"] != row["n_test"]
    ]


def save_svg(figure, path):
    """Write a figure, the same bytes each time; text stays text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "dyadiq", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
