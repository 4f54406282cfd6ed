"""Block-sparse weights: the reference's integers at every density, and chosen where they pay."""

import numpy as np
import pytest

from dyadiq.core.native import native_state
from dyadiq.engine import EngineProgram, available_isas, compile_program, write_engine_file
from dyadiq.engine.layout import find_places, pack_dense
from dyadiq.engine.weights import Dot, choose_weights, find_weights
from dyadiq.ir.reference import run_reference
from programs import INT4N, INT8, UINT8, ProgramBuilder, multipliers
from sparse_weights import thin

built = pytest.mark.skipif(not available_isas(), reason=f"the engine was not built: {native_state().found}")


@built
@pytest.mark.parametrize("density", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("n_in", [3, 17, 32])
@pytest.mark.parametrize("size", [1, 7, 17, 33])
def test_sparse_convolutions_equal_the_reference(size, n_in, density, tmp_path):
    rng = np.random.default_rng(size)
    b = ProgramBuilder(rng)
    x = b.input((n_in, 5, size), UINT8 if n_in % 2 else INT8)
    outputs = []
    for out, kernel, stride, padding, dilation in ((33, 3, 1, 1, 1), (48, 1, 1, 0, 1), (7, 3, 2, 2, 2)):
        y = b.conv2d(x, out, kernel, stride, padding, dilation)
        thin(b, rng, density)
        outputs += [y, b.requantize(y, UINT8, multipliers(rng, out, 16))]
    z = b.conv2d(outputs[1], 33, 3, padding=1)
    thin(b, rng, density)
    scale = b.scale(z).max() * 701.3
    outputs.append(b.clip(b.add(b.branch(z, scale, 16), b.branch(outputs[1], scale, 16)), INT8))
    outputs.append(b.linear(b.flatten(x), 17))
    thin(b, rng, density)
    program = b.program(*outputs)
    plan = compile_program(program)
    if density == 0:
        assert [step.words[0] for step in plan.steps if step.op == "conv"] == [3] * 5
    write_engine_file(plan, tmp_path / "p.dyqe")
    inputs = {"x0": rng.normal(size=(3, n_in, 5, size)) * 4}
    expected = run_reference(program, inputs)
    for isa in available_isas():
        for threads in (1, 2):
            found = EngineProgram(tmp_path / "p.dyqe", isa=isa, threads=threads).run(inputs)
            assert all(np.array_equal(found[name], expected[name]) for name in expected), (isa, threads)


def weight_of(density, bits=8):
    rng = np.random.default_rng(0)
    weight = rng.integers(1, 1 << (bits - 1), (32, 64, 3, 3))
    kept = np.zeros(2 * 16 * 9, dtype=np.int64)
    kept[: round(density * kept.size)] = 1
    return weight * rng.permutation(kept).reshape(2, 16, 3, 3).repeat(16, axis=0).repeat(4, axis=1)


@pytest.mark.parametrize(
    ("density", "bits", "sparse"), [(0.5, 8, True), (0.7, 8, False), (0.3, 4, True), (0.55, 4, False), (1.0, 8, False)]
)
def test_sparse_weights_are_chosen_where_they_are_fewer_bytes_and_faster(density, bits, sparse):
    weight = weight_of(density, bits)
    dot = Dot(weight, np.zeros(32, dtype=np.int64))
    found = find_weights(dot)
    assert choose_weights(dot, found).algorithm == ("sparse" if sparse else "direct")
    assert choose_weights(dot, found, "direct").kind == 0


def test_sparse_weights_and_their_places_are_the_dense_ones():
    dense = pack_dense(weight_of(0.25), 1)
    values, places = find_places(dense, 32)
    again = np.zeros_like(dense).reshape(2, -1, 64)
    for block in range(2):
        for at in range(places[block], places[block + 1]):
            again[block, places[3 + at]] = values.reshape(-1, 64)[at]
    assert np.array_equal(again.ravel(), dense)
    assert values.size == dense.size // 4


def test_sparse_may_be_forbidden():
    b = ProgramBuilder(np.random.default_rng(0))
    y = b.conv2d(b.input((32, 4, 4)), 32, qtype=INT4N)
    thin(b, np.random.default_rng(0), 0.2)
    program = b.program(y)
    algorithms = ({}, {program.graph.nodes[-1].name: "direct"})
    kinds = [compile_program(program, algorithms=chosen).steps[-2].words[0] for chosen in algorithms]
    assert kinds == [3, 0]
