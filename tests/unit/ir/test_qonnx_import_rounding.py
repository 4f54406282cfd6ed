"""QONNX import: every rounding mode as integers, proven for every code."""

import shutil
from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dyadiq.ir.qonnx_import import import_qonnx
from dyadiq.ir.qonnx_import_rounding import ROUNDING_MODES, find_rescale, rounded
from dyadiq.targets.verify import verify
from qonnx_models import Model, layer, on_grid


def naive_round(v, mode):
    """The seven rules of QONNX, written apart from the package."""
    size, sign = abs(v), 1 if v >= 0 else -1
    half = Fraction(1, 2)
    if mode == "HALF_EVEN":
        low = floor(v)
        return low + (v - low > half or (v - low == half and low % 2 == 1))
    return {
        "FLOOR": floor(v),
        "CEIL": ceil(v),
        "UP": sign * ceil(size),
        "DOWN": sign * floor(size),
        "HALF_UP": sign * floor(size + half),
        "HALF_DOWN": sign * ceil(size - half),
    }[mode]


def apply(r, code):
    x, shift = r.gain[0] * code + r.bias[0], r.shift[0]
    if r.composed:
        h = 2 ** (shift - 1)
        return ((x + h - 1 + 2 * h) >> (shift + 1)) + ((x - h + 2 * h) >> (shift + 1))
    return (x * r.multiplier[0] + (2 ** (shift - 1) if shift else 0)) >> shift


@settings(max_examples=300, deadline=None)
@given(
    alpha=st.fractions(Fraction(1, 64), 8, max_denominator=64),
    beta=st.fractions(-20, 20, max_denominator=32),
    low=st.integers(-60, 20),
    span=st.integers(0, 90),
    limits=st.sampled_from([(-8, 7), (0, 15), (-128, 127)]),
    mode=st.sampled_from(ROUNDING_MODES),
)
def test_what_is_proven_holds_for_every_code(alpha, beta, low, span, limits, mode):
    r = find_rescale([alpha], [beta], [low], [low + span], limits, mode)
    for code in range(low, low + span + 1):
        v = alpha * code + beta
        assert rounded(v, mode) == naive_round(v, mode)
        if r is not None:
            assert np.clip(apply(r, code), *limits) == np.clip(naive_round(v, mode), *limits)


@pytest.mark.parametrize("mode", ["HALF_EVEN", "FLOOR", "CEIL"])
@pytest.mark.parametrize("e", range(7))
def test_dyadic_ratios_always_have_a_form_in_the_common_modes(mode, e):
    assert find_rescale([Fraction(3, 2**e)], [Fraction(5, 16)], [-500], [500], (-(2**15), 2**15), mode) is not None


def test_many_steps_are_proven_by_algebra_or_refused():
    wide = (-(2**20), 2**20)
    assert find_rescale([Fraction(1, 4)], [Fraction(0)], [-(2**24)], [2**24], wide, "HALF_EVEN").composed
    assert find_rescale([Fraction(1, 4)], [Fraction(0)], [-(2**24)], [2**24], wide, "FLOOR").bias == (-2,)
    assert find_rescale([Fraction(1, 3)], [Fraction(0)], [-(2**24)], [2**24], wide, "HALF_EVEN") is None


def test_channels_that_are_alike_are_proven_once():
    """Eight thousand channels in a moment, where one proof each took a minute."""
    m = Model((8192, 1, 1))
    program = import_qonnx(m.proto(m.quant(m.quant("x", 1.0, 12), 2.0, 12, mode="FLOOR")))
    assert program.graph.nodes[-1].op == "requantize"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_ties_to_even_are_exact_in_hls4ml():
    """Two floors of the sum with a constant; hls4ml adds the constants exactly."""
    pytest.importorskip("hls4ml")
    rng = np.random.default_rng(0)
    m = Model()
    x = m.quant("x", 2.0**-4, 6)
    x = m.quant(m.op("Relu", layer(m, x, 4, 6, rng)), 2.0**-3, 5, signed=0)
    program = import_qonnx(m.proto(layer(m, x, 6, 3, rng)))
    assert any(node.op == "clip" and node.attrs["zero_point"] for node in program.graph.nodes)
    inputs = on_grid(program, rng, 500)
    results = verify(program, inputs, ["qonnx", "hls4ml"])
    assert [(results[name].mismatches, results[name].compared) for name in ("qonnx", "hls4ml")] == [(0, 1500)] * 2
