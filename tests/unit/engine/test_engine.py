"""The engine against the reference: every feature, awkward shapes, every instruction set of this machine."""

import itertools

import numpy as np
import pytest

from dyadiq.core.errors import ArtifactError, ConfigError, DataError, ExportError, MissingToolError, UnknownNameError
from dyadiq.core.native import native_state
from dyadiq.core.qtype import QType
from dyadiq.engine import ISAS as KNOWN_ISAS
from dyadiq.engine import EngineProgram, available_isas, compile_program, find_uncompilable, write_engine_file
from dyadiq.engine.layout import weight_type
from dyadiq.ir.reference import run_reference
from dyadiq.targets import get_target
from programs import BIPOLAR, INT4N, INT8, PROGRAMS, UINT8, ProgramBuilder, multipliers

ISAS = available_isas()
built = pytest.mark.skipif(not ISAS, reason=f"the engine was not built: {native_state().found}")
SIZES = (1, 7, 15, 17, 33)
THREADS = (1, 2, 3, 5)


def feeds(program, rng, n_samples=5):
    return {name: rng.normal(size=(n_samples, *program.graph.tensors[name].shape)) * 4 for name in program.graph.inputs}


def assert_equal(program, rng, path):
    """The reference's integers from every instruction set and number of threads."""
    write_engine_file(compile_program(program), path)
    inputs = feeds(program, rng)
    expected = run_reference(program, inputs)
    for isa, threads in itertools.product(ISAS, THREADS):
        engine = EngineProgram(path, isa=isa, threads=threads)
        assert (engine.isa, engine.threads) == (isa, threads)
        for _ in range(2):  # what a first run leaves in the arena changes nothing
            codes = engine.run(inputs)
            assert codes.keys() == expected.keys()
            for name, wanted in expected.items():
                assert np.array_equal(codes[name], wanted), (isa, threads, name)


@built
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "wide"])
def test_every_feature_equals_the_reference(name, seed, tmp_path):
    rng = np.random.default_rng(seed)
    assert_equal(PROGRAMS[name](rng), rng, tmp_path / "program.dyqe")


def random_network(rng):
    """Convolutions of random geometry, a residual, a pool, concat, a linear layer; sizes around those of vectors."""
    b = ProgramBuilder(rng)
    channels, height, width = (int(rng.choice(SIZES)) for _ in range(3))
    x = b.input((channels, height, width), UINT8 if rng.random() < 0.5 else INT8)
    out, kernel = int(rng.choice(SIZES)), int(rng.integers(1, 4))
    padding, dilation = int(rng.integers(0, 3)), int(rng.integers(1, 3))
    if min(height, width) + 2 * padding < (kernel - 1) * dilation + 1:
        padding, dilation, kernel = 0, 1, 1
    stride = int(rng.integers(1, 3))
    x = b.conv2d(x, out, kernel, stride, padding, dilation, qtype=INT8 if rng.random() < 0.7 else INT4N)
    x = b.requantize(x, UINT8 if rng.random() < 0.5 else INT8, multipliers(rng, out))
    if rng.random() < 0.5:  # depthwise
        x = b.requantize(b.conv2d(x, out, 3, 1, 1, groups=out), UINT8, multipliers(rng, out))
    y = b.conv2d(x, out, 3, padding=1)
    scale = b.scale(y).max()
    z = b.clip(b.add(b.branch(y, scale), b.branch(x, scale)), UINT8, clip=(0, 200))
    z = b.concat(z, z) if rng.random() < 0.5 else z
    z = b.max_pool2d(z, 2, 1, padding=1)
    return b.program(z, b.linear(b.flatten(z), int(rng.choice(SIZES))))


@built
@pytest.mark.parametrize("seed", range(40))
def test_random_shapes_equal_the_reference(seed, tmp_path):
    rng = np.random.default_rng(1000 + seed)
    assert_equal(random_network(rng), rng, tmp_path / "program.dyqe")


