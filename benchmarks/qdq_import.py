"""Networks that onnxruntime quantized, read as integer programs: how often their codes differ from onnxruntime's.

    python benchmarks/qdq_import.py [--networks NAME ...] [--n-samples N] [--json PATH] [--table]

Trained networks of the data pack are exported by torch, quantized by onnxruntime's quantize_static (QDQ, uint8
activations, int8 weights per channel, ranges of 128 training images) and read by `import_qonnx(nearest=True)`. On test
images: the share of output codes that differ from onnxruntime with its fused integer kernels, and without (float32 with
quantizers), and between these two; the same of the first tensor that differs at all, where nothing before it did; the
share of answers that are equal; and accuracy. Roundings that had no exact form are counted.

Writes benchmarks/results/qdq_import.json, one entry a network; a run adds to what is there.
"""

import argparse
import json
import logging
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from environment import environment

from dyadiq.ir.qonnx_import import import_qonnx
from dyadiq.quant.exact import run_exact
from dyadiq.train import TrainConfig, train
from dyadiq.zoo import build_model, load_dataset

RESULTS = Path(__file__).parents[1] / "benchmarks/results/qdq_import.json"
NETWORKS = {  # data set and its options
    "digits_resnet": ("digits", {}),
    "cifar_resnet20": ("cifar10", {}),
    "squeezenet1_1": ("imagenet_sample", {"preparation": "caffe"}),
}
N_CALIBRATION, BATCH = 128, 16


def model_and_data(name):
    which, options = NETWORKS[name]
    data = load_dataset(which, **options)
    if name != "digits_resnet":
        return build_model(name, pretrained=True).eval(), data
    model = build_model(name, seed=0)
    train(
        model, data.train, TrainConfig(epochs=8, batch_size=64, learning_rate=3e-3, seed=0), validation=data.validation
    )
    return model.eval(), data


def quantized(model, data, folder):
    """The file that quantize_static makes."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        batches = iter([data.train.x[i : i + BATCH] for i in range(0, N_CALIBRATION, BATCH)])

        def get_next(self):
            batch = next(self.batches, None)
            return None if batch is None else {"x": batch}

    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.from_numpy(data.train.x[:2]),), folder / "float.onnx", dynamo=False, opset_version=17,
            input_names=["x"], dynamic_axes={"x": {0: "N"}},
        )  # fmt: skip
        quantize_static(
            folder / "float.onnx", folder / "qdq.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    return onnx.load(folder / "qdq.onnx")


def theirs(model, x, fused):
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if fused else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    parts = [session.run(None, {"x": x[i : i + BATCH]}) for i in range(0, len(x), BATCH)]
    columns = map(np.concatenate, zip(*parts, strict=True))
    return dict(zip([o.name for o in session.get_outputs()], columns, strict=True))


def codes_of(values, info):
    return np.rint(values.astype(np.float64) / np.asarray(info.scale)).astype(np.int64) + info.zero_point


def first_difference(model, x):
    """The first tensor, in order, whose codes differ, and the share of them that do."""
    constants = {tensor.name for tensor in model.graph.initializer}
    names = [n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] not in constants]
    told = {output.name for output in model.graph.output}
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for name in names:
        if name not in told:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    program = import_qonnx(model, outputs=names, nearest=True)
    found, ours = program.provenance["outputs"], run_exact(program, x)
    given = theirs(model, x, fused=False)
    for name in names:
        tensor = found[name]
        wrong = codes_of(given[name], program.graph.tensors[tensor]) != ours[tensor]
        if wrong.any():
            return {"tensor": name, "share": float(wrong.mean()), "codes": int(wrong.size)}
    return None


def measure(name, n_samples):
    model, data = model_and_data(name)
    x, y = data.test.x[:n_samples], data.test.y[:n_samples]
    with tempfile.TemporaryDirectory() as folder:
        file = quantized(model, data, Path(folder))
    start = time.perf_counter()
    program = import_qonnx(file, nearest=True)
    seconds = time.perf_counter() - start
    (output,) = program.graph.outputs
    info = program.graph.tensors[output]
    ours = np.concatenate([run_exact(program, x[i : i + BATCH])[output] for i in range(0, len(x), BATCH)])
    plain, fused = (codes_of(next(iter(theirs(file, x, f).values())), info) for f in (False, True))
    near = [note for note in program.provenance["notes"] if "near integer forms" in note]
    quantizers = sum(node.op_type == "QuantizeLinear" for node in file.graph.node)
    return {
        "n_samples": len(x),
        "n_codes": int(ours.size),
        "roundings": quantizers,
        "near": int(near[0].split()[0]) if near else 0,
        "differ_fused": float((ours != fused).mean()),
        "differ_plain": float((ours != plain).mean()),
        "differ_among_themselves": float((plain != fused).mean()),
        "largest_difference": int(np.abs(ours - fused).max()),
        "first": first_difference(file, x[:BATCH]),
        "same_answers": float((ours.argmax(1) == fused.argmax(1)).mean()),
        "accuracy": float((ours.argmax(1) == y).mean()),
        "accuracy_theirs": float((fused.argmax(1) == y).mean()),
        "import_seconds": round(seconds, 1),
        "environment": environment(),
    }


def table(results):
    lines = [
        "| network, images | near of all roundings | codes that differ, largest | theirs among themselves | first that "
        "differ | same answers | accuracy, theirs |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, e in results.items():
        first = "none" if e["first"] is None else f"{e['first']['share']:.1e} of {e['first']['codes']:,}"
        lines.append(
            f"| {name}, {e['n_samples']} | {e['near']} of {e['roundings']} | {100 * e['differ_fused']:.2f} %, "
            f"{e['largest_difference']} | {100 * e['differ_among_themselves']:.2f} % | {first} | "
            f"{100 * e['same_answers']:.1f} % | {100 * e['accuracy']:.1f}, {100 * e['accuracy_theirs']:.1f} % |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=tuple(NETWORKS), choices=tuple(NETWORKS))
    parser.add_argument("--n-samples", type=int, default=256)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table of the results, measure nothing")
    arguments = parser.parse_args()
    results = json.loads(arguments.json.read_text()) if arguments.json.is_file() else {}
    if not arguments.table:
        for name in arguments.networks:
            results[name] = measure(name, arguments.n_samples)
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
