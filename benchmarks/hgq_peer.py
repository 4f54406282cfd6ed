"""HGQ2 on the jets of `dyadiq.zoo`: training, the exact integer program, its LUTs. The peer of `jets_vs_hgq.py`.

Needs the extra ``peers``. Imported by nothing else; knows nothing of Dyadiq's own way to a circuit but the data, the
synthesis script and the tools. Keras runs on torch, one thread.

Network and quantizers are those of HGQ2's own example (example/small_jet_tagger.ipynb of its repository): weights of
``kbi`` with b0 = 3, saturated; activations of ``kif`` with i0 = f0 = 3, wrapped; MonoL1(1e-3) on the fraction bits of
the output. Adam, 8e-3 falling by a cosine, batch 8,192. Two ways to a front, both HGQ2's:

* `train_point`: one training for a beta, which is reached by a log ramp over the first half of the epochs;
* `train_ramp`: one long training with beta growing all the way and cosine restarts of the learning rate (the author's
  sweep for this data set, calad0i/HGQ-demos, jet_classifier/configs/sweep-short.yaml, scaled to our epochs), of which
  `ParetoFront` keeps the checkpoints that no other beats in validation accuracy and EBOPs.

`measure` turns a trained network into a row. Integer bits of wrapped activations are traced on the training and
validation jets (`trace_minmax`), never on test jets. The circuit takes quantized inputs, as ours does: rounding the 16
features is not counted on either side (left to da4ml, it adds an adder each).
"""

import os

os.environ["KERAS_BACKEND"] = "torch"

import json
import shutil
import time

import keras
import numpy as np
import torch
from da4ml.codegen import RTLModel
from da4ml.converter import trace_model
from da4ml.trace import FixedVariableArray, HWConfig, comb_trace
from hgq.config import QuantizerConfig, QuantizerConfigScope
from hgq.layers import QDense
from hgq.regularizers import MonoL1
from hgq.utils import trace_minmax
from hgq.utils.sugar import BetaScheduler, FreeEBOPs, ParetoFront, PieceWiseSchedule

from dyadiq.fpga.synth import synthesis_script
from dyadiq.fpga.tools import find_tool, run_tool, tool_version

LEARNING_RATE = 8e-3
BATCH_SIZE = 8192
HIDDEN = (64, 32, 32)
CYCLE = 40  # epochs from one restart of the learning rate to the next, of a ramp
DEPTH = 4  # adders in a row between registers, as in our circuits
TOP = "peer"
STOCK = "synth_xilinx -family xcup -flatten -nodsp"
_HARDWARE, _SOLVER = HWConfig(1, -1, -1), {"hard_dc": 2}  # da4ml's own defaults (da4ml convert)


def build(n_inputs, n_classes):
    """Return the untrained network of HGQ2's example."""
    weights = QuantizerConfigScope(place="all", k0=1, b0=3, i0=0, default_q_type="kbi", overflow_mode="sat_sym")
    lanes = QuantizerConfigScope(place="datalane", k0=0, default_q_type="kif", overflow_mode="wrap", f0=3, i0=3)
    with weights, lanes:
        signed = QuantizerConfig(place="datalane", k0=1)
        logits = QuantizerConfig(place="datalane", k0=1, fr=MonoL1(1e-3))
        first, *rest = HIDDEN
        layers = [
            keras.layers.Input((n_inputs,)),
            QDense(first, iq_conf=signed, activation="relu"),
            *(QDense(width, activation="relu") for width in rest),
            QDense(n_classes, enable_oq=True, oq_conf=logits),
        ]
    return keras.Sequential(layers)


