"""Winograd convolutions: the reference's integers wherever ranges are proven, and nowhere else."""

import itertools

import numpy as np
import pytest

from dyadiq.core.errors import ArtifactError, ConfigError, UnknownNameError
from dyadiq.core.native import native_state
from dyadiq.core.qtype import QType
from dyadiq.engine import EngineProgram, available_isas, compile_program, write_engine_file
from dyadiq.engine.weights import ALGORITHMS, Dot, choose_weights, find_weights
from dyadiq.engine.winograd import transformed_inputs, transformed_weights
from dyadiq.ir.reference import run_reference
from programs import INT4N, INT8, UINT8, ProgramBuilder, multipliers

built = pytest.mark.skipif(not available_isas(), reason=f"the engine was not built: {native_state().found}")
UINT6, INT6 = QType.parse("uint6"), QType.parse("int6")
SIZES = (1, 7, 15, 17, 33)


def by_winograd(program):
    dots = [node.name for node in program.graph.nodes if node.op == "conv2d"]
    plan = compile_program(program, algorithms=dict.fromkeys(dots, "winograd"))
    assert [step.algorithm for step in plan.steps if step.op == "conv"] == ["winograd"] * len(dots)
    return plan


def assert_equal(program, inputs, path):
    """The reference's integers from every instruction set, in one thread and two."""
    write_engine_file(by_winograd(program), path)
    expected = run_reference(program, inputs)
    for isa, threads in itertools.product(available_isas(), (1, 2)):
        engine = EngineProgram(path, isa=isa, threads=threads)
        for _ in range(2):  # what a first run leaves in the arena changes nothing
            found = engine.run(inputs)
            assert all(np.array_equal(found[name], expected[name]) for name in expected), (isa, threads)


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
    assert_equal(b.program(*outputs), {"x0": rng.normal(size=(2, *b.shape("x0"))) * 40}, tmp_path / "p.dyqe")


@built
def test_residuals_of_32_bits_and_chunks_of_a_plane_equal_the_reference(tmp_path):
    rng = np.random.default_rng(0)
    b = ProgramBuilder(rng)
    x = b.input((70, 60, 30), UINT6, scale=1.0)  # 450 tiles of 2 kB: more than are near at once
    stream = b.requantize(x, QType.parse("int12"), np.array([37]))
    z = b.conv2d(x, 70, 3, padding=1, qtype=INT4N)
    z = b.branch(z, b.scale(stream), 16)
    program = b.program(b.clip(b.add(z, stream), UINT8), b.requantize(b.conv2d(x, 70, qtype=INT4N), INT8, 99))
    assert_equal(program, {"x0": rng.normal(size=(1, *b.shape("x0"))) * 40}, tmp_path / "p.dyqe")


@built
@pytest.mark.parametrize("codes", [UINT6, INT6, QType.parse("uint7")], ids=str)
@pytest.mark.parametrize("channels", [16, 65])
def test_extremes_neither_wrap_nor_saturate(channels, codes, tmp_path):
    """Weights of -14 and 14, codes of both ends: every transformed value at the end of its byte."""
    rng = np.random.default_rng(channels)
    b = ProgramBuilder(rng, worst=True)
    low = codes.qmax - 63  # of uint7: the upper half alone, which is what pads it too
    x = b.requantize(b.input((channels, 7, 9), INT8, 1.0), codes, 1, 0, zero_point=low, clip=(low, codes.qmax))
    outputs = []
    for _ in range(2):
        y = b.conv2d(x, 17, 3, padding=1, qtype=QType.parse("int5"))
        weight = b.params[b.nodes[-1].inputs[1]]
        weight[:] = rng.choice([-14, 14], weight.shape)
        weight[:2] = [[[[14]]], [[[-14]]]]  # the largest sums
        outputs += [y, b.requantize(y, INT8, multipliers(rng, 17, 16))]
    program = b.program(*outputs)
    ends = rng.choice([-1000.0, 1000.0], (3, channels, 7, 9))
    ends[:2] = [[[[-1000.0]]], [[[1000.0]]]]
    assert_equal(program, {"x0": ends}, tmp_path / "p.dyqe")


def dot_of(weight, codes=(0, 63), **more):
    weight = np.broadcast_to(np.asarray(weight, dtype=np.int64), (32, 32, 3, 3))
    return Dot(weight, np.zeros(len(weight), dtype=np.int64), codes=codes, plane=(10, 10), **more)


