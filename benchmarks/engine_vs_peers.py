"""The engine beside the int8 runtimes of others: time of one image, one thread, and what every step takes.

    python benchmarks/engine_vs_peers.py [--networks NAME ...] [--rounds N] [--json PATH] [--profile] [--table]

W8A8 everywhere; ResNet-18 also with weights of 4 bits, but for the first and last layer, and activations of 8 or 6,
beside the same peers in int8. The engine runs our program; peers run what onnxruntime's static quantizer makes of the
same float network (QDQ, unsigned activations, weights by channel): onnxruntime itself, and OpenVINO, which reads it.
LiteRT reads neither format: it runs ResNet-20 from a file that tflite_maker.py makes of our own quantized network, with
XNNPACK, in two forms of its shortcuts, of which `litert` is the faster. Peers that are not installed are named and left
out. Calibration is random: times do not depend on it. Weights are trained where the data pack has them, else random.

Rounds are interleaved: in each, every runtime runs for about 50 ms of CPU time, and its time is that of the process. A
ratio is the median over rounds of that of one round. Every network's program is first compared with the reference,
integer for integer. Writes benchmarks/results/engine_vs_peers.json, one entry a network; a run adds to what is there.
"""

import importlib.util
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from arguments import parser_of, read_results, write_results
from environment import environment
from tflite_maker import steps_of, tflite_bytes

import dyadiq as dq
from dyadiq.core.errors import DataError
from dyadiq.core.plan import BitPlan, uniform_plan
from dyadiq.cost.facts import network_facts
from dyadiq.engine import EngineProgram, compile_program, write_engine_file
from dyadiq.ir.passes import canonicalize
from dyadiq.zoo import build_model
from dyadiq.zoo.pretrained import PRETRAINED

RESULTS = Path(__file__).parent / "results/engine_vs_peers.json"
NETWORKS = {
    "cifar_resnet20": (3, 32, 32),
    "resnet18": (3, 224, 224),
    "squeezenet1_1": (3, 224, 224),
    "mobilenet_v2": (3, 224, 224),
}
MIXED = {"resnet18": {"w4a8": (4, 8), "w4a6": (4, 6)}}  # bits of weights and activations
N_CALIBRATION, SLICE_SECONDS = 4, 0.05


def build(name):
    """The network, and whether its weights are trained."""
    if name in PRETRAINED:
        try:
            return build_model(name, pretrained=True).eval(), True
        except DataError:
            pass  # no data pack here
    return build_model(name).eval(), False


def plan_of(facts, bits):
    """Bits of weights and activations, but 8 bits in the weights of the first and the last layer."""
    weights = [d.name for d in facts.decisions if d.kind == "weight"]
    plan, whole = uniform_plan(facts, *bits), uniform_plan(facts, 8, 8)
    return BitPlan({**plan.formats, **{name: whole.formats[name] for name in (weights[0], weights[-1])}})


def quantized(model, batch, bits=(8, 8)):
    graph = dq.capture(model, batch[:1])
    return dq.quantize(graph, plan_of(network_facts(canonicalize(graph)), bits), [batch.numpy()])


def engine_runner(module, batch, path):
    program = dq.lower(module)
    write_engine_file(compile_program(program), path)
    engine = EngineProgram(path)
    (name,) = engine.inputs
    one = {name: batch[:1].numpy()}
    expected, found = dq.run_reference(program, one), engine.run(one)
    assert all(np.array_equal(found[key], expected[key]) for key in expected), "the engine differs from the reference"
    return lambda: engine.run(one), engine


def quantized_onnx(model, batch, folder):
    """A QDQ model by onnxruntime's own quantizer."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = [{"x": batch[i : i + 1].numpy()} for i in range(len(batch))]

        def get_next(self):
            return self.left.pop() if self.left else None

    plain, simple, quantized = (folder / f"{stage}.onnx" for stage in ("plain", "simple", "quantized"))
    torch.onnx.export(model, (batch[:1],), plain, input_names=["x"], dynamo=True, external_data=False, verbose=False)
    quant_pre_process(plain, simple)
    quantize_static(
        simple, quantized, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return quantized


def onnxruntime_runner(path, x):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})


def openvino_runner(path, x):
    import openvino

    config = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(openvino.Core().read_model(path), "CPU", config).create_infer_request()
    request.set_input_tensor(openvino.Tensor(x))
    return request.infer


def litert_interpreter(content):
    """LiteRT in one thread; XNNPACK is its default."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def litert_runner(module, batch, slices):
    interpreter = litert_interpreter(tflite_bytes(*steps_of(module, batch, slices)))
    (source,) = interpreter.get_input_details()
    interpreter.set_tensor(source["index"], np.ascontiguousarray(batch[:1].permute(0, 2, 3, 1).numpy()))
    return interpreter.invoke


PEERS = {"onnxruntime": onnxruntime_runner, "openvino": openvino_runner}
LITERT = {"cifar_resnet20": {"litert": False, "litert_slices": True}}  # whether shortcuts are slices and pads
DISTRIBUTIONS = {"litert": "ai-edge-litert", "litert_slices": "ai-edge-litert"}


def seconds_of(run, n):
    start = time.process_time()
    for _ in range(n):
        run()
    return (time.process_time() - start) / n


def time_in_turns(runners, n_rounds):
    """Microseconds of every runner in every round, by name."""
    counts = {}
    for peer, step in runners.items():
        seconds_of(step, 3)
        counts[peer] = max(1, round(SLICE_SECONDS / max(seconds_of(step, 3), 1e-6)))
    times = {peer: [] for peer in runners}
    for _ in range(n_rounds):
        for peer, step in runners.items():
            times[peer].append(seconds_of(step, counts[peer]) * 1e6)
    return times