@built
@pytest.mark.parametrize("channels", [33, 64])
@pytest.mark.parametrize("qtype", [INT8, INT4N, BIPOLAR, QType.parse("int2n"), QType.parse("uint8")], ids=str)
@pytest.mark.parametrize("codes", [UINT8, INT8], ids=str)
def test_extreme_codes_neither_saturate_nor_wrap(qtype, codes, channels, tmp_path):
    rng = np.random.default_rng(0)
    b = ProgramBuilder(rng, worst=True)
    x = b.input((channels, 7, 7), codes, scale=1.0)
    x = b.conv2d(x, 17, 3, padding=1, qtype=qtype)
    program = b.program(x, b.requantize(x, INT8, multipliers(rng, 17)))
    write_engine_file(compile_program(program), tmp_path / "p.dyqe")
    for value in (-1000.0, 1000.0):
        inputs = {"x0": np.full((1, channels, 7, 7), value)}
        expected = run_reference(program, inputs)
        for isa in ISAS:
            found = EngineProgram(tmp_path / "p.dyqe", isa=isa).run(inputs)
            assert all(np.array_equal(found[name], expected[name]) for name in expected)


@built
def test_float32_and_float64_inputs_are_both_taken_literally(tmp_path):
    rng = np.random.default_rng(1)
    program = PROGRAMS["mlp"](rng)
    write_engine_file(compile_program(program), tmp_path / "p.dyqe")
    engine = EngineProgram(tmp_path / "p.dyqe")
    inputs = {name: value.astype(np.float32) for name, value in feeds(program, rng, 33).items()}
    wide = {name: value.astype(np.float64) for name, value in inputs.items()}
    expected = run_reference(program, inputs)
    for found in (engine.run(inputs), engine.run(wide)):
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


