"""One network, the same integers all the way: reference = qonnx executor = hls4ml C simulation = simulated Verilog."""

import shutil

import numpy as np
import pytest

from dyadiq.core.qtype import QType
from dyadiq.targets.verify import verify
from programs import INT8, ProgramBuilder, multipliers, raw_inputs

pytest.importorskip("da4ml", reason="the adder graphs need da4ml")
pytest.importorskip("hls4ml", reason="the C simulation needs hls4ml")
needs_tools = pytest.mark.skipif(
    not (shutil.which("iverilog") and shutil.which("g++")), reason="iverilog or g++ is not installed"
)


def jet_tagger(rng, dyadic):
    """16-64-32-32-5 with mixed bits, half of the weights zero so that simulation takes seconds."""
    b = ProgramBuilder(rng)
    x = b.input((16,), INT8)
    layers = ((64, "int4n", "uint6"), (32, "int3n", "uint5"), (32, "int3n", "uint4"), (5, "int4n", "int12"))
    for width, weight, activation in layers:
        x = b.linear(x, width, QType.parse(weight))
        kept = b.params[b.nodes[-1].inputs[1]]
        kept[rng.random(kept.shape) < 0.5] = 0
        x = b.requantize(x, QType.parse(activation), multipliers(rng, width) if dyadic else None)
    return b.program(x)


@needs_tools
@pytest.mark.slow
@pytest.mark.parametrize("dyadic", [False, True], ids=["pow2", "dyadic"])
def test_no_integer_differs_from_reference_to_verilog(tmp_path, dyadic):
    program = jet_tagger(np.random.default_rng(0), dyadic)
    inputs = raw_inputs(program, np.random.default_rng(1), count=1000)
    results = verify(program, inputs, ["qonnx", "hls4ml", "verilog"], chunk=1000, workdir=tmp_path)
    for name in ("qonnx", "hls4ml", "verilog"):
        found = results[name]
        assert (found.mismatches, found.samples, found.compared) == (0, 1000, 5000), name
        assert found.exact, name
        assert found.proven, name
    assert f"mode {'dyadic' if dyadic else 'pow2'}" in results["qonnx"].note
