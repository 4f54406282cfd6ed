"""Convolutions of bits: the reference's integers where inputs have two codes and weights two values, only there."""

import numpy as np
import pytest

from dyadiq.core.qtype import QType
from dyadiq.engine import compile_program, measure_algorithms
from dyadiq.engine.binary import pack_words
from dyadiq.engine.weights import Dot, choose_weights, find_weights
from engine_checks import assert_equal, assert_refused, built
from programs import BIPOLAR, INT8, UINT8, ProgramBuilder, multipliers

UINT1 = QType.parse("uint1")
SIZES = (1, 7, 15, 17, 33)


def by_bits(program):
    dots = [node.name for node in program.graph.nodes if node.op in ("conv2d", "linear")]
    plan = compile_program(program, algorithms=dict.fromkeys(dots, "binary"))
    assert [s.op for s in plan.steps if s.algorithm == "binary"] == ["bits", "conv"] * len(dots)
    return plan


def two_values(b, rng, values):
    """Make the last weights of a `ProgramBuilder` two-valued."""
    weight = b.params[b.nodes[-1].inputs[1]]
    weight[:] = rng.choice(values, weight.shape)


@built
@pytest.mark.parametrize("codes", [UINT1, BIPOLAR], ids=str)
@pytest.mark.parametrize("n_in", [1, 33, 64, 100])
@pytest.mark.parametrize("size", SIZES)
def test_every_size_and_ending_equals_the_reference(size, n_in, codes, tmp_path):
    """Sums, codes, signs, residuals of both types; weights of both kinds; bits from inputs and layers."""
    rng = np.random.default_rng(size * 1000 + n_in)
    b = ProgramBuilder(rng)
    padding = 0 if codes.bipolar else 1  # bipolar codes have no zero to pad with
    x = b.input((n_in, 5, size), codes)
    outputs, kernel = [], 1 if size == 1 and codes.bipolar else 3
    for values in ((-1, 1), (-7, 7), (0, 1), (0, 5)):
        n_out = int(rng.choice([16, *SIZES]))
        y = b.conv2d(x, n_out, kernel, padding=padding)
        two_values(b, rng, values)
        outputs += [y, b.requantize(y, INT8, multipliers(rng, n_out, 16))]
    y = b.conv2d(x, n_in, (3, 1), 2, (padding, 0), (2, 1), qtype=BIPOLAR)
    outputs.append(b.requantize(y, codes))
    y = b.conv2d(x, n_in, 1, qtype=BIPOLAR)
    scale = b.scale(y).max() * 701.3
    outputs.append(b.clip(b.add(b.branch(y, scale, 16), b.branch(x, scale, 16)), UINT8))
    outputs.append(b.linear(b.flatten(x), 17, qtype=BIPOLAR))
    program = b.program(*outputs)
    assert_equal(by_bits(program), program, {"x0": rng.normal(size=(2, n_in, 5, size))}, tmp_path / "p.dyqe")


@built
@pytest.mark.parametrize("values", [(-1, 1), (0, 1)], ids=str)
@pytest.mark.parametrize("codes", [UINT1, BIPOLAR], ids=str)
def test_counts_at_their_ends_do_not_overflow(values, codes, tmp_path):
    """All bits alike and all different, over more words than counts in bytes have room for."""
    rng = np.random.default_rng(0)
    b = ProgramBuilder(rng)
    x = b.input((1100, 3, 5), codes)
    y = b.conv2d(x, 33, 3)
    two_values(b, rng, values)
    weight = b.params[b.nodes[-1].inputs[1]]
    weight[0], weight[1] = values[0], values[1]
    ends = np.ones((3, 1100, 3, 5))
    ends[1] = -1
    ends[2] = rng.choice([-1, 1], ends[2].shape)
    program = b.program(y, b.requantize(y, INT8))
    assert_equal(by_bits(program), program, {"x0": ends}, tmp_path / "p.dyqe")


def test_other_pairs_of_codes_than_0_and_1_are_bits_too():
    """Codes that a layer before clips to two values side by side."""
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.requantize(b.input((40, 4, 4), INT8), INT8, 1, 0, clip=(-3, -2))
    program = b.program(b.conv2d(x, 8, 1, qtype=BIPOLAR))
    assert [step.algorithm for step in by_bits(program).steps if step.layer] == ["binary", "binary"]


def test_bipolar_codes_padded_with_a_zero_are_three_codes():
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.input((64, 6, 6), BIPOLAR)
    padded, plain = b.conv2d(x, 16, 3, padding=1, qtype=BIPOLAR), b.conv2d(x, 16, 3, qtype=BIPOLAR)
    found = [step.choices for step in compile_program(b.program(padded, plain)).steps if step.op == "conv"]
    assert ["binary" in choices for choices in found] == [False, True]


def test_words_are_the_bits():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (17, 70, 2, 3))
    words = pack_words(bits).reshape(2, 6, 3, 16).view(np.uint32)
    again = words[..., np.newaxis] >> np.arange(32, dtype=np.uint32) & 1  # [block, tap, word, 16, 32]
    whole = again.transpose(0, 3, 2, 4, 1).reshape(32, 96, 2, 3)
    assert np.array_equal(whole[:17, :70], bits)
    assert not whole[17:].any()
    assert not whole[:, 70:].any()


@pytest.mark.parametrize(
    ("n_in", "kernel", "chosen"),
    [(32, 3, "binary"), (31, 3, "direct"), (256, 1, "binary"), (255, 1, "direct"), (32, 1, "direct")],
)
def test_the_rule_looks_at_channels_and_products(n_in, kernel, chosen):
    weight = np.resize(np.array([-1, 1, 1]), (16, n_in, kernel, kernel))
    dot = Dot(weight, np.zeros(16, dtype=np.int64), codes=(0, 1), plane=(4, 4), only_ends=True)
    assert choose_weights(dot, find_weights(dot)).algorithm == chosen


@built
def test_times_of_bits_and_of_the_convolution_are_added():
    b = ProgramBuilder(np.random.default_rng(0))
    program = b.program(b.conv2d(b.input((64, 20, 20), UINT1), 16, 3, qtype=BIPOLAR))
    (times,) = measure_algorithms(program, rounds=1).times_us.values()
    assert times.keys() == {"direct", "sparse", "winograd", "winograd1d", "binary", "sparse4x4"}
    assert all(min(pair) > 0 for pair in times.values())


@built
@pytest.mark.parametrize(
    ("op", "field", "value", "reason"),
    [
        ("bits", 0, 2, "a tensor of bits is of another type"),
        ("bits", 1, 0, "a tensor of bits has other channels than its input"),
        ("bits", 2, 2, "a tensor of bits leaves its input"),
        ("bits", 3, -1, "a margin is out of range"),
        ("bits", 4, 256, "the lower code of an input is out of range"),
        ("conv", 3, 9, "a convolution leaves its input"),
        ("conv", 9, 1, "bits have no margins"),
        ("conv", 11, 2, "bits are of one group, in whole words"),
        ("conv", 12, 0, "a weight is not there"),
        ("conv", 13, 2, "a flag is out of range"),
        ("conv", 12, "bias", "a weight is too short"),
    ],
)
def test_fields_that_make_no_sense_are_refused(op, field, value, reason, tmp_path):
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.input((40, 6, 9), UINT1)
    plan = by_bits(b.program(b.conv2d(x, 8, (3, 1), padding=1, qtype=BIPOLAR)))
    (step,) = (step for step in plan.steps if step.op == op)
    step.words[field] = step.words[15] if value == "bias" else value
    assert_refused(plan, reason, tmp_path / "p.dyqe")
