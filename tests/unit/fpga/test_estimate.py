"""Estimates of LUTs, flip-flops and cycles against Yosys and the written circuit."""

import shutil

import numpy as np
import pytest

pytest.importorskip("da4ml", reason="the adder graphs need da4ml")

from dyadiq.core.qtype import QType
from dyadiq.fpga.estimate import estimate_hardware
from dyadiq.fpga.interface import read_interface
from dyadiq.fpga.synth import synthesize
from dyadiq.targets.verilog import VerilogConfig, VerilogTarget
from programs import INT4N, UINT8, ProgramBuilder

UINT4 = QType.parse("uint4")


def network(zeros_frac, multiplier=1):
    """Return 8-12-10-3 with some weights pruned, requantized by shifts or by dyadic numbers."""
    b = ProgramBuilder(np.random.default_rng(3))
    x = b.input((8,), QType.parse("int6"))
    for n_out in (12, 10):
        x = b.requantize(b.linear(x, n_out, INT4N, bias_bits=3), UINT4, multiplier=multiplier, shift=3)
    program = b.program(b.requantize(b.linear(x, 3, INT4N, bias_bits=3), QType.parse("int8"), shift=1))
    for name, qtype in program.graph.param_types.items():
        if qtype == INT4N:
            weight = program.graph.params[name]
            weight[b.rng.random(weight.shape) < zeros_frac] = 0
    return program


@pytest.mark.skipif(shutil.which("yosys") is None, reason="yosys is not installed")
@pytest.mark.parametrize(("zeros_frac", "multiplier"), [(0.6, 1), (0.3, 5)])
def test_estimate_is_within_two_percent_of_yosys(tmp_path, zeros_frac, multiplier):
    program = network(zeros_frac, multiplier)
    VerilogTarget(VerilogConfig(n_vectors=5)).write(program, tmp_path)
    estimate, result = estimate_hardware(program), synthesize(tmp_path)
    assert estimate.lut == pytest.approx(result.lut, rel=0.02)
    assert estimate.ff == pytest.approx(result.ff, rel=0.02)
    assert estimate.latency_cycles == result.latency_cycles


def test_shares_of_layers_add_up(tmp_path):
    program = network(0.5)
    estimate = estimate_hardware(program, depth=3)
    assert [layer.op for layer in estimate.layers] == ["quantize", "linear", "linear", "linear"]
    assert sum(layer.lut for layer in estimate.layers) == estimate.lut
    assert sum(layer.ff for layer in estimate.layers) == estimate.ff
    assert estimate.layers[0].ff >= 6 * 8 * 0.9
    assert estimate.depth <= 3
    levels = sum(layer.levels for layer in estimate.layers)
    assert -(-levels // 3) + 1 == estimate.latency_cycles
    assert estimate.latency_ns(clock_mhz=100.0) == 10.0 * estimate.latency_cycles
    assert estimate.to_json()["kind"] == "estimated"


def test_cycles_are_those_of_the_written_circuit(tmp_path):
    program = network(0.5)
    VerilogTarget(VerilogConfig(depth=2, n_vectors=5)).write(program, tmp_path)
    assert estimate_hardware(program, 2).latency_cycles == read_interface(tmp_path)["latency_cycles"]


def test_joins_and_pools_are_layers():
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.input((2, 4, 4), UINT4)
    y = b.requantize(b.conv2d(x, 2, kernel=1, qtype=INT4N), UINT4, shift=3)
    total = b.requantize(b.add(y, b.requantize(x, UINT4, shift=1)), UINT8, shift=0)
    program = b.program(b.max_pool2d(total))
    ops = {layer.op: layer for layer in estimate_hardware(program).layers}
    assert list(ops) == ["quantize", "conv2d", "requantize", "add", "max_pool2d"]
    assert ops["add"].lut > 0
    assert ops["max_pool2d"].lut > 0
