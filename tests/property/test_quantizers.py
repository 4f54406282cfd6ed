"""What every quantizer promises, for every format and any values."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dyadiq.core.affine import EMPTY_SCALE, AffineParams, dequantize, fit_affine, quantize
from dyadiq.core.format import Format
from dyadiq.core.ranges import make_observer
from dyadiq.quant.fake_quant import ActivationQuantizer, WeightQuantizer

METHODS = ("minmax", "moving_average", "percentile", "mse")


@st.composite
def formats(draw, granularities=("tensor", "channel", "group")):
    granularity = draw(st.sampled_from(granularities))
    return Format(
        bits=draw(st.sampled_from([1, 2, 3, 4, 8, 16])),
        scheme=draw(st.sampled_from(["symmetric", "asymmetric"])),
        signed=draw(st.sampled_from([None, True, False])),
        narrow=draw(st.booleans()),
        granularity=granularity,
        group_size=draw(st.sampled_from([1, 2, 3, 6])) if granularity == "group" else None,
        scale=draw(st.sampled_from(["float", "pow2"])),
        range_method=draw(st.sampled_from(METHODS)),
    )


@st.composite
def weights(draw):
    """Shape [O, 6]: normal values of any magnitude, with ties, zeros, zero channels, outliers or one sign."""
    x = np.random.default_rng(draw(st.integers(0, 10**6))).normal(size=(draw(st.integers(1, 4)), 6))
    kind = draw(
        st.sampled_from(["normal", "ties", "sparse", "zero channel", "outlier", "positive", "negative", "zero"])
    )
    if kind == "ties":
        x = np.round(4 * x) / 8
    if kind == "sparse":
        x[np.abs(x) < 1] = 0
    if kind == "zero channel":
        x[0] = 0
    if kind == "outlier":
        x[0, 0] *= 1000
    if kind in ("positive", "negative"):
        x = np.abs(x) * (1 if kind == "positive" else -1)
    return (x * (kind != "zero") * 2.0 ** draw(st.integers(-30, 30))).astype(np.float32)


def every_code(params, shape):
    """One tensor per legal code, all of it that code (the ends and some between for wide types)."""
    low, high = params.qtype.qmin, params.qtype.qmax
    codes = [-1, 1] if params.qtype.bipolar else sorted({*range(low, min(low + 20, high + 1)), 0, high} - {low - 1})
    return [np.full(shape, code) for code in codes if low <= code <= high]


@settings(deadline=None)  # machines under load
@given(formats(), weights())
def test_codes_are_legal(fmt, x):
    params = fit_affine(x, fmt)
    for values in (x, 1e6 * x):
        codes = quantize(values, params)
        assert codes.dtype == np.int64
        assert codes.shape == x.shape
        assert codes.min() >= params.qtype.qmin
        assert codes.max() <= params.qtype.qmax
        assert not (params.qtype.bipolar and (codes == 0).any())


@settings(deadline=None)  # machines under load
@given(formats(), weights())
def test_codes_come_back_when_dequantized(fmt, x):
    params = fit_affine(x, fmt)
    for codes in every_code(params, x.shape):
        assert np.array_equal(quantize(dequantize(codes, params), params), codes)


@settings(deadline=None)  # machines under load
@given(formats(), weights(), st.integers(0, 10**6))
def test_quantizer_is_monotone(fmt, x, seed):
    params = fit_affine(x, fmt)
    other = x + np.abs(np.random.default_rng(seed).normal(size=x.shape)) * params.steps(x.shape)
    assert (quantize(other, params) >= quantize(x, params)).all()


@settings(deadline=None)  # machines under load
@given(formats(), weights(), st.integers(-20, 20))
def test_codes_stay_and_scales_follow_when_values_are_scaled_by_a_power_of_two(fmt, x, exponent):
    first, second = fit_affine(x, fmt), fit_affine(np.ldexp(x.astype(np.float64), exponent), fmt)
    assert np.array_equal(quantize(x, first), quantize(np.ldexp(x.astype(np.float64), exponent), second))
    if (first.scale != EMPTY_SCALE).all():  # else no value has a code but 0
        assert np.array_equal(np.ldexp(first.scale, exponent), second.scale)
    assert np.array_equal(first.zero_point, second.zero_point)
    if first.group_factor is not None:
        assert np.array_equal(first.group_factor, second.group_factor)


@settings(deadline=None)  # machines under load
@given(formats(), weights())
def test_zero_is_exact_unless_bipolar(fmt, x):
    params = fit_affine(x, fmt)
    if not params.qtype.bipolar:
        assert not dequantize(quantize(np.zeros_like(x), params), params).any()


@settings(deadline=None)  # machines under load
@given(formats(), weights())
def test_scales_are_powers_of_two_when_asked(fmt, x):
    params = fit_affine(x, fmt)
    if fmt.scale == "pow2":
        assert (np.frexp(params.steps(x.shape))[0] == 0.5).all()


@settings(deadline=None)  # machines under load
@given(formats(("tensor", "channel")), weights())
def test_mse_is_never_worse_than_minmax(fmt, x):
    errors = []
    for method in ("mse", "minmax"):
        wish = Format(**{**fmt.to_json(), "range_method": method})
        params = fit_affine(x, wish)
        errors.append(((dequantize(quantize(x, params), params) - x.astype(np.float64)) ** 2).sum())
    assert errors[0] <= errors[1] * (1 + 1e-12)


@settings(deadline=None)  # machines under load
@given(formats(), weights())
def test_torch_weight_quantizer_equals_numpy_bit_for_bit(fmt, x):
    params = fit_affine(x, fmt)
    quantizer = WeightQuantizer(params, learn_scale=True)
    kept = quantizer.affine_params()
    fake = quantizer(torch.tensor(x, dtype=torch.float64)).detach().numpy()
    assert np.array_equal(fake, dequantize(quantize(x, kept), kept))


@settings(deadline=None)  # machines under load
@given(formats(("tensor",)), weights(), st.integers(1, 4))
def test_observer_agrees_with_torch_when_batches_are_cut_anyhow(fmt, x, n_batches):
    observer = make_observer(fmt, nonnegative=None)
    for part in np.array_split(x.ravel(), n_batches):
        observer.update(part)
    quantizer = ActivationQuantizer(observer.params(), learn_scale=False)
    params = quantizer.affine_params()
    assert math.isfinite(params.scale[0])
    assert isinstance(params, AffineParams)
    fake = quantizer(torch.tensor(x, dtype=torch.float64)).numpy()
    assert np.array_equal(fake, dequantize(quantize(x, params), params))
