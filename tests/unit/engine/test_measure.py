"""Algorithms by measurement: all that can run a layer are timed, the fastest is taken, and the file says so."""

import numpy as np
import pytest

from dyadiq.core.errors import ArtifactError, UnknownNameError
from dyadiq.core.native import native_state
from dyadiq.core.qtype import QType
from dyadiq.engine import (
    EngineProgram,
    MeasuredAlgorithms,
    available_isas,
    compile_measured,
    compile_program,
    measure_algorithms,
    time_plans,
    write_engine_file,
)
from dyadiq.engine.file import read_structure
from dyadiq.ir.reference import run_reference
from dyadiq.targets import get_target
from dyadiq.targets.dyq import write_dyq
from programs import INT4N, INT8, UINT8, ProgramBuilder, multipliers

built = pytest.mark.skipif(not available_isas(), reason=f"the engine was not built: {native_state().found}")


def program_of(rng):
    b = ProgramBuilder(rng)
    x = b.input((32, 12, 12), QType.parse("uint6"))
    x = b.requantize(b.conv2d(x, 32, 3, padding=1, qtype=INT4N), UINT8, multipliers(rng, 32, 16))
    x = b.requantize(b.conv2d(x, 32, 3, padding=1, groups=32), UINT8, multipliers(rng, 32, 16))
    return b.program(b.linear(b.flatten(b.max_pool2d(x, 4)), 5, INT8))


@built
def test_all_that_can_run_a_layer_is_timed_in_place_and_again():
    found = measure_algorithms(program_of(np.random.default_rng(0)), rounds=2, isa="portable", threads=2)
    assert (found.isa, found.threads) == ("portable", 2)
    assert {layer: list(times) for layer, times in found.times_us.items()} == {
        "conv2d1": ["direct", "sparse", "winograd", "winograd1d", "sparse4x4"],
        "conv2d3": ["depthwise"],
        "linear7": ["direct", "sparse", "sparse4x4"],
    }
    assert all(t > 0 for times in found.times_us.values() for both in times.values() for t in both)


def test_the_fastest_in_place_is_taken_and_less_than_two_percent_is_noise():
    times = {
        "a": {"direct": (10.0, 1.0), "winograd": (9.9, 0.5)},
        "b": {"direct": (10.0, 1.0), "sparse": (9.0, 8.0), "winograd": (7.0, 9.0)},
        "c": {"direct": (10.0, 9.0), "winograd": (11.0, 1.0)},
    }
    assert MeasuredAlgorithms("portable", 1, times).fastest == {"a": "direct", "b": "winograd", "c": "direct"}


@built
def test_the_file_says_what_was_measured_and_gives_the_same_integers(tmp_path):
    rng = np.random.default_rng(0)
    program = program_of(rng)
    path = tmp_path / "p.dyqe"
    plan = compile_measured(program)
    write_engine_file(plan, path)
    measured = read_structure(path)["measured"]
    assert measured["isa"] == available_isas()[-1]
    chosen = {step.layer: step.algorithm for step in plan.steps if step.layer is not None}
    times = {layer: {a: tuple(t) for a, t in of.items()} for layer, of in measured["layers"].items()}
    assert MeasuredAlgorithms("", 1, times).fastest == chosen
    assert dict(s[2:] for s in read_structure(path)["steps"] if len(s) > 2) == chosen  # some in two steps
    inputs = {"x0": rng.normal(size=(2, 32, 12, 12))}
    expected, engine = run_reference(program, inputs), EngineProgram(path)
    assert all(np.array_equal(engine.run(inputs)[name], expected[name]) for name in expected)
    profile = engine.profile(inputs, repeats=1, again=1)
    assert {step.layer: step.algorithm for step in profile if step.layer is not None} == chosen
    assert all(step.warm_us is not None for step in profile)
    assert all(step.warm_us is None for step in engine.profile(inputs, repeats=1))


@built
def test_plans_are_timed_step_by_step():
    program = program_of(np.random.default_rng(0))
    plans = [compile_program(program, algorithms={"conv2d1": name}) for name in ("direct", "winograd")]
    for plan, times in zip(plans, time_plans(plans, rounds=2), strict=True):
        assert [(step.op, step.name) for step in times.steps] == [(step.op, step.name) for step in plan.steps]
        assert times.whole_us > 0


@built
def test_target_measures_where_it_is_asked_to(tmp_path):
    program = program_of(np.random.default_rng(0))
    target = get_target("engine")
    (rule,) = target.write(program, tmp_path / "rule")
    (measured,) = target.configured(algorithms="measured").write(program, tmp_path / "measured")
    assert "measured" not in read_structure(rule)
    assert "conv2d1" in read_structure(measured)["measured"]["layers"]
    with pytest.raises(UnknownNameError, match="choice of algorithms 'guessed'"):
        target.configured(algorithms="guessed")


def test_files_without_a_program_are_refused(tmp_path):
    write_dyq(program_of(np.random.default_rng(0)), tmp_path / "p.dyq")
    with pytest.raises(ArtifactError, match="holds no compiled program"):
        read_structure(tmp_path / "p.dyq")
