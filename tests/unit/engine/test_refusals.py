"""Algorithms that cannot run a layer: not offered, and refused by name with what is found and expected."""

import numpy as np
import pytest

from dyadiq.core.errors import ConfigError, UnknownNameError
from dyadiq.core.qtype import QType
from dyadiq.engine import compile_program
from dyadiq.engine.weights import ALGORITHMS, Dot, choose_weights, find_weights
from few_values import POWERS
from programs import INT4N, UINT8, ProgramBuilder

UINT6, UINT7, INT6N = (QType.parse(t) for t in ("uint6", "uint7", "int6n"))


def dot_of(values, shape, bias=0, **more):
    """A layer whose weights are these, again and again."""
    weight = np.resize(np.array(values, dtype=np.int64), shape)
    return Dot(weight, np.full(shape[0], bias, dtype=np.int64), **{"plane": (10, 10)} | more)


def winograd(values, codes=(0, 63), shape=(32, 32, 3, 3), **more):
    return dot_of(values, shape, codes=codes, **more)


def binary(values, codes=(0, 1), shape=(16, 64, 3, 3), **more):
    return dot_of(values, shape, codes=codes, **{"only_ends": True} | more)


def codebook(values, shape=(16, 32, 3, 3), **more):
    return dot_of(values, shape, **more)


REFUSALS = [
    ("winograd", winograd(15), "its transformed weights reach 135, expected -128 to 127"),
    ("winograd", winograd(-15), "its transformed weights reach -135, expected -128 to 127"),
    ("winograd", winograd(14, (0, 64)), "its input's codes span 65 values, expected at most 64"),
    ("winograd", winograd(14, stride=(2, 2)), "it is 3x3 with stride 2, dilation 1 and 1 groups, expected 3x3, 1, 1"),
    ("winograd", winograd(14, dilation=(1, 2)), "it is 3x3 with stride 1, dilation 2 and 1 groups"),
    ("winograd", winograd(14, groups=2), "it is 3x3 with stride 1, dilation 1 and 2 groups"),
    ("winograd", winograd(1, shape=(4, 4, 1, 1)), "it is 1x1 with"),
    ("winograd", winograd(1, shape=(4, 4, 1, 3)), "it is 1x3 with .* expected 3x3, 1, 1 and 1"),
    ("winograd", winograd(14, wide=True), "its input lies in 32 bits"),
    ("winograd", winograd(1, (0, 1), (1, 516, 3, 3)), "it has 516 input channels, expected at most 512"),
    (
        "winograd",
        winograd(1, (0, 1), (1, 4, 3, 3), bias=1 << 29),
        r"its sums may reach \d+, expected less than 5368709",
    ),
    ("winograd1d", winograd(43, (0, 127)), "its transformed weights reach 129, expected -128 to 127"),
    ("winograd1d", winograd(-43, (0, 127), (32, 32, 3, 1)), "its transformed weights reach -129, expected"),
    ("winograd1d", winograd(42, (0, 128)), "its input's codes span 129 values, expected at most 128"),
    ("winograd1d", winograd(1, stride=(1, 2)), "it is 3x3 with stride 2, dilation 1 and 1 groups, expected 3x3 or 1x3"),
    ("winograd1d", winograd(1, shape=(4, 4, 1, 5)), "it is 1x5 with .* expected 3x3 or 1x3 or 3x1, 1, 1 and 1"),
    ("winograd1d", winograd(1, wide=True), "its input lies in 32 bits"),
    ("winograd1d", winograd(1, (0, 1), (1, 516, 1, 3)), "it has 516 input channels, expected at most 512"),
    (
        "winograd1d",
        winograd(1, (0, 1), (1, 4, 3, 1), bias=1 << 30),
        r"its sums may reach \d+, expected less than 10737",
    ),
    (
        "binary",
        binary([-1, 1], (0, 2), only_ends=False),
        "its input has codes from 0 to 2 and between them, expected two",
    ),
    ("binary", binary([-1, 1], groups=2), "it has 2 groups, expected 1"),
    ("binary", binary([-1, 1], wide=True), "its input lies in 32 bits"),
    ("binary", binary([-1, 2]), r"its weights are \[-1, 2\], expected -m and m, or 0 and m"),
    ("binary", binary([-1, 0, 1]), r"its weights are \[-1, 0, 1\], expected"),
    ("binary", binary([1, 2, 3, 4, 5]), r"its weights are \[1, 2, 3, 4, \.\.\.\], expected"),
    ("binary", binary([0, -1]), r"its weights are \[-1, 0\], expected"),
    ("binary", binary([0]), r"its weights are \[0\], expected"),
    ("binary", binary([1], shape=(1, 4, 3, 3), bias=1 << 30), r"its sums may reach \d+, expected less than 1073741824"),
    ("codebook", codebook(np.arange(17)), "its weights have 17 values, expected at most 16, a 0"),
    ("codebook", codebook(np.arange(1, 17), (16, 3, 3, 3)), "its weights have 17 values"),
    ("codebook", codebook(POWERS, groups=2), "it has 2 groups, expected 1"),
    ("codebook", codebook(POWERS, wide=True), "its input or weights have more than 8 bits"),
    ("codebook", codebook(POWERS * 2), "its input or weights have more than 8 bits"),
    ("codebook", codebook(np.arange(-8, 8), (16, 32, 1, 1)), "its weights have 4 bits or less as they are"),
    ("codebook", codebook(POWERS, (1, 9216, 1, 1)), "16 outputs have 147456 bytes of weights, expected less than"),
]


