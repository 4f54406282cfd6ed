"""A layer rounded: better than nearest for every format, on its own outputs; bias and asymmetric target by hand."""

import numpy as np
import pytest

from dyadiq.core.affine import dequantize, fit_affine, quantize
from dyadiq.core.errors import ConfigError, DataError, QuantError
from dyadiq.core.format import Format
from dyadiq.rounding import Moments, RoundingConfig, round_weight
from dyadiq.rounding.moments import damped
from oracles import nearest_output_error

FORMATS = {
    "channel": Format(3, signed=True, narrow=True, granularity="channel"),
    "tensor": Format(3, signed=True),
    "asymmetric": Format(3, "asymmetric", granularity="channel"),
    "group": Format(3, signed=True, granularity="group", group_size=3),
    "pow2": Format(3, signed=True, narrow=True, granularity="channel", scale="pow2"),
    "bipolar": Format(1, signed=True, granularity="channel"),
}


def inputs(rng, n, k):
    return rng.normal(size=(n, k)) @ rng.normal(size=(k, k)) + rng.normal(size=k)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("fmt", FORMATS)
def test_outputs_err_less_than_nearest_rounding(fmt, with_bias):
    rng = np.random.default_rng(3)
    weight, x = rng.normal(size=(6, 5, 3)), inputs(rng, 200, 15)
    params = fit_affine(weight, FORMATS[fmt])
    found = round_weight(weight, params, Moments.of_rows(x), with_bias=with_bias)
    values = dequantize(found.codes, found.params).reshape(6, -1)
    errors = (values - weight.reshape(6, -1)) @ x.T + found.bias_shift[:, None]
    mean_error = float(np.mean(np.sum(errors**2, axis=0)))
    assert mean_error < 0.7 * nearest_output_error(weight, params, x)
    assert mean_error == pytest.approx(found.error)
    assert np.array_equal(quantize(dequantize(found.codes, found.params), found.params), found.codes)
    assert (found.params.scale == found.params.scale.astype(np.float32)).all()
    if with_bias:
        assert errors.mean(axis=1) == pytest.approx(0, abs=1e-9)
    if fmt == "pow2":
        assert (np.frexp(found.params.scale)[0] == 0.5).all()


def test_groups_of_a_convolution_are_layers_of_their_own():
    rng = np.random.default_rng(4)
    weight, x = rng.normal(size=(6, 7)), np.stack([inputs(rng, 90, 7) for _ in range(3)])
    params = fit_affine(weight, FORMATS["channel"])
    together = round_weight(weight, params, Moments.of_rows(x), with_bias=True)
    for g in range(3):
        rows = slice(2 * g, 2 * g + 2)
        alone = round_weight(
            weight[rows], fit_affine(weight[rows], FORMATS["channel"]), Moments.of_rows(x[g]), with_bias=True
        )
        assert np.array_equal(together.codes[rows], alone.codes)
        assert together.params.scale[rows] == pytest.approx(alone.params.scale)


def test_asymmetric_target_is_least_squares_on_both_networks():
    rng = np.random.default_rng(5)
    u = inputs(rng, 300, 7)
    x = u + 0.3 * rng.normal(size=u.shape) + 0.2
    weight = rng.normal(size=(4, 7))
    target = Moments.of_rows(x, u).target(weight[None], with_bias=True, damping=1e-9)[0]
    ones = np.ones((300, 1))
    expected = np.linalg.lstsq(np.hstack([x, ones]), u @ weight.T, rcond=None)[0]
    assert target == pytest.approx(expected[:7].T, rel=1e-6)
    shift = Moments.of_rows(x, u).bias_shift(weight[None], target[None])[0]
    assert shift == pytest.approx(expected[7], rel=1e-6)


def test_imitating_the_float_network_errs_less_against_it():
    rng = np.random.default_rng(6)
    u = inputs(rng, 400, 15)
    x = np.round(u * 0.7) + 0.3
    weight = rng.normal(size=(8, 15))
    params = fit_affine(weight, FORMATS["channel"])

    def error(asymmetric):
        config = RoundingConfig(asymmetric=asymmetric)
        found = round_weight(weight, params, Moments.of_rows(x, u), with_bias=True, config=config)
        values = dequantize(found.codes, found.params)
        return np.mean((u @ weight.T - x @ values.T - found.bias_shift) ** 2)

    assert error(asymmetric=True) < 0.9 * error(asymmetric=False)


def test_dead_inputs_and_constant_ones_do_no_harm():
    rng = np.random.default_rng(7)
    x = inputs(rng, 50, 9)
    x[:, 2], x[:, 5] = 0.0, 3.0
    weight = rng.normal(size=(3, 9))
    found = round_weight(weight, fit_affine(weight, FORMATS["channel"]), Moments.of_rows(x), with_bias=True)
    assert np.isfinite(found.bias_shift).all()
    assert np.abs(found.codes).max() <= 3


def test_steps_stay_when_they_are_not_searched():
    rng = np.random.default_rng(8)
    weight = rng.normal(size=(3, 9))
    params = fit_affine(weight, FORMATS["channel"])
    config = RoundingConfig(search_steps=False)
    found = round_weight(weight, params, Moments.of_rows(inputs(rng, 50, 9)), config=config)
    assert (found.params.scale == params.scale.astype(np.float32)).all()


def test_damping_makes_any_moments_invertible():
    assert np.linalg.cond(damped(np.zeros((1, 4, 4)), 0.01)[0]) == 1
    assert np.linalg.cond(damped(np.ones((1, 4, 4)), 0.01)[0]) < 1e3


def test_unusable_input_is_refused():
    rng = np.random.default_rng(9)
    weight = rng.normal(size=(4, 6))
    params = fit_affine(weight, FORMATS["channel"])
    with pytest.raises(DataError, match=r"moments of 1 groups of 5 inputs do not fit a weight of shape \[4, 6\]"):
        round_weight(weight, params, Moments.of_rows(np.ones((3, 5))))
    with pytest.raises(QuantError, match="fc: NaN or infinity among the values"):
        round_weight(weight * np.nan, params, Moments.of_rows(np.ones((3, 6))), name="fc")
    with pytest.raises(DataError, match=r"rows must be \[N, K\] or \[G, N, K\] with N >= 1"):
        Moments.of_rows(np.ones((0, 3)))
    with pytest.raises(DataError, match="moments hold NaN or infinity"):
        Moments.of_rows([[np.inf]])
    with pytest.raises(DataError, match="at least one row of inputs, got 0"):
        Moments(0, np.ones((1, 1, 1)), np.ones((1, 1, 1)), np.ones((1, 1)), np.ones((1, 1)))
    with pytest.raises(DataError, match=r"moments must be \[G, K, K\]"):
        Moments(1, np.ones((1, 2, 2)), np.ones((1, 1, 1)), np.ones((1, 1)), np.ones((1, 1)))
    with pytest.raises(ConfigError, match=r"damping must be in \(0, 1\], got 0"):
        RoundingConfig(damping=0)
    with pytest.raises(ConfigError, match="sweeps must not be negative, got -1"):
        RoundingConfig(sweeps=-1)
