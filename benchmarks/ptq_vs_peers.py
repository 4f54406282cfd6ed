"""CIFAR-10 after training: Dyadiq beside its peers, same networks, weights, calibration images and average bits.

Run: python benchmarks/ptq_vs_peers.py --tool dyadiq      (then brevitas, nncf, modelopt: where each is installed)
     python benchmarks/ptq_vs_peers.py --table            prints Markdown from results/ptq_vs_peers.json

Every tool gets the same training images of a seed (510: 51 of each class), activations of 8 bits, and weights of so
many bits on average.
Accuracy is that on all 8,000 test images, which nothing is chosen by; Dyadiq's is that of the integer program. A row is
written as soon as it is measured, and rows that are there are not measured again. What a tool cannot do is a row with
the reason. The flows are in the functions `run_*`.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from environment import environment

from dyadiq.zoo import build_model, load_dataset

RESULTS = Path(__file__).parent / "results" / "ptq_vs_peers.json"
WIDTHS = (8.0, 4.0, 3.0, 2.5)
N_CALIBRATION = 512
SCHEMA = "dyadiq.benchmark.ptq-vs-peers/1"


class CannotError(Exception):
    """A tool has no way to do what is asked; the message says why."""


def accuracy(function, split, chunk=250):
    answers = [np.asarray(function(split.x[i : i + chunk])).argmax(1) for i in range(0, len(split.x), chunk)]
    return float(np.mean(np.concatenate(answers) == split.y))


def torch_accuracy(model, split):
    with torch.no_grad():
        return accuracy(lambda x: model(torch.from_numpy(x)).numpy(), split)


def run_dyadiq(network, data, width, seed, cache):
    """Gram sensitivities of GPTQ-rounded candidates, exact allocation, GPTQ; the integer program is measured."""
    import dyadiq as dq
    from dyadiq.ir.packed import packed_size_parts
    from dyadiq.quant.candidates import rounded_candidates
    from dyadiq.quant.exact import run_exact
    from dyadiq.quant.reconstruct import reconstruct_

    start = time.perf_counter()
    calibration = [data.train.x]
    model = build_model(network, pretrained=True).eval()
    graph = dq.capture(model, (torch.zeros(1, 3, 32, 32),))
    facts = dq.network_facts(dq.canonicalize(graph))
    if width == 8.0:
        plan, shared_s = dq.uniform_plan(facts, 8, 8), 0.0
    else:
        if (network, seed) not in cache:
            begin = time.perf_counter()
            bits = (2, 3, 4, 5, 6)
            candidates = rounded_candidates(graph, calibration, bits, seed=seed)
            table = dq.analyze(
                graph, calibration, bits=bits, activation_bits=(8,), seed=seed, max_samples=256, candidates=candidates
            )
            cache[network, seed] = table, time.perf_counter() - begin
        table, shared_s = cache[network, seed]
        start = time.perf_counter()
        n_weights = sum(d.n_elements for d in facts.decisions if d.kind == "weight")
        plan = dq.allocate(
            table, {"weight_bits": int(width * n_weights)}, bits=(2, 3, 4, 5, 6), activation_bits=(8,), front_points=0
        )
    module = dq.quantize(graph, plan, calibration, seed=seed)
    reconstruct_(module, calibration, ["gptq"], seed=seed)
    program = dq.lower(module)
    seconds = time.perf_counter() - start + shared_s
    (output,) = program.graph.outputs
    fixed, weights = packed_size_parts(program)
    decisions = [d for d in facts.decisions if d.kind == "weight"]
    total = sum(d.n_elements for d in decisions)
    return {
        "accuracy": accuracy(lambda x: run_exact(program, x)[output], data.test),
        "seconds": seconds,
        "size_bytes": fixed + sum(weights.values()),
        "average_weight_bits": sum(d.n_elements * plan.bits[d.name] for d in decisions) / total,
        "weight_bits": {d.name: plan.bits[d.name] for d in decisions},
    }


def run_brevitas(network, data, width, seed, cache):
    """Its graph flow: equalization, merged batch norms, MSE weights, 99.999 percentile, GPTQ, bias correction."""
    import warnings

    from brevitas.graph.calibrate import bias_correction_mode, calibration_mode
    from brevitas.graph.equalize import activation_equalization_mode  # noqa: F401 - one of the flow's optional steps
    from brevitas.graph.gptq import gptq_mode
    from brevitas.graph.quantize import preprocess_for_quantize
    from brevitas_examples.imagenet_classification.ptq.ptq_common import quantize_model

    if width != int(width):
        raise CannotError("no mixed precision: one width for all weights")
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    model = without_slices(build_model(network, pretrained=True).eval())
    model = preprocess_for_quantize(
        model, equalize_iters=20, equalize_merge_bias=True, trace_model=True, merge_bn=True, channel_splitting_ratio=0.0
    )
    model = quantize_model(
        model,
        backend="fx",
        scale_factor_type="float_scale",
        bias_bit_width=32,
        weight_bit_width=int(width),
        weight_narrow_range=True,
        weight_param_method="mse",
        weight_quant_granularity="per_channel",
        weight_quant_type="sym",
        layerwise_first_last_bit_width=8,
        act_bit_width=8,
        act_param_method="stats",
        act_quant_percentile=99.999,
        act_quant_type="sym",
        quant_format="int",
        layerwise_first_last_mantissa_bit_width=4,
        layerwise_first_last_exponent_bit_width=3,
        weight_mantissa_bit_width=4,
        weight_exponent_bit_width=3,
        act_mantissa_bit_width=4,
        act_exponent_bit_width=3,
        device="cpu",
    )
    model.eval()
    chunks = torch.from_numpy(data.train.x).split(64)
    with torch.no_grad():
        with calibration_mode(model):
            for x in chunks:
                model(x)
        model(chunks[0])  # GPTQ needs a pass between calibration and use
        with gptq_mode(model, use_quant_activations=True, act_order=False) as gptq:
            for _ in range(gptq.num_layers):
                for x in chunks:
                    gptq.model(x)
                gptq.update()
        with bias_correction_mode(model):
            for x in chunks:
                model(x)
        model(chunks[0])
    seconds = time.perf_counter() - start
    n_weights = sum(m.weight.numel() for m in model.modules() if type(m).__name__ in ("QuantConv2d", "QuantLinear"))
    return {
        "accuracy": torch_accuracy(model, data.test),
        "seconds": seconds,
        "size_bytes": int(n_weights * width / 8),
        "size_note": "codes of weights only; scales and biases not counted",
        "average_weight_bits": width,
    }


def without_slices(model):
    """Return the network with every option-A shortcut (slice and pad) as the 1x1 convolution it equals: Brevitas's
    tracer takes neither; these convolutions stay real numbers of a peer's choosing."""
    for block in [m for m in model.modules() if hasattr(m, "conv2") and hasattr(m, "conv1")]:
        n_in, n_out = block.conv1.in_channels, block.conv1.out_channels
        if n_in != n_out:
            replace_shortcut_(block, n_in, n_out)
    return model


