"""A made-up but complete set of results for report tests: a five-layer network with a mixed plan."""

from __future__ import annotations

import numpy as np

from dyadiq.core.facts import Decision, LayerFacts, NetworkFacts
from dyadiq.core.format import Format
from dyadiq.core.plan import Alternative, BitPlan, BudgetUse, Certificate, Marginal, ParetoPoint, Stability, Swap
from dyadiq.core.qtype import QType
from dyadiq.core.tables import Sensitivity, SensitivityTable
from dyadiq.cost.traffic import layer_traffic
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.integer import IntegerProgram
from dyadiq.report import ReportData
from dyadiq.targets.verify import VerifyResult
from dyadiq.zero_shot import Distilled

NAMES = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "fc"]
BITS = [8, 3, 2, 4, 6]


def sample_hardware():
    """A placed part, nearly full, and one whose clock is a model."""
    row = {
        "device": "hx8k", "part": "iCE40HX8K", "family": "ice40",
        "lut": 4481, "ff": 1887, "carry": 2555, "dsp": 0,
        "latency_cycles": 12, "initiation_interval": 1, "fmax_mhz": 125.0, "latency_ns": 96.0,
        "kind": {"lut": "synthesised", "fmax_mhz": "placed", "latency_ns": "placed"},
        "adders_per_stage": 2,
        "utilisation": {
            "lut": {"used": 4481, "available": 7680, "frac": 0.5835},
            "ff": {"used": 1887, "available": 7680, "frac": 0.2457},
            "dsp": {"used": 0, "available": 0, "frac": 0.0},
        },
        "cells": {"ICESTORM_LC": 6161}, "cells_available": {"ICESTORM_LC": 7680},
        "wrapped": True, "seeds": {"0": 119.5, "1": 125.0}, "fmax_mhz_mean": 122.25, "fmax_mhz_stdev": 3.89,
        "tools": {"yosys": "0.23", "nextpnr-ice40": "0.4"}, "circuit_sha256": "ef" * 32, "refusal": "",
    }  # fmt: skip
    model = {
        "device": "zu3eg", "part": "XCZU3EG", "family": "xcup", "lut": 71_000, "fmax_mhz": 200.0, "latency_ns": 60.0,
        "kind": {"lut": "synthesised", "fmax_mhz": "modelled", "latency_ns": "modelled"},
        "utilisation": {
            "lut": {"used": 71_000, "available": 70_560, "frac": 1.0062},
            "ff": {"used": 1887, "available": 141_120, "frac": 0.0134},
            "dsp": {"used": 0, "available": 360, "frac": 0.0},
        },
        "cells": {}, "cells_available": {}, "wrapped": False,
        "seeds": {}, "fmax_mhz_mean": None, "fmax_mhz_stdev": None, "tools": {"yosys": "0.23"},
        "refusal": "zu3eg: the circuit takes 71,000 LUT of 70,560. Use fewer bits, prune, or take a larger part.",
    }  # fmt: skip
    return {**row, "devices": [row, row | model]}


def _sample_stability(entries, formats):
    """Chosen widths at 1, 0.9, 0.8, ... of 200 replicas, the rest at a neighbour."""
    rows = {}
    for i, (name, row) in enumerate(entries.items()):
        widths = sorted(row)
        chosen = formats[name].bits
        other = next(b for b in (*widths[1:], widths[0]) if b != chosen)
        rows[name] = dict.fromkeys(widths, 0.0) | {chosen: 1 - 0.1 * (i % 5), other: 0.1 * (i % 5)}
    return Stability(200, rows, 0.00003, 0.00011, 0.0524)


def sample_report(
    *,
    mismatches: int = 0,
    proven: bool = True,
    name: str = "digits",
    hardware: bool = False,
    distilled: bool = False,
) -> ReportData:
    rng = np.random.default_rng(0)
    decisions = [Decision("x", "activation", (1, 8, 8), 8)]
    layers, entries, formats = [], {}, {"x": Format(8)}
    for i, (layer, bits) in enumerate(zip(NAMES, BITS, strict=True)):
        weight, out = f"{layer}.weight", f"{layer}:out"
        decisions += [Decision(weight, "weight", (16, 16, 3, 3)), Decision(out, "activation", (16, 8, 8))]
        layers.append(LayerFacts(layer, "conv2d", weight, decisions[2 * i].name, out, 144, 16, 64))
        formats |= {weight: Format(bits), out: Format(6)}
        for decision in (weight, out):
            entries[decision] = {
                b: Sensitivity(float(4.0**-b * rng.uniform(0.5, 40)), float(4.0**-b * 0.3)) for b in (2, 3, 4, 6, 8)
            }
    table = SensitivityTable("gram", "nats", entries, NetworkFacts(tuple(decisions), tuple(layers)), 256, 0)
    front = [ParetoPoint(c, 40.0 / c**1.2, {}) for c in range(3000, 12000, 600)]
    front += [ParetoPoint(3500 * b // 2, 60.0 / (3500 * b // 2) ** 1.15, {}, f"uniform {b}/{b}") for b in (2, 4, 6)]
    plan = BitPlan(
        formats,
        Certificate(0.0021, 0.0021, 0.0, "knapsack, exact", "9,765,625", Swap("fc.weight", 6, 8, -0.0004, 128)),
        (BudgetUse("size", "byte", 6000, 5936, binding=True),),
        {"size": 5936, "bops": 12_345_678},
        tuple(front),
        (Marginal("size", "byte", 2.1e-6, 1000, -0.0007, 64, -0.0003),),
        (
            Alternative(0.00213, {"size": 5990}, {"layer1.0.conv2.weight": 3, "layer2.0.conv1.weight": 3}),
            Alternative(0.00221, {"size": 5816}, {"conv1.weight": 6}),
        ),
        _sample_stability(entries, formats),
    )
    nodes = (Node("conv1", "flatten", ("x",), "acc"),)
    tensors = {"x": TensorInfo((4,)), "acc": TensorInfo((4,), QType(19, signed=True))}
    program = IntegerProgram(Graph("integer", ("x",), ("acc",), nodes, tensors, {}))
    results = [
        VerifyResult("exact", 5390, 539),
        VerifyResult("onnx", 5390, 539, mismatches),
        VerifyResult("qonnx", 5390, 539, proven=proven),
        VerifyResult("qdq", 5390, 539, 31, exact=False),
    ]
    summary = {
        "schema": "dyadiq.run/1",
        "name": name,
        "accuracy": {"float": 0.9889, "integer": 0.9852},
        "n_eval": 539,
        "size_bytes": 5936,
        "size_float_bytes": 46000,
        "bops": 12_345_678,
        "verify": {r.executor: r.to_json() for r in results},
        "refusals": [r.refusal for r in results if r.refusal],
        "layers": [
            layer.to_json() | {"zero_weights_frac": 0.6543, "digits_per_weight": 0.4321}
            for layer in layer_traffic(table.facts, plan.bits)
        ],
        "hardware": sample_hardware() if hardware else None,
        "provenance": {"seed": 0, "torch": "2.13.0", "recipe sha256": "ab" * 32, "program sha256": "cd" * 32},
    }
    images = rng.normal(size=(70, 3, 8, 8)).astype(np.float32)
    made = Distilled(images, {"bn1.running_mean": 0.012, "bn2.running_mean": 0.034}, (0.5, 0.03), seed=0)
    return ReportData(
        summary,
        plan,
        table,
        program,
        "dyadiq run recipes/digits.toml",
        ("qdq differs by nature",),
        made if distilled else None,
    )
