"""Random small programs: every exact target gives the reference's integers."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dyadiq.core.qtype import QType
from dyadiq.ir.reference import run_reference
from dyadiq.targets import TARGETS
from dyadiq.targets.qonnx import pow2_obstacles
from programs import ProgramBuilder, multipliers, raw_inputs

SETTINGS = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ACTIVATIONS = st.sampled_from(
    ["uint1", "bipolar", "int2", "uint3", "int5", "uint8", "int8", "int8n", "int11", "uint16"]
)
WEIGHTS = st.sampled_from(["bipolar", "int2n", "int3", "uint4", "int8", "int12"])


def zero_point(draw, qtype):
    return 0 if qtype.bipolar else draw(st.integers(qtype.qmin, qtype.qmax))


@st.composite
def integer_programs(draw):
    """One to three layers of random kinds, types, zero points and window shapes, then an optional join."""
    b = ProgramBuilder(np.random.default_rng(draw(st.integers(0, 2**32 - 1))))
    qtype = QType.parse(draw(ACTIVATIONS))
    channels = draw(st.sampled_from([1, 2, 4]))
    shape = (channels, draw(st.integers(3, 9)), draw(st.integers(3, 9)))
    x = b.input(shape, qtype, draw(st.sampled_from([0.1, 1.0, 3.7])), zero_point(draw, qtype))
    for _ in range(draw(st.integers(1, 3))):
        x = layer(draw, b, x)
    if draw(st.booleans()):
        wide = QType.parse("int13")
        pair = b.requantize(x, wide, 3, 1), b.requantize(x, wide, 1, 0, zero_point=0)
        x = b.clip(b.add(*pair), QType.parse(draw(ACTIVATIONS)), zero_point=draw(st.integers(-5, 5)))
    return b.program(x)


def layer(draw, b, x):
    kind = draw(st.sampled_from(["conv2d", "conv2d", "max_pool2d", "sum_pool2d", "linear"]))
    if len(b.shape(x)) == 1:
        kind = "linear"
    size = min(b.shape(x)[1:], default=1)
    kernel, padding = draw(st.integers(1, min(3, size))), draw(st.integers(0, 1))
    padding, stride = min(padding, kernel // 2), draw(st.integers(1, 2))
    if kind == "max_pool2d":
        return b.max_pool2d(x, kernel, stride, padding, ceil_mode=draw(st.booleans()))
    if kind == "sum_pool2d":
        acc = b.sum_pool2d(x, kernel, stride, padding) if draw(st.booleans()) else b.sum_pool2d(x)
    else:
        weight, asymmetric = QType.parse(draw(WEIGHTS)), draw(st.booleans())
        asymmetric = asymmetric and not weight.bipolar
        n_out = draw(st.sampled_from([2, 4]))
        if kind == "linear":
            flat = b.flatten(x) if len(b.shape(x)) > 1 else x
            acc = b.linear(flat, n_out, weight, asymmetric=asymmetric)
        else:
            groups = draw(st.sampled_from([1, 2])) if b.shape(x)[0] % 2 == 0 else 1
            dilation = draw(st.integers(1, 2)) if size + 2 * padding >= 2 * kernel - 1 else 1
            acc = b.conv2d(x, n_out, kernel, stride, padding, dilation, groups, weight, asymmetric=asymmetric)
    qtype = QType.parse(draw(ACTIVATIONS))
    zero = zero_point(draw, qtype)
    clip = None if qtype.bipolar or draw(st.booleans()) else (zero, qtype.qmax)
    if draw(st.booleans()):
        return b.requantize(acc, qtype, zero_point=zero, clip=clip)
    count = draw(st.sampled_from([1, b.shape(acc)[0]]))
    return b.requantize(acc, qtype, multipliers(b.rng, count, draw(st.integers(1, 16))), zero_point=zero, clip=clip)


@settings(SETTINGS, max_examples=12)
@given(program=integer_programs(), seed=st.integers(0, 99))
def test_c_equals_the_reference(program, seed, tmp_path_factory):
    inputs = raw_inputs(program, np.random.default_rng(seed), 5)
    folder, target = tmp_path_factory.mktemp("c"), TARGETS["c"].configured(compiler="cc -O1")
    target.write(program, folder)
    found, expected = target.emulate(folder, inputs), run_reference(program, inputs)
    assert all(np.array_equal(found[output], codes) for output, codes in expected.items())


@SETTINGS
@given(program=integer_programs(), seed=st.integers(0, 99))
def test_onnx_exact_and_stored_programs_equal_the_reference(program, seed, tmp_path_factory):
    inputs = raw_inputs(program, np.random.default_rng(seed), 5)
    expected = run_reference(program, inputs)
    for name in ("onnx", "exact", "dyq"):
        folder = tmp_path_factory.mktemp(name)
        TARGETS[name].write(program, folder)
        got = TARGETS[name].emulate(folder, inputs)
        for output, codes in expected.items():
            np.testing.assert_array_equal(got[output], codes, err_msg=name)


@st.composite
def pow2_programs(draw):
    """Layers whose every scale is a power of two and every zero point 0."""
    b = ProgramBuilder(np.random.default_rng(draw(st.integers(0, 2**32 - 1))))
    types = st.sampled_from(["uint1", "bipolar", "uint3", "int4n", "int6", "uint8"])
    x = b.input((2, draw(st.integers(3, 7)), draw(st.integers(3, 7))), QType.parse(draw(types)))
    for _ in range(draw(st.integers(1, 3))):
        acc = b.conv2d(x, 2, draw(st.integers(1, 2)), padding=draw(st.integers(0, 1)), qtype=QType.parse("int4n"))
        qtype = QType.parse(draw(types))
        clip = (0, qtype.qmax) if qtype.signed and not qtype.bipolar and draw(st.booleans()) else None
        x = b.requantize(acc, qtype, shift=draw(st.integers(0, 9)), clip=clip)
    return b.program(x)


@settings(SETTINGS, max_examples=15)
@given(program=pow2_programs(), seed=st.integers(0, 99))
def test_qonnx_equals_the_reference_on_power_of_two_programs(program, seed, tmp_path_factory):
    assert not pow2_obstacles(program)
    assert not TARGETS["qonnx"].unproven(program)
    (node,) = (n for n in program.graph.nodes if n.op == "quantize")
    raw = raw_inputs(program, np.random.default_rng(seed), 5)
    values = run_reference(program, raw, taps=[node.output])
    folder = tmp_path_factory.mktemp("qonnx")
    TARGETS["qonnx"].write(program, folder)
    on_grid = {node.inputs[0]: values[node.output] * program.graph.tensors[node.output].scale}
    got = TARGETS["qonnx"].emulate(folder, on_grid)
    for output in program.graph.outputs:
        np.testing.assert_array_equal(got[output], values[output])
