"""Winograd convolutions: the reference's integers wherever ranges are proven, and nowhere else."""

import numpy as np
import pytest

from dyadiq.core.qtype import QType
from dyadiq.engine import compile_program
from dyadiq.engine.weights import Dot, choose_weights, find_weights
from dyadiq.engine.winograd import transformed_inputs, transformed_weights
from engine_checks import assert_equal, assert_refused, built
from programs import INT4N, INT8, UINT8, ProgramBuilder, multipliers

UINT6, INT6, UINT7, INT7 = (QType.parse(t) for t in ("uint6", "int6", "uint7", "int7"))
SIZES = (1, 7, 15, 17, 33)
_1D = "winograd1d"


def by_winograd(program, algorithm="winograd"):
    dots = [node.name for node in program.graph.nodes if node.op == "conv2d"]
    plan = compile_program(program, algorithms=dict.fromkeys(dots, algorithm))
    assert [step.algorithm for step in plan.steps if step.op == "conv"] == [algorithm] * len(dots)
    return plan


@built
@pytest.mark.parametrize("n_in", SIZES)
@pytest.mark.parametrize("size", SIZES)
def test_every_size_and_ending_equals_the_reference(size, n_in, tmp_path):
    """Sums; codes without and with a residual, of bytes and int32; weights of every width in the file."""
    rng = np.random.default_rng(size * 100 + n_in)
    b = ProgramBuilder(rng)
    x = b.input((n_in, 7 if size % 2 else 8, size), UINT6 if n_in % 4 == 1 else INT6, scale=1.0)
    n_out = 48 if n_in == 33 else int(rng.choice(SIZES))
    sums = b.conv2d(x, n_out, 3, padding=1, qtype=QType.parse("int5n"), bias_bits=12)
    y = b.requantize(sums, UINT6, multipliers(rng, n_out, 16))
    outputs = [sums]
    for qtype, ending in (("int4", UINT6), ("int4n", INT6), ("int2n", INT8), ("bipolar", QType.parse("int12"))):
        z = b.conv2d(y, n_out, 3, padding=1, qtype=QType.parse(qtype))
        scale = b.scale(z).max() * 701.3
        outputs.append(b.clip(b.add(b.branch(z, scale, 16), b.branch(y, scale, 16)), ending))
    if size > 2:
        z = b.conv2d(y, 17, 3, padding=(1, 0), qtype=INT4N)
        outputs.append(b.requantize(z, QType.parse("bipolar")))
    program = b.program(*outputs)
    inputs = {"x0": rng.normal(size=(2, *b.shape("x0"))) * 40}
    assert_equal(by_winograd(program), program, inputs, tmp_path / "p.dyqe")


@built
@pytest.mark.parametrize("n_in", SIZES)
@pytest.mark.parametrize("size", SIZES)
def test_one_axis_equals_the_reference_at_every_size_and_ending(size, n_in, tmp_path):
    """3x3, 1x3 and 3x1; sums, codes, residuals of bytes and int32; weights of every width in the file."""
    rng = np.random.default_rng(size * 100 + n_in)
    b = ProgramBuilder(rng)
    x = b.input((n_in, *((7, size) if n_in % 2 else (size, 8))), UINT7 if n_in % 4 == 1 else INT7, scale=1.0)
    n_out = 48 if n_in == 33 else int(rng.choice(SIZES))
    sums = b.conv2d(x, n_out, 3, padding=1, qtype=QType.parse("int6n"), bias_bits=12)
    y = b.requantize(sums, UINT7, multipliers(rng, n_out, 16))
    outputs = [sums]
    for qtype, kernel, ending in (
        ("int6", 3, UINT7), ("int6n", (1, 3), INT7), ("int4n", (3, 1), UINT8), ("int2n", 3, INT8),
        ("bipolar", (1, 3), QType.parse("int12")),
    ):  # fmt: skip
        padding = (0 if kernel == (1, 3) else 1, 0 if kernel == (3, 1) else 1)
        z = b.conv2d(y, n_out, kernel, padding=padding, qtype=QType.parse(qtype))
        scale = b.scale(z).max() * 701.3
        outputs.append(b.clip(b.add(b.branch(z, scale, 16), b.branch(y, scale, 16)), ending))
    z = b.conv2d(y, 17, (3, 1), padding=(1, 0), qtype=QType.parse("int6"))
    outputs += [z, b.requantize(z, QType.parse("bipolar"))]
    program = b.program(*outputs)
    inputs = {"x0": rng.normal(size=(2, *b.shape("x0"))) * 60}
    assert_equal(by_winograd(program, "winograd1d"), program, inputs, tmp_path / "p.dyqe", threads=(1, 3))


