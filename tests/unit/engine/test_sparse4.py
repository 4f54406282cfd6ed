"""Weights in blocks of 4 outputs by 4 inputs: the reference's integers at every size, stride and ending."""

import itertools

import numpy as np
import pytest

from dyadiq.core.errors import ArtifactError, ConfigError
from dyadiq.core.native import native_state
from dyadiq.core.qtype import QType
from dyadiq.engine import EngineProgram, available_isas, compile_program, measure_algorithms, write_engine_file
from dyadiq.engine.sparse4 import QuadPlane, find_blocks
from dyadiq.engine.weights import Dot, choose_weights, find_weights
from dyadiq.ir.reference import run_reference
from programs import INT8, UINT8, ProgramBuilder, multipliers
from sparse_weights import thin

built = pytest.mark.skipif(not available_isas(), reason=f"the engine was not built: {native_state().found}")


def by_blocks(program):
    dots = [node.name for node in program.graph.nodes if node.op in ("conv2d", "linear")]
    plan = compile_program(program, algorithms=dict.fromkeys(dots, "sparse4x4"))
    assert [step.op for step in plan.steps if step.layer] == ["quads", "conv"] * len(dots)
    return plan


def assert_equal(program, inputs, folder):
    write_engine_file(by_blocks(program), folder / "p.dyqe")
    expected = run_reference(program, inputs)
    for isa, threads in itertools.product(available_isas(), (1, 2, 3)):
        found = EngineProgram(folder / "p.dyqe", isa=isa, threads=threads).run(inputs)
        assert all(np.array_equal(found[name], expected[name]) for name in expected), (isa, threads)


@built
@pytest.mark.parametrize("worst", [False, True])
@pytest.mark.parametrize("n_in", [1, 3, 17, 32])
@pytest.mark.parametrize("size", [1, 7, 15, 17, 33])
def test_every_size_and_ending_equals_the_reference(size, n_in, worst, tmp_path):
    """Strides and dilations of both sides, outputs that fill blocks and do not, wide codes, signs, residuals."""
    rng = np.random.default_rng(size * 100 + n_in)
    b = ProgramBuilder(rng, worst=worst)
    x = b.input((n_in, 5, size), UINT8 if n_in % 2 else INT8)
    outputs = []
    for out, kernel, stride, padding, dilation in (
        (33, 3, 1, 1, 1), (48, 1, 1, 0, 1), (7, (3, 1), 2, 2, (2, 3)), (20, 3, (1, 3), 1, 1), (16, 1, 2, 0, 1),
        (17, (3, 1), 1, 2, 1),
    ):  # fmt: skip
        y = b.conv2d(x, out, kernel, stride, padding, dilation)
        thin(b, rng, 0.3, outputs=4)
        outputs += [y, b.requantize(y, UINT8, multipliers(rng, out, 16)), b.requantize(y, QType.parse("bipolar"))]
    y = outputs[1]
    for wide in (False, True):
        z = b.conv2d(y, 33, 3, padding=1)
        thin(b, rng, 0.3, outputs=4)
        scale = b.scale(z).max() * 701.3
        other = b.conv2d(y, 33, 1) if wide else y
        outputs.append(b.clip(b.add(b.branch(z, scale, 16), b.branch(other, scale, 16)), INT8))
    outputs += [b.requantize(z, QType(12, signed=True), multipliers(rng, 33, 16)), b.linear(b.flatten(x), 17)]
    inputs = {"x0": rng.normal(size=(2, n_in, 5, size)) * 4}
    assert_equal(b.program(*outputs), inputs, tmp_path)


