"""The count of LUTs, operation by operation, against Yosys where a rule of mapping is meant."""

import json
import shutil

import pytest

from dyadiq.core.qtype import QType
from dyadiq.fpga.area import estimate_luts, wire_luts
from dyadiq.fpga.interface import FILENAME, SCHEMA
from dyadiq.fpga.netlist import Netlist, Value
from dyadiq.fpga.pipeline import schedule
from dyadiq.fpga.synth import synthesize
from dyadiq.fpga.trace import Circuit, Port
from dyadiq.fpga.verilog import TOP, module_text

needs_yosys = pytest.mark.skipif(shutil.which("yosys") is None, reason="yosys is not installed")


def counted(net, inputs, outputs, folder):
    """Return the LUTs of values registered at both ends: estimated, and by Yosys."""
    low, high = (pick(end for v in inputs for end in net.bounds(v)) for pick in (min, max))
    wide = QType(32, signed=True)
    carried = QType(max(net.width(v.wire) for v in inputs), signed=low < 0)
    assert carried.qmin <= low <= high <= carried.qmax
    circuit = Circuit(
        net, (Port("x", (len(inputs),), carried, tuple(inputs)),), (Port("y", (len(outputs),), wide, tuple(outputs)),)
    )
    plan = schedule(circuit, 4)
    (folder / f"{TOP}.v").write_text(module_text(circuit, plan))
    (folder / FILENAME).write_text(json.dumps({"schema": SCHEMA, "latency_cycles": plan.latency_cycles}))
    return sum(wire_luts(net, plan.wires, plan.stages).values()), synthesize(folder).lut


@needs_yosys
@pytest.mark.parametrize("deep", [False, True])
def test_bit_of_a_clip_is_one_lut_for_both_signs_only_where_an_inverter_fits(tmp_path, deep):
    net = Netlist()
    x, y, z = (net.input(-32, 31) for _ in range(3))
    clips = [net.clip(v, 0, 15) for v in (x, y)]
    outputs = [clips[0], net.add(Value(z.wire, shift=3), Value(clips[0].wire, negative=True))]
    if deep:
        outputs.append(net.add(*clips))  # of six bits and more: a LUT in front of a LUT
    estimated, synthesised = counted(net, (x, y, z), outputs, tmp_path)
    assert estimated == synthesised


def test_sum_and_difference_share_luts_only_where_an_inverter_fits():
    net = Netlist()
    x, y = net.input(-8, 7), net.input(-8, 7)
    wires = [net.add(x, y).wire, net.add(x, Value(y.wire, negative=True)).wire]
    assert wire_luts(net, wires)[wires[0]] == 4
    assert estimate_luts(net, wires) == 8
    deeper = net.maximum(x, y).wire
    assert estimate_luts(net, [*wires, deeper]) == 4 + 8


@needs_yosys
@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("bits", [5, 6, 7, 8, 9])
def test_upper_bits_of_a_clip_are_tested_once_where_that_is_cheaper(tmp_path, bits, near):
    net = Netlist()
    x, y, z = (net.input(-(1 << n - 1), (1 << n - 1) - 1) for n in (bits, 6, 6))
    clipped = net.clip(x, 0, 15)
    outputs = [clipped, net.add(net.clip(y, 0, 15), net.clip(z, 0, 15))]  # two LUTs in a row, so that there is time
    if near:
        outputs.append(net.add(y, Value(clipped.wire, shift=6)))
    estimated, synthesised = counted(net, (x, y, z), outputs, tmp_path)
    assert estimated == synthesised


def test_clip_is_free_where_it_goes_into_registers_only():
    net = Netlist()
    relu = net.clip(net.input(-8, 7), 0, 7)
    assert estimate_luts(net, [relu.wire]) == 0
    net = Netlist()
    both = net.clip(net.input(-32, 31), 0, 7)
    assert estimate_luts(net, [both.wire]) == 3