def replace_shortcut_(block, n_in, n_out):
    conv = torch.nn.Conv2d(n_in, n_out, 1, stride=2, bias=False)
    weight = torch.zeros_like(conv.weight)
    for i in range(n_in):
        weight[(n_out - n_in) // 2 + i, i] = 1.0
    conv.weight.data.copy_(weight)
    block.shortcut = conv.eval()
    block.__class__ = ConvolvedShortcut


class ConvolvedShortcut(torch.nn.Module):
    """A block of these networks whose shortcut is a convolution."""

    def forward(self, x):
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def run_nncf(network, data, width, seed, cache):
    """`nncf.quantize`, mixed preset, fast bias correction (the other is not offered for torch models)."""
    import nncf

    if width != 8.0:
        raise CannotError("quantize() is 8 bits only; compress_weights() with INT4_SYM leaves convolutions at 8 bits")
    start = time.perf_counter()
    model = build_model(network, pretrained=True).eval()
    samples = [torch.from_numpy(data.train.x[i : i + 1]) for i in range(len(data.train.x))]
    quantized = nncf.quantize(
        model,
        nncf.Dataset(samples),
        subset_size=len(samples),
        preset=nncf.QuantizationPreset.MIXED,
    )
    seconds = time.perf_counter() - start
    n_weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)))
    return {
        "accuracy": torch_accuracy(quantized, data.test),
        "seconds": seconds,
        "size_bytes": n_weights,
        "size_note": "codes of weights only",
        "average_weight_bits": 8.0,
    }