@built
@pytest.mark.parametrize("channels", [(16, 48), (3, 32), (64, 24), (8, 65), (20, 16)], ids=str)
@pytest.mark.parametrize("size", [1, 5, 14, 15, 17, 29])
def test_tiles_of_every_width_equal_the_reference(channels, size, tmp_path):
    """Multipliers of 16 bits, as lowering makes them: most blocks take the fast way. Residuals of both types."""
    rng = np.random.default_rng(size)
    b = ProgramBuilder(rng)
    n_in, n_out = channels
    x = b.input((n_in, 7, size), UINT8)
    x = b.requantize(b.conv2d(x, n_out, 3, padding=1), UINT8, multipliers(rng, n_out, 16))
    for qtype, kernel in ((UINT8, 1), (INT8, 3)):
        y = b.conv2d(x, n_out, kernel, padding=kernel // 2)
        scale = b.scale(y).max() * 701.3
        x = b.clip(b.add(b.branch(y, scale, 16), b.branch(x, scale, 16)), qtype)
    plan = compile_program(b.program(x))
    assert [step.op for step in plan.steps if step.op in ("conv", "join")] == ["conv"] * 3
    assert all(step.words[-1] >= 0 for step in plan.steps if step.op == "conv")
    assert_equal(b.program(x), rng, tmp_path / "program.dyqe")


@built
@pytest.mark.parametrize("n_channels", [1, 2, 3])
@pytest.mark.parametrize("width", [5, 33])
@pytest.mark.parametrize("weights", ["int8", "int4n", "bipolar"])
def test_rows_of_kernels_over_dense_pixels_equal_the_reference(weights, width, n_channels, tmp_path):
    """Images whose pixels are no quads; codes at ties too, where the quantizer takes the slow way."""
    rng = np.random.default_rng(width)
    for codes, kernel, stride, padding in ((UINT8, 7, 2, 3), (INT8, (3, 4), 1, (1, 0)), (UINT8, (2, 5), (1, 3), 2)):
        b = ProgramBuilder(rng)
        x = b.input((n_channels, 7, width), codes, scale=0.5, zero_point=int(codes is INT8) * 5)
        y = b.conv2d(x, 33, kernel, stride, padding, qtype=QType.parse(weights))
        program = b.program(y)
        plan = compile_program(program)
        assert plan.buffers[plan.steps[-2].reads[0].buffer].pixel_stride == n_channels
        write_engine_file(plan, tmp_path / "p.dyqe")
        inputs = {"x0": (rng.integers(-90, 300, (2, n_channels, 7, width)) / 4).astype(np.float32)}
        expected = run_reference(program, inputs)
        for isa, threads in itertools.product(ISAS, (1, 2)):
            found = EngineProgram(tmp_path / "p.dyqe", isa=isa, threads=threads).run(inputs)
            assert all(np.array_equal(found[name], expected[name]) for name in expected), (isa, threads)


def test_pixels_are_dense_only_where_one_convolution_reads_rows():
    def stride(*outputs):
        plan = compile_program(b.program(*outputs))
        return plan.buffers[next(step for step in plan.steps if step.op == "quantize").writes[0].buffer].pixel_stride

    for kernel, dilation, pools, expected in (
        (3, 1, False, 3),
        (1, 1, False, 4),
        (3, (1, 2), False, 4),
        (3, (2, 1), False, 3),
        (3, 1, True, 4),
    ):
        b = ProgramBuilder(np.random.default_rng(0))
        x = b.input((3, 9, 9))
        y = b.conv2d(x, 5, kernel, dilation=dilation)
        assert stride(y, *([b.max_pool2d(x)] if pools else [])) == expected


@built
@pytest.mark.parametrize("n_channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("qtype", ["uint8", "int8", "uint4", "int3"])
def test_quantizers_are_literal_at_ties_and_beyond_limits(n_channels, qtype, tmp_path):
    rng = np.random.default_rng(n_channels)
    b = ProgramBuilder(rng)
    qtype = QType.parse(qtype)
    scale = 0.0371 if n_channels % 2 else 2.0**-5
    x = b.input((n_channels, 3, 37), qtype, scale, zero_point=3 if n_channels == 3 else 0)
    program = b.program(x)
    write_engine_file(compile_program(program), tmp_path / "p.dyqe")
    ties = (rng.integers(-300, 300, (40, n_channels, 3, 37)) + 0.5) * scale
    near = np.nextafter(ties.astype(np.float32), rng.choice([-1e9, 1e9], ties.shape).astype(np.float32))
    for values in (
        ties,
        ties.astype(np.float32),
        near,
        near * np.float32(1e6),
        np.float32(rng.normal(size=ties.shape)),
    ):
        expected = run_reference(program, {"x0": values})
        for isa in ISAS:
            found = EngineProgram(tmp_path / "p.dyqe", isa=isa).run({"x0": values})
            assert all(np.array_equal(found[name], expected[name]) for name in expected)


@built
@pytest.mark.parametrize("channels", [1, 15, 16, 33, 64, 80, 129])
@pytest.mark.parametrize("qtype", [UINT8, INT8], ids=str)
def test_pools_of_every_width_equal_the_reference(channels, qtype, tmp_path):
    rng = np.random.default_rng(channels)
    b = ProgramBuilder(rng)
    x = b.input((channels, 9, 7), qtype)
    most = b.max_pool2d(x, 3, 2, padding=1)
    strided = b.max_pool2d(x, 1, 2)
    dilated = b.max_pool2d(x, 2, 1, padding=1, dilation=2)
    both = b.max_pool2d(b.concat(x, x), 2)  # its inputs lie side by side
    assert_equal(
        b.program(most, strided, dilated, both, b.sum_pool2d(x, 3, 2, padding=1), b.sum_pool2d(x)),
        rng,
        tmp_path / "p.dyqe",
    )


@built
@pytest.mark.parametrize("channels", [1, 15, 16, 33, 64, 80, 129])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [
        (3, 1, 1, 1),
        (3, 2, 1, 1),
        (3, 3, 0, 1),
        (3, 1, 2, 2),
        (1, 1, 0, 1),
        ((2, 4), 1, 1, 1),
        (5, 2, 2, 1),
        ((8, 7), 1, 4, 1),
        (9, 1, 4, 1),
    ],
    ids=str,
)
def test_depthwise_of_every_width_equals_the_reference(channels, kernel, stride, padding, dilation, tmp_path):
    rng = np.random.default_rng(channels)
    b = ProgramBuilder(rng)
    x = b.input((channels, 9, 10), INT8 if channels % 2 else UINT8)
    y = b.conv2d(x, channels, kernel, stride, padding, dilation, channels)
    same = b.conv2d(x, channels, 3, 1, 1, 1, channels)
    scale = b.scale(same).max() * 701.3
    joined = b.clip(b.add(b.branch(same, scale, 16), b.branch(x, scale, 16)), INT8)
    assert_equal(b.program(b.requantize(y, UINT8, multipliers(rng, channels, 16)), joined), rng, tmp_path / "p.dyqe")


@built
def test_profile_names_every_step(tmp_path):
    program = PROGRAMS["conv_pool"](np.random.default_rng(0))
    plan = compile_program(program)
    write_engine_file(plan, tmp_path / "p.dyqe")
    engine = EngineProgram(tmp_path / "p.dyqe")
    found = engine.profile(feeds(program, np.random.default_rng(0), 2), repeats=2)
    assert [(step.op, step.name) for step in found] == [(step.op, step.name) for step in plan.steps]
    assert all(step.time_us >= 0 for step in found)
    assert all((step.macs > 0) == (step.op == "conv") for step in found)
    with pytest.raises(DataError, match="NaN or infinite"):
        engine.profile({name: np.full((1, *shape), np.nan) for name, shape in engine.inputs.items()})


def test_conv_requantize_residual_and_clip_are_one_step():
    plan = compile_program(PROGRAMS["residual"](np.random.default_rng(0)))
    assert [step.op for step in plan.steps].count("join") == 1  # behind the pool; the add is part of a convolution


def test_concat_is_no_work_where_its_parts_can_lie_side_by_side():
    plan = compile_program(PROGRAMS["joins"](np.random.default_rng(0)))
    assert "copy" not in [step.op for step in plan.steps]


WIDTHS = {"bipolar": (1, 32), "int2": (2, 16), "int2n": (2, 16), "int4": (4, 8), "int3": (4, 8), "int5": (8, 4)}


@built
@pytest.mark.parametrize("qtype", WIDTHS)
@pytest.mark.parametrize("groups_of_quads", [1, 3])
def test_packed_weights_of_every_width_equal_the_reference(qtype, groups_of_quads, tmp_path):
    """Widths of the file, ends of rows that tiles skip, taps that no tile sees, one pixel, two groups, both endings."""
    rng = np.random.default_rng(groups_of_quads)
    bits, whole = WIDTHS[qtype]
    b, channels = ProgramBuilder(rng), whole * groups_of_quads
    weights = {"qtype": QType.parse(qtype)}
    x = b.input((channels, 6, 15), UINT8)
    wide = b.conv2d(x, 33, 3, 2, padding=1, **weights)
    y = b.requantize(b.conv2d(x, 48, 3, padding=1, **weights), INT8, multipliers(rng, 48, 16))
    z = b.requantize(b.conv2d(x, 2 * 17, 1, **weights), UINT8, multipliers(rng, 34, 16))
    tall = b.requantize(b.conv2d(x, 48, (7, 3), padding=(3, 1), **weights), UINT8, multipliers(rng, 48, 16))
    both = b.concat(x, x)
    grouped = b.requantize(b.conv2d(both, 2 * 17, 3, groups=2, **weights), UINT8, multipliers(rng, 34, 16))
    program = b.program(wide, y, z, tall, grouped, b.linear(b.flatten(x), 64, **weights))
    plan = compile_program(program)
    assert [plan.types[name].bits for name, _ in plan.payloads if name.endswith("weight")] == [bits] * 6
    assert_equal(program, rng, tmp_path / "program.dyqe")


def test_weights_are_packed_where_groups_of_quads_are_whole_and_sums_have_room():
    few = np.ones((16, 32, 1, 1), dtype=np.int64)
    assert [weight_type(few[:, :n], 1000).bits for n in (32, 31, 16, 8, 4, 7)] == [1, 2, 2, 4, 8, 4]
    assert [weight_type(few, most).bits for most in ((1 << 24) - 1, 1 << 24, 7 << 24)] == [1, 4, 8]
    assert [weight_type(few * n, 1000).bits for n in (-2, 2, -8, 8, 127)] == [2, 4, 4, 8, 8]


def test_files_of_few_bits_are_small(tmp_path):
    sizes = []
    for qtype in (INT8, INT4N, QType.parse("int2n"), BIPOLAR):
        b = ProgramBuilder(np.random.default_rng(0))
        plan = compile_program(b.program(b.conv2d(b.input((64, 8, 8), UINT8), 64, 3, qtype=qtype)))
        sizes.append(write_engine_file(plan, tmp_path / "p.dyqe"))
    n_weights = 64 * 64 * 9
    assert [sizes[0] - size for size in sizes[1:]] == [n_weights // 2, n_weights * 3 // 4, n_weights * 7 // 8]


@built
def test_sums_of_few_bits_are_sums_all_the_same(tmp_path):
    rng = np.random.default_rng(0)
    b = ProgramBuilder(rng)
    x = b.input((2, 4, 4), QType.parse("uint2"), scale=1.0)
    summed, dot = b.sum_pool2d(x, 2, 2), b.conv2d(x, 3, 1, qtype=QType.parse("int2n"), bias_bits=1)
    assert max(b.tensors[name].qtype.bits for name in (summed, dot)) <= 8
    assert_equal(b.program(summed, dot), rng, tmp_path / "program.dyqe")


def test_values_beyond_int32_are_refused_by_name():
    program = PROGRAMS["wide"](np.random.default_rng(0))
    assert [node.name for node, _ in find_uncompilable(program)] == ["conv2d1"]
    with pytest.raises(ExportError, match=r"conv2d1 \(conv2d\): its values or partial sums may leave 32 bits"):
        get_target("engine").check(program)


@built
def test_bad_inputs_are_refused(tmp_path):
    program = PROGRAMS["mlp"](np.random.default_rng(0))
    write_engine_file(compile_program(program), tmp_path / "p.dyqe")
    engine = EngineProgram(tmp_path / "p.dyqe")
    ((name, shape),) = engine.inputs.items()
    with pytest.raises(DataError, match="inputs must be named"):
        engine.run({"y": np.zeros((1, *shape))})
    with pytest.raises(DataError, match=r"got shape \[1, 2\], expected \[N, "):
        engine.run({name: np.zeros((1, 2))})
    with pytest.raises(DataError, match="NaN or infinite"):
        engine.run({name: np.full((3, *shape), np.nan)})


@built
@pytest.mark.parametrize("threads", [0, -1, 257])
def test_numbers_of_threads_that_mean_nothing_are_refused(threads, tmp_path):
    write_engine_file(compile_program(PROGRAMS["mlp"](np.random.default_rng(0))), tmp_path / "p.dyqe")
    with pytest.raises(ConfigError, match=f"threads: got {threads}, expected 1 to 256"):
        EngineProgram(tmp_path / "p.dyqe", threads=threads)


@built
def test_unknown_instruction_set_is_refused(tmp_path, monkeypatch):
    program = PROGRAMS["mlp"](np.random.default_rng(0))
    write_engine_file(compile_program(program), tmp_path / "p.dyqe")
    with pytest.raises(UnknownNameError, match="instruction set"):
        EngineProgram(tmp_path / "p.dyqe", isa="z80")
    monkeypatch.setenv("DYADIQ_ISA", "z80")
    with pytest.raises(UnknownNameError, match="instruction set"):
        EngineProgram(tmp_path / "p.dyqe")
    monkeypatch.setenv("DYADIQ_ISA", "portable")
    assert EngineProgram(tmp_path / "p.dyqe").isa == "portable"
    monkeypatch.setenv("DYADIQ_ISA", next(isa for isa in KNOWN_ISAS if isa not in ISAS))
    with pytest.raises(ConfigError, match=r"this machine has none of its kernels; expected one of portable.*Name one"):
        EngineProgram(tmp_path / "p.dyqe")


def test_kernels_that_were_built_are_known_in_their_order():
    assert [isa for isa in KNOWN_ISAS if isa in ISAS] == list(ISAS)


def test_missing_native_module_is_named(tmp_path, monkeypatch):
    from dyadiq.core import native
    from dyadiq.engine import runtime

    monkeypatch.setattr(runtime, "native_state", lambda: native.NativeState(None, "not built"))
    with pytest.raises(
        MissingToolError, match=r"native code of dyadiq \(not built\)' is not installed. Run: pip install \."
    ):
        EngineProgram(tmp_path / "p.dyqe")


@built
def test_a_file_of_another_kind_is_refused(tmp_path):
    program = PROGRAMS["mlp"](np.random.default_rng(0))
    get_target("dyq").write(program, tmp_path / "p.dyq")
    with pytest.raises(ArtifactError, match="holds no compiled program"):
        EngineProgram(tmp_path / "p.dyq")


@built
def test_target_runs_in_several_threads(tmp_path):
    rng = np.random.default_rng(0)
    program, target = PROGRAMS["residual"](rng), get_target("engine").configured(threads="3")
    assert target.config.threads == 3
    target.write(program, tmp_path)
    inputs = feeds(program, rng)
    found, expected = target.emulate(tmp_path, inputs), run_reference(program, inputs)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    with pytest.raises(ConfigError, match="threads: got 0"):
        get_target("engine").configured(threads=0).emulate(tmp_path, inputs)
