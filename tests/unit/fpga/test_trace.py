"""The circuit of a program computes what the reference computes, from input codes, integer for integer."""

import sys

import numpy as np
import pytest

from dyadiq.core.errors import DataError, ExportError, MissingDependencyError, TooLargeError
from dyadiq.core.qtype import QType
from dyadiq.ir.reference import run_reference
from programs import PROGRAMS, ProgramBuilder, raw_inputs

pytest.importorskip("da4ml", reason="the adder graphs need da4ml")

from dyadiq.fpga.trace import estimate_adders, trace


def input_codes(program, inputs):
    return {
        node.output: run_reference(program, inputs, taps=[node.output])[node.output]
        for node in program.graph.nodes
        if node.op == "quantize"
    }


# The others take tens of seconds to unroll; target verilog is tested on small networks of the same features.
TRACED = sorted(set(PROGRAMS) - {"conv_pool", "residual", "joins"})


@pytest.mark.parametrize("name", TRACED)
def test_circuit_equals_reference(name):
    program = PROGRAMS[name](np.random.default_rng(0))
    inputs = raw_inputs(program, np.random.default_rng(1), count=200)
    expected = run_reference(program, inputs)
    got = trace(program).predict(input_codes(program, inputs))
    assert set(got) == set(expected)
    for output, codes in expected.items():
        assert np.array_equal(got[output], codes)


def test_emulator_gives_the_same_codes_in_any_chunks():
    program = PROGRAMS["pow2_mlp"](np.random.default_rng(0))
    codes = input_codes(program, raw_inputs(program, np.random.default_rng(1)))
    circuit = trace(program)
    for output, got in circuit.predict(codes, chunk=7).items():
        assert np.array_equal(got, circuit.predict(codes)[output])


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ({}, "needs codes of 'quantize0:out', got "),
        ({"quantize0:out": np.zeros((3, 5), int)}, r"expected integers \[N, 15\] with N >= 1, got int64 \(3, 5\)"),
        ({"quantize0:out": np.zeros((3, 15))}, r"expected integers \[N, 15\] with N >= 1, got float64"),
        ({"quantize0:out": np.zeros((0, 15), int)}, r"with N >= 1, got int64 \(0, 15\)"),
        ({"quantize0:out": np.full((1, 15), 3)}, r"\[3, 3\] leave their type bipolar"),
        ({"quantize0:out": np.zeros((1, 15), int)}, r"\[0, 0\] leave their type bipolar"),
    ],
)
def test_emulator_refuses_codes_that_do_not_fit(codes, message):
    circuit = trace(PROGRAMS["pow2_bipolar"](np.random.default_rng(0)))
    with pytest.raises(DataError, match=message):
        circuit.predict(codes)


def test_emulator_refuses_codes_that_are_no_steps_of_their_channel():
    program = PROGRAMS["pow2_grids"](np.random.default_rng(0))
    codes = input_codes(program, raw_inputs(program, np.random.default_rng(1)))
    codes["quantize0:out"][0, 1] += 1  # steps there are of 4 codes
    with pytest.raises(DataError, match="codes of 'quantize0:out' are no codes of their channels' grids"):
        trace(program).predict(codes)


def test_a_port_is_as_wide_as_its_widest_channel():
    port = trace(PROGRAMS["grids"](np.random.default_rng(0))).inputs[0]
    assert str(port.carried) == "uint8"
    assert str(trace(PROGRAMS["pow2_grids"](np.random.default_rng(0))).inputs[0].qtype) == "int8"


def test_trace_refuses_when_network_is_too_large():
    program = PROGRAMS["mlp"](np.random.default_rng(0))
    with pytest.raises(TooLargeError, match=r"cannot be unrolled: about [0-9,]+ LUTs .* in linear3; .* 1,000 LUTs\."):
        trace(program, max_luts=1000)


def test_trace_refuses_when_a_weight_is_too_wide():
    b = ProgramBuilder(np.random.default_rng(0))
    program = b.program(b.linear(b.input((2,), QType.parse("int4")), 1, QType.parse("int26")))
    with pytest.raises(ExportError, match=r"linear1 \(linear\): a weight of [0-9]+ has more than 24 bits"):
        trace(program)


def test_estimate_is_near_what_is_built():
    for name in ("mlp", "pow2_cnn", "groups"):
        program = PROGRAMS[name](np.random.default_rng(0))
        built = sum(op.kind in ("add", "sub", "addc", "subc", "clip", "max") for op in trace(program).net.ops)
        assert 0.6 < sum(estimate_adders(program).values()) / built < 1.6


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "da4ml.cmvm", None)
    b = ProgramBuilder(np.random.default_rng(77))
    program = b.program(b.linear(b.input((3,), QType.parse("int5")), 2, QType.parse("int7")))
    with pytest.raises(MissingDependencyError, match=r"'da4ml' is not installed. Run: pip install 'dyadiq\[fpga\]'"):
        trace(program)
