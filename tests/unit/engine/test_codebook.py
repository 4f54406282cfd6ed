"""Weights that are places in a table: the reference's integers, half the bytes, and only where values are few."""

import numpy as np
import pytest

from dyadiq.core.qtype import QType
from dyadiq.engine import compile_program
from dyadiq.engine.codebook import pack_places
from dyadiq.engine.layout import pack_dense
from dyadiq.engine.weights import Dot, choose_weights, find_weights
from engine_checks import assert_equal, assert_refused, built
from few_values import POWERS, FewValues
from programs import INT4N, INT8, UINT8, ProgramBuilder, multipliers


def by_table(program):
    dots = [node.name for node in program.graph.nodes if node.op in ("conv2d", "linear")]
    plan = compile_program(program, algorithms=dict.fromkeys(dots, "codebook"))
    assert [step.algorithm for step in plan.steps if step.layer] == ["codebook"] * len(dots)
    return plan


@built
@pytest.mark.parametrize("n_in", [1, 3, 17, 32])
@pytest.mark.parametrize("size", [1, 7, 15, 17, 33])
def test_every_size_and_ending_equals_the_reference(size, n_in, tmp_path):
    rng = np.random.default_rng(size * 100 + n_in)
    b = FewValues(rng)
    x = b.input((n_in, 5, size), UINT8 if n_in % 2 else INT8)
    outputs = []
    for out, kernel, stride, padding, dilation in ((33, 3, 1, 1, 1), (80, 1, 1, 0, 1), (7, (3, 1), 2, 2, (2, 3))):
        y = b.conv2d(x, out, kernel, stride, padding, dilation)
        outputs += [y, b.requantize(y, UINT8, multipliers(rng, out, 16)), b.requantize(y, QType.parse("bipolar"))]
    b.values = np.append(rng.integers(-127, 128, 15), 0)
    z = b.conv2d(outputs[1], 33, 3, padding=1)
    scale = b.scale(z).max() * 701.3
    outputs.append(b.clip(b.add(b.branch(z, scale, 16), b.branch(outputs[1], scale, 16)), INT8))
    outputs.append(b.linear(b.flatten(x), 17))
    program = b.program(*outputs)
    inputs = {"x0": rng.normal(size=(2, n_in, 5, size)) * 4}
    assert_equal(by_table(program), program, inputs, tmp_path / "p.dyqe")


@built
def test_blocks_that_fill_their_panel_alone_equal_the_reference(tmp_path):
    """9,212 inputs: one block of outputs at once, and an odd number of quads."""
    rng = np.random.default_rng(0)
    b = FewValues(rng)
    program = b.program(b.linear(b.input((9212,), UINT8), 40))
    inputs = {"x0": rng.normal(size=(1, 9212)) * 4}
    assert_equal(by_table(program), program, inputs, tmp_path / "p.dyqe", threads=(1,))


def dot_of(weight, plane=(7, 7), **more):
    weight = np.asarray(weight, dtype=np.int64)
    return Dot(weight, np.zeros(len(weight), dtype=np.int64), plane=plane, **more)


SPREAD = np.resize(POWERS, (16, 32, 3, 3))


def test_files_are_half_of_int8_and_the_rule_takes_them_on_large_planes():
    found = find_weights(dot_of(SPREAD))
    assert choose_weights(dot_of(SPREAD), found).algorithm == "codebook"
    assert choose_weights(dot_of(SPREAD, (6, 8)), found).algorithm == "direct"
    assert 2 * found["codebook"].n_bytes == found["direct"].n_bytes


@pytest.mark.parametrize("n_in", [3, 4, 5, 32])
def test_places_are_those_of_the_weights(n_in):
    weight = np.random.default_rng(0).choice(POWERS, (17, n_in, 3, 1))
    places, table = pack_places(weight)
    dense = pack_dense(weight, 1).reshape(2, -1, 64)
    again = table[places].reshape(2, -1, 64, 2).transpose(0, 1, 3, 2).reshape(2, -1, 64)
    assert np.array_equal(again[:, : dense.shape[1]], dense)


@built
@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("type", None, "a weight is of another type"),
        ("weights", "bias", "a weight is too short"),
        ("table", "bias", "a table of weights is of another type"),
        ("table", 0, "a table of weights is not there"),
        ("groups", 2, "sparse weights, those of Winograd and places in a table are of one group"),
        ("kernel", 1 << 16, "a convolution leaves its input"),
    ],
)
def test_fields_that_make_no_sense_are_refused(field, value, reason, tmp_path):
    rng = np.random.default_rng(0)
    b = FewValues(rng)
    y = b.conv2d(b.input((8, 6, 6), UINT8), 8, 1)
    plan = by_table(b.program(b.requantize(y, UINT8)))
    (step,) = (step for step in plan.steps if step.op == "conv")
    at = {"kernel": 3, "groups": 11, "weights": 12, "table": 13, "bias": 14}
    if field == "type":
        plan.types.clear()
    else:
        step.words[at[field]] = step.words[at[value]] if isinstance(value, str) else value
    assert_refused(plan, reason, tmp_path / "p.dyqe")


def test_weights_of_four_bits_stay_as_they_are():
    b = ProgramBuilder(np.random.default_rng(0))
    plan = compile_program(b.program(b.conv2d(b.input((8, 6, 6), UINT8), 8, 3, qtype=INT4N)))
    assert [step.algorithm for step in plan.steps if step.layer] == ["direct"]