@pytest.mark.parametrize(("algorithm", "dot", "reason"), REFUSALS)
def test_what_is_not_proven_is_refused_with_the_reason(algorithm, dot, reason):
    assert algorithm not in find_weights(dot)
    with pytest.raises(ConfigError, match=f"{algorithm!r} cannot run it: {reason}.*Take one of: "):
        choose_weights(dot, find_weights(dot), algorithm)


@pytest.mark.parametrize(
    ("algorithm", "dot"),
    [
        ("winograd", winograd([14, -14], (0, 63))),
        ("winograd1d", winograd([42, -42], (0, 127))),
        ("winograd1d", winograd([42, -42], (0, 127), (4, 4, 1, 3))),
        ("winograd1d", winograd([42, -42], (-64, 63), (4, 512, 3, 1))),
    ],
)
def test_the_last_of_a_range_is_not_refused(algorithm, dot):
    assert choose_weights(dot, find_weights(dot), algorithm).algorithm == algorithm


def test_forcing_what_does_not_fit_names_the_layer():
    b = ProgramBuilder(np.random.default_rng(0))
    x = b.input((64, 14, 14), UINT8)
    y = b.requantize(b.conv2d(x, 64, 3, qtype=INT4N), UINT7)
    z = b.requantize(b.conv2d(y, 64, 3, qtype=INT6N), UINT6)
    program = b.program(b.conv2d(z, 64, 3, qtype=INT4N))
    chosen = [step.algorithm for step in compile_program(program).steps if step.layer]
    assert chosen == ["direct", "winograd1d", "winograd"]
    first, _, last = (node.name for node in program.graph.nodes if node.op == "conv2d")
    with pytest.raises(ConfigError, match=f"{first}: 'winograd' cannot run it: its input's codes span 256 values"):
        compile_program(program, algorithms={first: "winograd"})
    with pytest.raises(ConfigError, match="'depthwise' cannot run it: its kernels are for other layers"):
        compile_program(program, algorithms={last: "depthwise"})
    with pytest.raises(UnknownNameError, match="unknown convolution or linear layer 'conv2d2'; did you mean"):
        compile_program(program, algorithms={"conv2d2": "direct"})
    with pytest.raises(UnknownNameError, match="unknown algorithm 'fft'"):
        compile_program(program, algorithms={first: "fft"})


def test_kinds_are_those_of_the_specification():
    known = ("direct", "depthwise", "generic", "sparse", "winograd", "binary", "codebook", "sparse4x4", "winograd1d")
    assert known == ALGORITHMS