@pytest.mark.parametrize(
    ("dot", "reason"),
    [
        (dot_of(15), "its transformed weights reach 135, expected -128 to 127"),
        (dot_of(-15), "its transformed weights reach -135, expected -128 to 127"),
        (dot_of(14, (0, 64)), "its input's codes span 65 values, expected at most 64"),
        (dot_of(14, stride=(2, 2)), "it is 3x3 with stride 2, dilation 1 and 1 groups, expected 3x3, 1, 1 and 1"),
        (dot_of(14, dilation=(1, 2)), "it is 3x3 with stride 1, dilation 2 and 1 groups"),
        (dot_of(14, groups=2), "it is 3x3 with stride 1, dilation 1 and 2 groups"),
        (Dot(np.ones((4, 4, 1, 1), dtype=np.int64), np.zeros(4, dtype=np.int64)), "it is 1x1 with"),
        (dot_of(14, wide=True), "its input lies in 32 bits"),
        (
            Dot(np.ones((1, 516, 3, 3), dtype=np.int64), np.zeros(1, dtype=np.int64), codes=(0, 1)),
            "it has 516 input channels, expected at most 512",
        ),
        (
            Dot(np.ones((1, 4, 3, 3), dtype=np.int64), np.array([1 << 29]), codes=(0, 1)),
            r"its sums may reach \d+, expected less than 536870912",
        ),
    ],
)
def test_ranges_that_do_not_fit_are_refused_with_the_reason(dot, reason):
    assert "winograd" not in find_weights(dot)
    with pytest.raises(ConfigError, match=f"'winograd' cannot run it: {reason}.*Take one of: "):
        choose_weights(dot, find_weights(dot), "winograd")


def test_what_does_not_fit_is_not_given_to_winograd_and_forcing_it_names_the_layer():
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.input((32, 14, 14), UINT8)
    y = b.conv2d(x, 32, 3, qtype=INT4N)
    program = b.program(y, b.conv2d(b.requantize(y, UINT6), 32, 3, qtype=INT4N))
    assert [step.algorithm for step in compile_program(program).steps if step.layer] == ["direct", "winograd"]
    with pytest.raises(ConfigError, match="conv2d1: 'winograd' cannot run it: its input's codes span 256 values"):
        compile_program(program, algorithms={"conv2d1": "winograd"})
    with pytest.raises(ConfigError, match="'depthwise' cannot run it: its kernels are for other layers"):
        compile_program(program, algorithms={"conv2d1": "depthwise"})
    with pytest.raises(UnknownNameError, match="unknown convolution or linear layer 'conv2d2'; did you mean"):
        compile_program(program, algorithms={"conv2d2": "direct"})
    with pytest.raises(UnknownNameError, match="unknown algorithm 'fft'"):
        compile_program(program, algorithms={"conv2d1": "fft"})


def test_the_rule_looks_at_channels_and_the_plane():
    def chosen(n_out, n_in, plane):
        weight = np.ones((n_out, n_in, 3, 3), dtype=np.int64)
        dot = Dot(weight, np.zeros(n_out, dtype=np.int64), codes=(0, 63), plane=plane)
        return choose_weights(dot, find_weights(dot)).algorithm

    sizes = [(32, 32, (7, 7)), (32, 32, (6, 8)), (31, 32, (7, 7)), (32, 31, (7, 7))]
    assert [chosen(*size) for size in sizes] == ["winograd", "direct", "direct", "direct"]


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
    # A' M A is four times the convolution.
    d, w = rng.integers(0, 64, (1, 5, 4, 4)), rng.integers(-14, 15, (3, 5, 3, 3))
    forward = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
    sums = forward @ (transformed_weights(w) * (back @ d @ back.T)).sum(axis=1) @ forward.T
    direct = [[(w * d[:, :, y : y + 3, x : x + 3]).sum(axis=(1, 2, 3)) for x in (0, 1)] for y in (0, 1)]
    assert np.array_equal(sums, 4 * np.moveaxis(direct, -1, 0))


@built
@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("kernel", 1, "a convolution is none for Winograd"),
        ("low", 256, "the lowest code of an input is out of range"),
        ("low", -1, "the lowest code of an input is out of range"),
        ("scratch", 99, "a buffer is out of range"),
        ("scratch", 0, "a buffer is too small for Winograd"),
        ("shared", None, "a step writes over what it reads"),
    ],
)
def test_fields_that_make_no_sense_are_refused(field, value, reason, tmp_path):
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.input((4, 6, 6), UINT6)
    plan = by_winograd(b.program(b.requantize(b.conv2d(x, 4, 3, qtype=INT4N), UINT6)))
    (step,) = (step for step in plan.steps if step.op == "conv")
    at = {"kernel": 3, "low": 13, "scratch": 14}
    scratch = plan.buffers[step.words[14]]
    if field == "shared":
        plan.buffers[step.reads[0].buffer].offset = scratch.offset
    else:
        step.words[at[field]] = value
    write_engine_file(plan, tmp_path / "p.dyqe")
    with pytest.raises(ArtifactError, match=reason):
        EngineProgram(tmp_path / "p.dyqe")


def test_kinds_are_those_of_the_specification():
    assert ALGORITHMS == ("direct", "depthwise", "generic", "sparse", "winograd", "binary", "codebook", "sparse4x4")