@built
@pytest.mark.parametrize("density", [0.0, 1.0])
def test_no_block_and_all_of_them_equal_the_reference(density, tmp_path):
    """Planes of many vectors, which tiles share in all ways; sums of the bias alone."""
    rng = np.random.default_rng(0)
    b = ProgramBuilder(rng)
    outputs = []
    for size in ((14, 14), (7, 7), (20, 31)):
        y = b.conv2d(b.input((8, *size), UINT8), 20, 3, padding=1)
        thin(b, rng, density, outputs=4)
        outputs.append(b.requantize(y, UINT8, multipliers(rng, 20, 16)))
    program = b.program(*outputs)
    inputs = {name: rng.normal(size=(1, *program.graph.tensors[name].shape)) for name in program.graph.inputs}
    assert_equal(program, inputs, tmp_path)


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [((3, 3), (1, 1), (1, 1)), ((3, 2), (2, 3), (1, 2)), ((1, 1), (1, 1), (1, 1))]
)
def test_places_are_where_windows_find_their_quads(kernel, stride, dilation):
    """Codes that are their own places, laid out by the definition, and found by every block from every output."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-3, 4, (7, 9, *kernel))
    weight[3:, 4:] = 0
    plane = QuadPlane(kernel, stride, dilation, (4, 5))
    values, places = find_blocks(weight, plane)
    (height, width), (down, right) = plane.size, stride
    x = rng.integers(0, 256, (9, height, width))
    channels = np.pad(x, ((0, 3), (0, 0), (0, 0))).reshape(3, 4, height // down, down, width // right, right)
    memory = channels.transpose(0, 3, 5, 2, 4, 1).reshape(-1, 4)
    starts, places = places[:5], places[5:]
    assert starts[-1] == len(places) == values.size // 16
    for y, column, o in itertools.product(range(4), range(5), range(7)):
        found = 0
        for at in range(starts[o // 4], starts[o // 4 + 1]):
            quad = memory[places[at] + y * (width // right) + column]
            found += int(quad @ values.reshape(-1, 4, 4)[at, o % 4].astype(int))
        rows, columns = (
            np.arange(k) * d + p * s for k, d, p, s in zip(kernel, dilation, (y, column), stride, strict=True)
        )
        assert found == int((x[:, rows][:, :, columns] * weight[o]).sum())


@pytest.mark.parametrize(
    ("kernel", "padding", "dilation", "size"),
    [
        ((3, 3), 1, (1, 1), (6, 8)),  # one column of margins for two rows, and a row behind the last
        ((3, 5), 2, (2, 1), (8, 9)),  # two columns
        ((3, 3), 1, (1, 4), (5, 9)),  # a tap may not reach the next row's
        ((3, 3), 0, (1, 1), (5, 7)),
        ((3, 1), 2, (1, 1), (5, 11)),  # wide outputs, and nothing to share
    ],
)
def test_rows_share_their_margins_where_taps_are_near(kernel, padding, dilation, size):
    outputs = (3, 7 + 2 * padding - (kernel[1] - 1) * dilation[1])
    plane = QuadPlane(kernel, (1, 1), dilation, outputs, padding, 7)
    assert plane.size == size


@pytest.mark.parametrize(
    ("outputs", "density", "plane", "chosen"),
    [
        (4, 0.4, (14, 14), "sparse4x4"),
        (4, 0.5, (7, 7), "direct"),  # 55 positions for 49 outputs
        (4, 0.7, (14, 14), "direct"),
        (4, 0.1, (4, 4), "sparse"),  # a plane too small, and 16 outputs share zeros now and then
        (4, 0.25, (1, 1), "sparse4x4"),
        (4, 0.4, (1, 1), "direct"),
        (16, 0.25, (14, 14), "sparse"),
    ],
)
def test_blocks_are_chosen_where_they_are_less_work(outputs, density, plane, chosen):
    rng = np.random.default_rng(0)
    kept = np.zeros(64 // outputs * 16 * 9, dtype=np.int64)
    kept[: round(density * kept.size)] = 1
    mask = rng.permutation(kept).reshape(-1, 16, 3, 3).repeat(outputs, axis=0).repeat(4, axis=1)
    dot = Dot(rng.integers(1, 128, (64, 64, 3, 3)) * mask, np.zeros(64, dtype=np.int64), plane=plane, row=(1, plane[1]))
    assert choose_weights(dot, find_weights(dot)).algorithm == chosen


@pytest.mark.parametrize(
    ("more", "weight"),
    [
        ({"wide": True}, np.ones((16, 8, 1, 1))),
        ({"groups": 2}, np.ones((16, 8, 1, 1))),
        ({}, np.full((16, 8, 1, 1), 128)),
    ],
)
def test_other_layers_are_refused(more, weight):
    dot = Dot(weight.astype(np.int64), np.zeros(16, dtype=np.int64), **more)
    with pytest.raises(
        ConfigError, match=r"'sparse4x4' cannot run it: its kernels are for other layers\. Take one of: "
    ):
        choose_weights(dot, find_weights(dot), "sparse4x4")


@built
def test_times_of_both_steps_are_added():
    b = ProgramBuilder(np.random.default_rng(0))
    program = b.program(b.conv2d(b.input((64, 20, 20), UINT8), 16, 3))
    (times,) = measure_algorithms(program, rounds=1).times_us.values()
    assert times.keys() == {"direct", "sparse", "sparse4x4"}
    assert all(min(pair) > 0 for pair in times.values())


@built
@pytest.mark.parametrize(
    ("op", "field", "value", "reason"),
    [
        ("quads", 0, 2, "a tensor of quads is of another type than its input"),
        ("quads", 1, 0, "a tensor of quads is no whole buffer"),
        ("quads", 2, 7, "a tensor of quads is no whole buffer"),
        ("quads", 3, 0, "a size is out of range"),
        ("quads", 4, 2, "a tensor of quads leaves its input"),
        ("quads", 5, -1, "a margin is out of range"),
        ("conv", 1, 0, "quads are no whole buffer"),
        ("conv", 3, 19, "a convolution leaves its input"),
        ("conv", 5, 7, "quads are no whole buffer"),
        ("conv", 9, 1, "a convolution leaves its input"),
        ("conv", 11, 2, "sparse weights, those of Winograd and places in a table are of one group"),
        ("conv", 12, "bias", "a weight is of another type"),
        ("conv", 13, "bias", "a list of quads has another length"),
    ],
)
def test_fields_that_make_no_sense_are_refused(op, field, value, reason, tmp_path):
    plan = small_plan()
    (step,) = (step for step in plan.steps if step.op == op and (step.layer or op != "conv"))
    step.words[field] = step.words[14] if value == "bias" else value
    write_engine_file(plan, tmp_path / "p.dyqe")
    with pytest.raises(ArtifactError, match=reason):
        EngineProgram(tmp_path / "p.dyqe")


@built
def test_rows_of_quads_that_are_narrower_than_outputs_are_refused(tmp_path):
    """Windows may end in the next row; outputs may not."""
    plan = small_plan()
    (quads,) = (buffer for buffer in plan.buffers if (buffer.height, buffer.width) == (9, 7))
    quads.height, quads.width = 12, 5
    write_engine_file(plan, tmp_path / "p.dyqe")
    with pytest.raises(ArtifactError, match="a convolution leaves its input"):
        EngineProgram(tmp_path / "p.dyqe")


@built
@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (5, -1, "a list of quads is out of order"),
        (6, 0, "a list of quads is out of order"),
        (-1, 2 * 63 - (5 * 7 + 5), "a quad lies outside its buffer"),
        (1, 1 << 30, "a list of quads is out of order"),
        (4, 1 << 20, "a list of quads has another length"),
    ],
)
def test_places_outside_are_refused(at, value, reason, tmp_path):
    plan = small_plan()
    (places,) = (values for name, values in plan.payloads if name.endswith(".places"))
    assert places[-1] == 63 + 2 * 7 + 2  # the last tap of the last channels, in planes of 9 by 7
    places[at] = value
    write_engine_file(plan, tmp_path / "p.dyqe")
    with pytest.raises(ArtifactError, match=reason):
        EngineProgram(tmp_path / "p.dyqe")


def small_plan():
    b = ProgramBuilder(np.random.default_rng(0))
    y = b.conv2d(b.input((8, 6, 6), UINT8), 8, 3, padding=1)
    return by_blocks(b.program(b.requantize(y, INT8)))