def train_point(dataset, folder, *, beta, seed, epochs):
    """Train for one beta; leave ``model.keras`` and ``training.json`` in the folder."""
    ramp = PieceWiseSchedule([(0, beta / 50, "log"), (epochs // 2, beta, "constant")])
    _train(dataset, folder, seed, epochs, ramp, {"beta": beta})


def train_ramp(dataset, folder, *, betas, seed, epochs):
    """Train once with beta growing; leave the checkpoints of the front and ``training.json`` in the folder."""
    first, last = betas
    ramp = PieceWiseSchedule([(0, first, "log"), (epochs, last, "constant")])
    front = ParetoFront(folder / "front", ["val_accuracy", "ebops"], [1, -1], fname_format="{epoch:04d}.keras")
    _train(dataset, folder, seed, epochs, ramp, {"betas": betas}, front)


def _train(dataset, folder, seed, epochs, ramp, settings, front=None):
    """Fit; ``training.json`` is written last, so that its presence says that the training is whole."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.set_num_threads(1)
    keras.utils.set_random_seed(seed)
    model = build(dataset.train.x.shape[1], len(dataset.classes))
    steps = -(-len(dataset.train) // BATCH_SIZE)
    schedules = keras.optimizers.schedules
    if front:
        rate = schedules.CosineDecayRestarts(LEARNING_RATE, CYCLE * steps, t_mul=1.0, m_mul=0.98, alpha=1e-6)
    else:
        rate = schedules.CosineDecay(LEARNING_RATE, epochs * steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    callbacks = [FreeEBOPs(), BetaScheduler(ramp), keras.callbacks.TerminateOnNaN(), *([front] if front else [])]
    validation = (dataset.validation.x, dataset.validation.y) if front else None
    wall, cpu = time.perf_counter(), time.process_time()
    history = model.fit(
        dataset.train.x,
        dataset.train.y,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        validation_data=validation,
        validation_batch_size=BATCH_SIZE,
        callbacks=callbacks,
        verbose=0,
    )
    seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    model.save(folder / "model.keras")
    document = {"seed": seed, "epochs": epochs, **settings, **seconds, "history": history.history}
    (folder / "training.json").write_text(json.dumps(document, default=float) + "\n")


def measure(dataset, model_file, folder, *, stock=False):
    """Return the row of a trained network (accuracies of the integer program, EBOPs, LUTs); leave its Verilog."""
    torch.set_num_threads(1)
    model = keras.models.load_model(model_file)
    ebops = trace_minmax(model, np.concatenate([dataset.train.x, dataset.validation.x]), batch_size=BATCH_SIZE)
    program, rounded = _program(model), _program(model, rounds_inputs=True)
    row = {"ebops": int(ebops), "lut_da4ml": int(program.cost), "lut_da4ml_with_input_rounding": int(rounded.cost)}
    for name, split in (("val_accuracy", dataset.validation), ("accuracy", dataset.test)):
        codes = _quantized(model, split.x)
        logits = program.predict(codes, n_threads=1)
        row[name] = float((logits.argmax(1) == split.y).mean())
    # What Keras computes in float32 for the test jets, against the integers.
    float_logits = np.concatenate([_numpy(model(part)) for part in np.array_split(split.x, 16)])
    row |= {"n_test": len(split), "n_different_from_keras": int((float_logits != logits).any(1).sum())}
    shutil.rmtree(folder, ignore_errors=True)
    circuit = RTLModel(program, TOP, folder, latency_cutoff=DEPTH, print_latency=False)
    circuit.write()
    row |= {"adder_depth": int(max(program.latency)), "latency_cycles": len(circuit._pipe.solutions) + 1}
    sources = [f"src/{file.name}" for file in sorted((folder / "src").glob(f"{TOP}*.v")) if "wrapper" not in file.name]
    static = sorted((folder / "src" / "static").glob("*.v"))
    sources += [f"src/static/{file.name}" for file in static if file.name != "lookup_table.v"]
    ours = _synthesize(folder, "ours", synthesis_script(folder, "xcup", sources, TOP))
    row |= {"lut_yosys": ours["lut"], "ff": ours["ff"], "yosys": ours}
    if stock:
        row["yosys_stock"] = _synthesize(folder, "stock", f"read_verilog {' '.join(sources)}; {STOCK} -top {TOP}")
    return row


def _program(model, *, rounds_inputs=False):
    """Return da4ml's combinational integer program of quantized inputs, or with the rounding of them."""
    inputs = None
    if not rounds_inputs:
        k, i, f = (_numpy(part).astype(np.int64).reshape(-1) for part in model.layers[0].iq.quantizer.kif)
        inputs = FixedVariableArray.from_kif(k, i, f, _HARDWARE, 0.0, _SOLVER)
    return comb_trace(*trace_model(model, _HARDWARE, _SOLVER, inputs=inputs))


def _quantized(model, x):
    """Return what enters the circuit: round half up, wrapped (as `kif` quantizers with RND and WRAP do)."""
    k, i, f = (_numpy(part).astype(np.float64).reshape(-1) for part in model.layers[0].iq.quantizer.kif)
    low, span = -k * 2.0**i, (1 + k) * 2.0**i
    rounded = np.floor(x.astype(np.float64) * 2.0**f + 0.5) * 2.0**-f
    return np.where(k + i + f > 0, (rounded - low) % span + low, 0.0)


def _numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def _synthesize(folder, name, script):
    """Return LUTs, flip-flops and wide multiplexers of the circuit in a folder."""
    command = f"{script}; tee -q -o {name}.stat stat -json"
    started = time.perf_counter()
    run_tool([find_tool("yosys"), "-Q", "-T", "-q", "-p", command], folder=folder, log=folder / f"{name}.log")
    seconds = time.perf_counter() - started
    cells = json.loads((folder / f"{name}.stat").read_text())["design"]["num_cells_by_type"]
    luts = {cell: cells[cell] for cell in sorted(cells) if cell.startswith("LUT")}
    return {
        "lut": sum(luts.values()),
        "ff": sum(n for cell, n in cells.items() if cell.startswith("FD")),
        "carry": cells.get("CARRY4", 0) + cells.get("CARRY8", 0),
        "mux": sum(cells.get(cell, 0) for cell in ("MUXF7", "MUXF8", "MUXF9")),
        "dsp": cells.get("DSP48E2", 0),
        "seconds": round(seconds, 1),
        "version": tool_version("yosys"),
    }