def run_modelopt(network, data, width, seed, cache):
    """`mtq.quantize` with 8 bits everywhere; below, `auto_quantize` among widths of 2 to 6 bits: its own search.

    Its formats for convolutions are 8 bits; narrower ones are custom formats as its documentation shows them: per
    channel, ranges of weights by its search of squared error. Real numbers elsewhere; batch norms are not folded.
    """
    import copy

    import modelopt.torch.quantization as mtq

    start = time.perf_counter()
    model = build_model(network, pretrained=True).eval()
    batches = [
        (torch.from_numpy(data.train.x[i : i + 64]), torch.from_numpy(data.train.y[i : i + 64]).long())
        for i in range(0, len(data.train.x), 64)
    ]

    def forward_loop(module):
        for x, _ in batches:
            module(x)

    def custom(bits):
        weight = {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": bits, "axis": 0}}
        inputs = {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": 8, "axis": None}}
        return {"quant_cfg": [weight, inputs], "algorithm": "mse"}

    with torch.enable_grad():
        if width == 8.0:
            model = mtq.quantize(model, copy.deepcopy(mtq.INT8_DEFAULT_CFG), forward_loop)
        else:
            model, _ = mtq.auto_quantize(
                model,
                constraints={"effective_bits": width},
                quantization_formats=[custom(bits) for bits in (2, 3, 4, 5, 6)],
                data_loader=batches,
                forward_step=lambda module, batch: module(batch[0]),
                loss_func=lambda output, batch: torch.nn.functional.cross_entropy(output, batch[1]),
                num_calib_steps=len(batches),
                num_score_steps=len(batches),
            )
    seconds = time.perf_counter() - start
    layers = [m for m in model.modules() if hasattr(m, "weight_quantizer")]
    bits = [m.weight_quantizer.num_bits if m.weight_quantizer.is_enabled else 32 for m in layers]
    sizes = [m.weight.numel() for m in layers]
    return {
        "accuracy": torch_accuracy(model.eval(), data.test),
        "seconds": seconds,
        "size_bytes": sum(n * b for n, b in zip(sizes, bits, strict=True)) // 8,
        "size_note": "codes of weights only; a layer that it leaves unquantized counts 32 bits",
        "average_weight_bits": sum(n * b for n, b in zip(sizes, bits, strict=True)) / sum(sizes),
        "weight_bits": bits,
    }


TOOLS = {"dyadiq": run_dyadiq, "brevitas": run_brevitas, "nncf": run_nncf, "modelopt": run_modelopt}


def read(path):
    return json.loads(path.read_text()) if path.is_file() else {"schema": SCHEMA, "environment": {}, "rows": []}


def measure(args):
    cache = {}
    for network in args.networks:
        for seed in args.seeds:
            data = load_dataset("cifar10", seed=seed, n_train=N_CALIBRATION)
            for width in args.widths:
                key = {"tool": args.tool, "network": network, "weight_bits_asked": width, "seed": seed}
                document = read(args.out)
                if any(all(row[k] == v for k, v in key.items()) for row in document["rows"]):
                    continue
                if "float" not in cache.setdefault(network, {}):
                    known = [row["float"] for row in document["rows"] if row["network"] == network]
                    model = build_model(network, pretrained=True).eval()
                    cache[network]["float"] = known[0] if known else torch_accuracy(model, data.test)
                row = key | {
                    "float": cache[network]["float"],
                    "n_eval": len(data.test),
                    "n_calibration": len(data.train),
                }
                row["threads"] = torch.get_num_threads()
                try:
                    row |= TOOLS[args.tool](network, data, width, seed, cache)
                except CannotError as err:
                    row["cannot"] = str(err)
                document = read(args.out)  # others may have written meanwhile
                document["environment"][args.tool] = environment()
                document["rows"].append(row)
                args.out.write_text(json.dumps(document, indent=1) + "\n")
                print(json.dumps({k: v for k, v in row.items() if k != "weight_bits"}), flush=True)


def table(document):
    """Return Markdown: one line a network and width, one column a tool; mean and spread over seeds."""
    rows = document["rows"]
    tools = [tool for tool in TOOLS if any(row["tool"] == tool for row in rows)]
    lines = [f"| network | weight bits | float % | {' | '.join(tools)} |", "|" + "---|" * (3 + len(tools))]
    for network in dict.fromkeys(row["network"] for row in rows):
        for width in dict.fromkeys(row["weight_bits_asked"] for row in rows):
            cells = []
            for tool in tools:
                found = [r for r in rows if (r["tool"], r["network"], r["weight_bits_asked"]) == (tool, network, width)]
                done = [row for row in found if "accuracy" in row]
                if not done:
                    cells.append("cannot" if found else "not run")
                    continue
                values = [100 * row["accuracy"] for row in done]
                spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
                seconds = np.mean([row["seconds"] for row in done])
                cells.append(f"{np.mean(values):.2f}{spread} ({len(values)}; {seconds:.0f} s)")
            floats = [row["float"] for row in rows if row["network"] == network]
            lines.append(f"| {network} | {width:g} | {100 * floats[0]:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", choices=TOOLS, default="dyadiq")
    parser.add_argument("--networks", nargs="+", default=["cifar_resnet20", "cifar_resnet56"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--widths", type=float, nargs="+", default=list(WIDTHS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table of what is measured")
    args = parser.parse_args()
    if not args.table:
        measure(args)
    print(table(read(args.out)))


if __name__ == "__main__":
    main()