@built
@pytest.mark.parametrize(("algorithm", "kernel"), [("winograd", 3), *((_1D, k) for k in (3, (1, 3), (3, 1)))])
def test_residuals_of_32_bits_and_chunks_of_a_plane_equal_the_reference(algorithm, kernel, tmp_path):
    rng = np.random.default_rng(0)
    b = ProgramBuilder(rng)
    x = b.input((70, 60, 30), UINT6, scale=1.0)  # 450 tiles of 2 kB: more than are near at once
    stream = b.requantize(x, QType.parse("int12"), np.array([37]))
    padding = tuple(k // 2 for k in (kernel if isinstance(kernel, tuple) else (kernel, kernel)))
    z = b.conv2d(x, 70, kernel, padding=padding, qtype=INT4N)
    z = b.branch(z, b.scale(stream), 16)
    y = b.requantize(b.conv2d(x, 20, kernel, qtype=INT4N), INT8, 99)
    program = b.program(b.clip(b.add(z, stream), UINT8), y)
    inputs = {"x0": rng.normal(size=(1, *b.shape("x0"))) * 40}
    assert_equal(by_winograd(program, algorithm), program, inputs, tmp_path / "p.dyqe", threads=(1, 3))


@built
@pytest.mark.parametrize(
    ("algorithm", "kernel", "most", "n_codes", "codes"),
    [
        *(("winograd", 3, 14, 64, codes) for codes in (UINT6, INT6, UINT7)),
        *((_1D, kernel, 42, 128, codes) for kernel in (3, (1, 3), (3, 1)) for codes in (UINT7, INT7)),
        (_1D, 3, 42, 128, UINT8),
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [16, 65])
def test_extremes_neither_wrap_nor_saturate(channels, algorithm, kernel, most, n_codes, codes, tmp_path):
    """The largest weights, codes of both ends: every transformed value at the end of its byte."""
    rng = np.random.default_rng(channels)
    b = ProgramBuilder(rng, worst=True)
    low = codes.qmax - n_codes + 1  # of a type with more codes: the upper half alone, which is what pads it too
    x = b.requantize(b.input((channels, 7, 14), INT8, 1.0), codes, 1, 0, zero_point=low, clip=(low, codes.qmax))
    outputs = []
    for _ in range(2):
        y = b.conv2d(x, 17, kernel, padding=1, qtype=INT8)
        weight = b.params[b.nodes[-1].inputs[1]]
        weight[:] = rng.choice([-most, most], weight.shape)
        weight[:2] = [[[[most]]], [[[-most]]]]  # the largest sums
        outputs += [y, b.requantize(y, INT8, multipliers(rng, 17, 16))]
    program = b.program(*outputs)
    ends = rng.choice([-1000.0, 1000.0], (3, channels, 7, 14))
    ends[:2] = [[[[-1000.0]]], [[[1000.0]]]]
    assert_equal(by_winograd(program, algorithm), program, {"x0": ends}, tmp_path / "p.dyqe")


def test_the_rule_looks_at_channels_and_the_plane():
    def chosen(n_out, n_in, plane, largest=1, kernel=(3, 3)):
        weight = np.random.default_rng(0).integers(-largest, largest + 1, (n_out, n_in, *kernel))
        dot = Dot(weight, np.zeros(n_out, dtype=np.int64), codes=(0, 63), plane=plane)
        return choose_weights(dot, find_weights(dot)).algorithm

    sizes = [(32, 32, (7, 7)), (32, 32, (6, 8)), (31, 32, (7, 7)), (32, 31, (7, 7))]
    assert [chosen(*size) for size in sizes] == ["winograd", "direct", "direct", "direct"]
    sizes = [(64, 64, (8, 8)), (64, 64, (7, 9)), (63, 64, (8, 8)), (64, 63, (8, 8)), (64, 63, (99, 99))]
    assert [chosen(*size, largest=20) for size in sizes] == [_1D, "direct", "direct", "direct", "direct"]
    sizes = [(64, 128, (8, 8)), (64, 127, (8, 8)), (63, 128, (8, 8))]
    for kernel in ((1, 3), (3, 1), (1, 5)):
        found = [chosen(*size, largest=20, kernel=kernel) for size in sizes]
        assert found == [_1D if 1 in kernel and 3 in kernel else "direct", "direct", "direct"]


def test_bounds_of_transforms_hold_and_are_reached():
    """By brute force over the ends of all ranges, which is where linear forms have their extremes."""
    rng = np.random.default_rng(0)
    back = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
    tiles = np.where(np.arange(1 << 16)[:, None] >> np.arange(16) & 1, 31, -32).reshape(-1, 4, 4)
    moved = back @ (tiles + 32) @ back.T + np.where(np.arange(16).reshape(4, 4) == 5, 0, 128)
    assert transformed_inputs((-32, 31)) == (0, 254)
    assert (moved.min(), moved.max()) == (0, 254)
    kernels = np.where(np.arange(1 << 9)[:, None] >> np.arange(9) & 1, 14, -14).reshape(1, -1, 3, 3)
    assert (transformed_weights(kernels).min(), transformed_weights(kernels).max()) == (-126, 126)
    ends = np.where(np.arange(16)[:, None] >> np.arange(4) & 1, 63, -64) + 64
    assert transformed_inputs((-64, 63), n_axes=1) == (0, 255)
    assert [(back @ ends.T).min(axis=1).tolist(), (back @ ends.T).max(axis=1).tolist()] == [
        [-127, 0, -127, -127],
        [127, 254, 127, 127],
    ]
    lines = np.where(np.arange(1 << 9)[:, None] >> np.arange(9) & 1, 42, -42).reshape(1, -1, 3, 3)
    assert (transformed_weights(lines, 1).min(), transformed_weights(lines, 1).max()) == (-126, 126)
    # A' M A is four times the convolution, M A twice.
    d, w = rng.integers(0, 64, (1, 5, 4, 4)), rng.integers(-14, 15, (3, 5, 3, 3))
    forward = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
    sums = forward @ (transformed_weights(w) * (back @ d @ back.T)).sum(axis=1) @ forward.T
    direct = [[(w * d[:, :, y : y + 3, x : x + 3]).sum(axis=(1, 2, 3)) for x in (0, 1)] for y in (0, 1)]
    assert np.array_equal(sums, 4 * np.moveaxis(direct, -1, 0))
    for y in (0, 1):
        sums = (transformed_weights(w, 1) * (d[:, :, y : y + 3] @ back.T)).sum(axis=(1, 2)) @ forward.T
        assert np.array_equal(sums, 2 * np.transpose(direct[y]))


@built
@pytest.mark.parametrize("algorithm", ["winograd", _1D])
@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("kernel", 2, "a convolution is none for Winograd"),
        ("kernel", 1, None),
        ("stride", 2, "a convolution is none for Winograd"),
        ("groups", 2, "sparse weights, those of Winograd and places in a table are of one group"),
        ("low", 256, "the lowest code of an input is out of range"),
        ("low", -1, "the lowest code of an input is out of range"),
        ("scratch", 99, "a buffer is out of range"),
        ("scratch", 0, "a buffer is too small for Winograd"),
        ("shared", None, "a step writes over what it reads"),
    ],
)
def test_fields_that_make_no_sense_are_refused(field, value, reason, algorithm, tmp_path):
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.input((4, 3, 3), UINT6)
    plan = by_winograd(b.program(b.requantize(b.conv2d(x, 4, 3, qtype=INT4N), UINT6)), algorithm)
    (step,) = (step for step in plan.steps if step.op == "conv")
    at = {"kernel": 3, "stride": 5, "groups": 11, "low": 13, "scratch": 14}
    scratch = plan.buffers[step.words[14]]
    if field == "shared":
        plan.buffers[step.reads[0].buffer].offset = scratch.offset
    else:
        step.words[at[field]] = value
    if reason is None:  # one row of it is a kernel of another shape, along one axis alone
        reason = "a convolution is none for Winograd" if algorithm == "winograd" else "a buffer is too small"
        step.words[at["scratch"]] = 0
    assert_refused(plan, reason, tmp_path / "p.dyqe")
