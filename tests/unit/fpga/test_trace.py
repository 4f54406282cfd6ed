"""The circuit of a program computes what the reference computes, from input codes, integer for integer."""

import numpy as np
import pytest

from dyadiq.ir.reference import run_reference
from programs import PROGRAMS, raw_inputs

pytest.importorskip("da4ml", reason="the adder graphs need da4ml")

from dyadiq.fpga.trace import trace


def input_codes(program, inputs):
    return {
        node.output: run_reference(program, inputs, taps=[node.output])[node.output]
        for node in program.graph.nodes
        if node.op == "quantize"
    }


@pytest.mark.parametrize("name", PROGRAMS)
def test_circuit_equals_reference(name):
    program = PROGRAMS[name](np.random.default_rng(0))
    inputs = raw_inputs(program, np.random.default_rng(1))
    expected = run_reference(program, inputs)
    got = trace(program).predict(input_codes(program, inputs))
    assert set(got) == set(expected)
    for output, codes in expected.items():
        assert np.array_equal(got[output], codes)