def ratio_of(times, ours, peer, label):
    """The median over rounds of one's time over that of another in the same round, and its quartiles."""
    ratios = np.array(times[ours]) / np.array(times[peer])
    low, middle, high = (round(float(q), 3) for q in np.quantile(ratios, (0.25, 0.5, 0.75)))
    return {f"{label}_vs_{peer}": middle, f"{label}_vs_{peer}_quartiles": [low, high]}


def peer_runners(model, batch, folder):
    """Runtimes that read QDQ models, by name, and those that are not installed."""
    missing = [peer for peer in PEERS if importlib.util.find_spec(peer) is None]
    if len(missing) == len(PEERS):
        return {}, missing
    path = quantized_onnx(model, batch, folder)
    return {p: make(path, batch[:1].numpy()) for p, make in PEERS.items() if p not in missing}, missing


def measure(name, n_rounds, profiles):
    model, trained = build(name)
    batch = torch.randn(N_CALIBRATION, *NETWORKS[name], generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        module = quantized(model, batch)
        run, engine = engine_runner(module, batch, folder / "engine.dyqe")
        mixed = MIXED.get(name, {})
        others, missing = peer_runners(model, batch, folder)
        runners = {"engine": run, **others}
        for peer, slices in LITERT.get(name, {}).items():
            if importlib.util.find_spec("ai_edge_litert") is None:
                missing.append(peer)
                continue
            runners[peer] = litert_runner(module, batch, slices)
        peers = [peer for peer in runners if peer != "engine"]
        for plan, bits in mixed.items():
            runners[plan] = engine_runner(quantized(model, batch, bits), batch, folder / f"{plan}.dyqe")[0]
        times = time_in_turns(runners, n_rounds)
        file_bytes = {ours: (folder / f"{ours}.dyqe").stat().st_size for ours in ("engine", *mixed)}
        steps = engine.profile({next(iter(engine.inputs)): batch[:1].numpy()}, repeats=20)
    row = {
        "network": name,
        "weights": "trained" if trained else "random",
        "isa": engine.isa,
        "arena_bytes": engine.arena_bytes,
        "n_rounds": n_rounds,
        "median_us": {peer: round(float(np.median(t)), 1) for peer, t in times.items()},
        "least_us": {peer: round(min(t), 1) for peer, t in times.items()},
        "missing": missing,
        "versions": {peer: metadata.version(DISTRIBUTIONS.get(peer, peer)) for peer in peers},
        "file_bytes": file_bytes,
        "kind": "measured",
    }
    for ours, label in (("engine", "int8"), *((name, name) for name in mixed)):
        for peer in (*peers, *(["engine"] if ours != "engine" else [])):
            row |= ratio_of(times, ours, peer, label)
    total = sum(step.time_us for step in steps)
    row["profile_us"] = {
        op: round(sum(step.time_us for step in steps if step.op == op), 1) for op in sorted({s.op for s in steps})
    }
    peaks = [(step.macs, step.time_us, step.peak_frac) for step in steps if step.peak_frac is not None]
    row["peak_frac"] = round(sum(m for m, _, _ in peaks) / total / (max(m / t / f for m, t, f in peaks)), 3)
    if profiles:
        for step in steps:
            share = "" if step.peak_frac is None else f"{100 * step.peak_frac:.0f} % of peak"
            print(f"  {step.op:10}{step.name:40}{step.time_us:9.1f} us  {share}")
    return row


def table(document):
    """The rows of docs/validation.md."""
    columns = [*PEERS, "litert"]
    lines = [
        "| network | weights | engine us | share of peak | " + " | ".join(f"/ {peer}, least" for peer in columns) + " |"
    ]
    lines.append("|---|---|---|---|" + "---|" * len(columns))
    for name in (name for name in NETWORKS if name in document["networks"]):
        row = document["networks"][name]
        cells = [name, row["weights"], f"{row['least_us']['engine']:.0f}", f"{100 * row['peak_frac']:.0f} %"]
        for peer in columns:
            if f"int8_vs_{peer}" not in row:
                cells.append("")
                continue
            low, high = row[f"int8_vs_{peer}_quartiles"]
            least = row["least_us"]["engine"] / row["least_us"][peer]
            cells.append(f"{row[f'int8_vs_{peer}']:.2f} ({low:.2f} to {high:.2f}), {least:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "| network | file, MB | / int8 of ours | / onnxruntime int8 | / openvino int8 |",
        "|---|---|---|---|---|",
    ]
    for name, plans in MIXED.items():
        row = document["networks"][name]
        for plan in plans:
            megabytes = f"{row['file_bytes'][plan] / 1e6:.2f} (int8: {row['file_bytes']['engine'] / 1e6:.2f})"
            ratios = []
            for peer in ("engine", *PEERS):
                low, high = row[f"{plan}_vs_{peer}_quartiles"]
                ratios.append(f"{row[f'{plan}_vs_{peer}']:.2f} ({low:.2f} to {high:.2f})")
            lines.append("| " + " | ".join([f"{name} {plan}", megabytes, *ratios]) + " |")
    return "\n".join(lines)


def main():
    parser = parser_of(__doc__, 21, RESULTS)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--profile", action="store_true", help="print every step")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(read_results(arguments.json, {})))
        return
    torch.set_num_threads(1)
    for name in arguments.networks:
        row = measure(name, arguments.rounds, arguments.profile)
        document = read_results(arguments.json, {"networks": {}})
        document["networks"][name] = row | {"environment": environment()}
        write_results(arguments.json, document)
        print(name, row["median_us"], {k: v for k, v in row.items() if "_vs_" in k}, flush=True)


if __name__ == "__main__":
    main()
