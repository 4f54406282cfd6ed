"""Convolutions over lowered inputs: the reference's integers, nothing but what was named, no windows outside."""

import itertools

import numpy as np
import pytest

from dyadiq.core.errors import ArtifactError, ConfigError
from dyadiq.core.native import native_state
from dyadiq.core.qtype import QType
from dyadiq.engine import EngineProgram, available_isas, compile_program, measure_algorithms, write_engine_file
from dyadiq.engine.lowering import BASELINES
from dyadiq.ir.reference import run_reference
from programs import INT4N, INT8, UINT8, ProgramBuilder, multipliers

built = pytest.mark.skipif(not available_isas(), reason=f"the engine was not built: {native_state().found}")
SIZES = (1, 7, 15, 17, 33)


def lowered(program, algorithm):
    dots = [node.name for node in program.graph.nodes if node.op in ("conv2d", "linear")]
    plan = compile_program(program, algorithms=dict.fromkeys(dots, algorithm))
    found = [(step.op, step.algorithm) for step in plan.steps if step.layer]
    assert found == [("lower", algorithm), ("conv", algorithm)] * len(dots)
    return plan


@built
@pytest.mark.parametrize("algorithm", BASELINES)
@pytest.mark.parametrize("n_in", [1, 3, 17, 32])
@pytest.mark.parametrize("size", SIZES)
def test_every_geometry_equals_the_reference(size, n_in, algorithm, tmp_path):
    rng = np.random.default_rng(size * 100 + n_in)
    b = ProgramBuilder(rng, worst=size == 15)
    x = b.input((n_in, 6, size), UINT8 if n_in % 2 else INT8)
    outputs = []
    for out, kernel, stride, padding, dilation in ((33, 3, 1, 1, 1), (16, 1, 1, 0, 1), (7, (3, 1), 2, 2, (2, 3))):
        y = b.conv2d(x, out, kernel, stride, padding, dilation, qtype=INT4N if out == 16 else INT8)
        outputs += [y, b.requantize(y, UINT8, multipliers(rng, out, 16))]
    z = b.conv2d(outputs[1], 33, (1, 5), padding=(0, 2))
    scale = b.scale(z).max() * 701.3
    outputs.append(b.clip(b.add(b.branch(z, scale, 16), b.branch(outputs[1], scale, 16)), INT8))
    outputs.append(b.linear(b.flatten(x), 17, qtype=QType.parse("int2")))
    program = b.program(*outputs)
    write_engine_file(lowered(program, algorithm), tmp_path / "p.dyqe")
    inputs = {"x0": rng.normal(size=(2, n_in, 6, size)) * 4}
    expected = run_reference(program, inputs)
    for isa, threads in itertools.product(available_isas(), (1, 2)):
        found = EngineProgram(tmp_path / "p.dyqe", isa=isa, threads=threads).run(inputs)
        assert all(np.array_equal(found[name], expected[name]) for name in expected), (isa, threads)


def one_conv(channels=8, **more):
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.input((channels, 6, 9), UINT8)
    return b.program(b.requantize(b.conv2d(x, 8, 3, padding=1, **more), UINT8))


def test_copies_have_the_bytes_of_their_definitions():
    """A window an output, and a row of it for every row of the input and its padding."""
    plans = {name: lowered(one_conv(), name) for name in BASELINES}
    sizes = {name: plan.buffers[plan.steps[2].writes[0].buffer].n_bytes for name, plan in plans.items()}
    assert sizes == {"im2col": 6 * 9 * 9 * 8, "mec": 8 * 9 * 3 * 8}


def test_baselines_are_chosen_by_nobody():
    plan = compile_program(one_conv())
    assert plan.steps[-2].algorithm == "direct"
    assert not set(plan.steps[-2].choices) & set(BASELINES)


@built
def test_baselines_are_not_measured():
    (times,) = measure_algorithms(one_conv(), rounds=1).times_us.values()
    assert not set(times) & set(BASELINES)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"groups": 8}, "8 groups"),
        ({"groups": 2}, "2 groups"),
        ({"qtype": QType.parse("int12")}, "an input or"),
    ],
)
def test_what_has_no_copy_is_refused_by_name_of_the_layer(more, reason):
    with pytest.raises(ConfigError, match=f"conv2d1: 'mec' cannot run it: it has {reason}.*Leave this layer"):
        compile_program(one_conv(**more), algorithms={"conv2d1": "mec"})


@built
@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        (0, 2, "a lowered tensor is of another type"),
        (1, 0, "a lowered tensor has other channels than its windows"),
        (2, 2, "a lowered tensor has other channels than its windows"),
        (2, 0, "a size is out of range"),
        (3, 1 << 16, "a lowered tensor has other channels than its windows"),
        (4, 2, "a lowered tensor leaves its input"),
        (7, 1 << 16, "a lowered tensor leaves its input"),
        (8, 2, "a lowered tensor leaves its input"),
        (9, 1 << 20, "a margin is out of range"),
        ("shared", None, "a step writes over what it reads"),
    ],
)
def test_fields_that_make_no_sense_are_refused(field, value, reason, tmp_path):
    b = ProgramBuilder(np.random.default_rng(0))
    plan = lowered(b.program(b.conv2d(b.input((8, 6, 9), UINT8), 8, 3, padding=1)), "im2col")
    (step,) = (step for step in plan.steps if step.op == "lower")
    if field == "shared":
        plan.buffers[step.reads[0].buffer].offset = plan.buffers[step.writes[0].buffer].offset
    else:
        step.words[field] = value
    write_engine_file(plan, tmp_path / "p.dyqe")
    with pytest.raises(ArtifactError, match=reason):
        EngineProgram(tmp_path / "p.dyqe")
