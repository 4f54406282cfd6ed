import math

import numpy as np
import pytest

from dyadiq.core.affine import (
    EMPTY_SCALE,
    RELATIVE_SCALE_FLOOR,
    AffineParams,
    dequantize,
    fit_affine,
    fit_range,
    quantize,
)
from dyadiq.core.errors import QuantError
from dyadiq.core.format import Format
from dyadiq.core.qtype import QType

WEIGHT = Format(4, signed=True, narrow=True, granularity="channel", range_method="minmax")


def params_of(scale, zero_point, qtype, fmt=Format(8)):  # noqa: B008 - frozen
    return AffineParams(np.array(scale, float), np.array(zero_point), qtype, None, fmt)


def slow_quantize(x, scale, zero_point, qtype):
    """One number, in Python."""
    if qtype.bipolar:
        return 1 if x >= 0 else -1
    return min(max(math.floor(x / scale + 0.5) + zero_point, qtype.qmin), qtype.qmax)


def squared_error(x, params):
    return float(((dequantize(quantize(x, params), params) - x) ** 2).sum())


@pytest.mark.parametrize("qtype", [QType(3, True), QType(3, True, narrow=True), QType(3, False), QType(1, False)])
@pytest.mark.parametrize("zero_point", [0, 1])
def test_quantize_equals_python_loop_when_values_include_ties(qtype, zero_point):
    x = np.arange(-20, 21) / 8
    got = quantize(x, params_of([0.25], [zero_point], qtype))
    assert got.dtype == np.int64
    assert got.tolist() == [slow_quantize(v, 0.25, zero_point, qtype) for v in x]


def test_quantize_gives_signs_when_bipolar():
    params = params_of([0.5], [0], QType(1, True, bipolar=True))
    assert quantize([-0.1, 0.0, 0.1], params).tolist() == [-1, 1, 1]
    assert dequantize(np.array([-1, 1]), params).tolist() == [-0.5, 0.5]


def test_quantize_uses_the_scale_of_the_channel_when_per_channel():
    fmt = Format(8, signed=True, granularity="channel")
    params = params_of([1.0, 2.0], [0, 1], QType(8, True), fmt)
    x = np.full((2, 1, 1, 2), 4.0)
    assert quantize(x, params).ravel().tolist() == [4, 4, 3, 3]
    assert dequantize(quantize(x, params), params).tolist() == x.tolist()


def test_quantize_uses_the_scale_of_the_group_when_per_group():
    fmt = Format(8, signed=True, granularity="group", group_size=2)
    params = AffineParams(np.array([0.5, 1.0]), np.zeros(2, int), QType(8, True), np.array([[1, 2, 3], [4, 5, 6]]), fmt)
    assert params.steps((2, 3, 1, 2)).reshape(2, 6).tolist() == [[0.5, 0.5, 1, 1, 1.5, 1.5], [4, 4, 5, 5, 6, 6]]
    x = np.full((2, 6), 30.0)
    assert quantize(x, params).tolist() == [[60, 60, 30, 30, 20, 20], [8, 8, 6, 6, 5, 5]]


def test_minmax_scale_touches_the_larger_end_when_symmetric():
    assert fit_range(-8.0, 1.0, Format(4), nonnegative=False).scale.tolist() == [1.0]
    assert fit_range(-1.0, 7.0, Format(4), nonnegative=False).scale.tolist() == [1.0]
    assert fit_range(-8.0, 1.0, Format(4, narrow=True), nonnegative=False).scale.tolist() == [8 / 7]
    assert fit_range(0.0, 30.0, Format(4), nonnegative=True).scale.tolist() == [2.0]


def test_asymmetric_range_holds_zero_exactly_when_it_lies_inside_or_outside():
    fmt = Format(8, scheme="asymmetric")
    inside = fit_range(-1.0, 2.0, fmt, nonnegative=False)
    assert (inside.scale[0], inside.zero_point[0]) == (3 / 255, 85)
    outside = fit_range(1.0, 2.0, fmt, nonnegative=False)
    assert (outside.scale[0], outside.zero_point[0]) == (2 / 255, 0)
    below = fit_range(-2.0, -1.0, fmt, nonnegative=False)
    assert (below.scale[0], below.zero_point[0]) == (2 / 255, 255)
    assert fit_range(-1.0, 2.0, Format(8, scheme="asymmetric", signed=True), nonnegative=False).zero_point[0] == -43


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("scale", ["float", "pow2"])
@pytest.mark.parametrize("bits", [2, 3, 8, 16])
def test_minmax_error_is_at_most_half_a_step_when_nothing_is_clipped(scheme, scale, bits):
    x = np.random.default_rng(0).normal(0.3, 1.0, (5, 40))
    fmt = Format(bits, scheme=scheme, scale=scale, granularity="channel", range_method="minmax")
    params = fit_affine(x, fmt)
    error = np.abs(dequantize(quantize(x, params), params) - x)
    assert (error <= params.steps(x.shape) / 2 * (1 + 1e-9)).all()


def test_pow2_scale_is_the_next_power_when_minmax():
    fmt = Format(4, scale="pow2")
    assert fit_range(0.0, 15.0, fmt, nonnegative=True).scale.tolist() == [1.0]
    assert fit_range(0.0, 15.1, fmt, nonnegative=True).scale.tolist() == [2.0]
    assert fit_range(0.0, 7.5, fmt, nonnegative=True).scale.tolist() == [0.5]


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_mse_is_close_to_the_best_of_a_fine_grid_when_searched(scheme, bits):
    x = np.random.default_rng(1).laplace(size=500)
    fmt = Format(bits, scheme=scheme, range_method="mse")
    found = squared_error(x, fit_affine(x, fmt))
    if fmt.qtype(nonnegative=False).bipolar:
        grid = [params_of([s], [0], QType(1, True, bipolar=True)) for s in np.linspace(0.01, 3, 600)]
    else:
        low, high = x.min(), x.max()
        ratios = np.linspace(0.02, 1, 60)
        other = ratios if scheme == "asymmetric" else [None]
        grid = [
            fit_range(low * a, high * (a if b is None else b), fmt, nonnegative=False) for a in ratios for b in other
        ]
    assert found <= 1.02 * min(squared_error(x, p) for p in grid)
    assert found <= squared_error(x, fit_affine(x, Format(bits, scheme=scheme, range_method="minmax")))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_mse_is_within_half_a_percent_of_the_best_scale_when_symmetric(bits):
    x = np.random.default_rng(5).normal(size=4000)
    params = fit_affine(x, Format(bits))
    scales = np.linspace(0.1, 1.05, 2000) * np.abs(x).max() / params.qtype.qmax
    best = min(squared_error(x, params_of([s], [0], params.qtype)) for s in scales)
    assert squared_error(x, params) <= 1.005 * best


@pytest.mark.parametrize("sign", [1, -1])
def test_mse_clips_one_end_only_when_the_outlier_is_there(sign):
    x = sign * np.append(np.linspace(-1, 1, 2000), 6.0)
    params = fit_affine(x, Format(4, scheme="asymmetric"))
    low, high = dequantize(np.array([0, 15]), params)
    tail, body = (high, -low) if sign == 1 else (-low, high)
    assert 0.8 < body < 1.2
    assert 2 < tail < 5


def test_mse_takes_the_best_power_when_pow2():
    x = np.random.default_rng(2).normal(size=(4, 300))
    fmt = Format(3, scale="pow2", granularity="channel")
    params = fit_affine(x, fmt)
    for row, scale in zip(x, params.scale, strict=True):
        grid = [params_of([2.0**-k], [0], params.qtype) for k in range(-3, 8)]
        assert scale == min(grid, key=lambda p: squared_error(row, p)).scale[0]


def test_percentile_ignores_the_outlier_when_it_is_above_the_fraction_kept():
    x = np.append(np.linspace(-1, 1, 1000), 100.0)
    kept = fit_affine(x, Format(8, range_method="percentile", percentile=0.99))
    assert kept.scale[0] == pytest.approx(0.99 / 127, rel=0.01)
    asymmetric = fit_affine(x, Format(8, scheme="asymmetric", range_method="percentile", percentile=0.99))
    assert asymmetric.scale[0] == pytest.approx(1.98 / 255, rel=0.005)
    positive = fit_affine(np.abs(x), Format(8, range_method="percentile", percentile=0.99))
    assert positive.scale[0] == pytest.approx(0.99 / 255, rel=0.01)


def test_percentile_falls_back_to_the_range_when_almost_all_values_are_zero():
    x = np.zeros(1000)
    x[0] = 15.0
    assert fit_affine(x, Format(4, range_method="percentile", percentile=0.9)).scale.tolist() == [1.0]


def test_bipolar_scale_is_the_mean_magnitude_when_fitted():
    x = np.array([[1.0, -3.0], [0.5, 0.5]])
    fmt = Format(1, signed=True, granularity="channel")
    assert fit_affine(x, fmt).scale.tolist() == [2.0, 0.5]
    assert fit_affine(x * 1.4, Format(1, signed=True, granularity="channel", scale="pow2")).scale.tolist() == [2.0, 0.5]
    assert fit_affine(x * 1.6, Format(1, signed=True, granularity="channel", scale="pow2")).scale.tolist() == [4.0, 1.0]


@pytest.mark.parametrize("scale", ["float", "pow2"])
@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_group_error_is_at_most_half_a_step_when_minmax(scale, scheme):
    x = np.random.default_rng(3).normal(size=(3, 4, 3, 3)) * np.logspace(-3, 0, 36).reshape(4, 3, 3)
    fmt = Format(4, scheme=scheme, granularity="group", group_size=6, scale=scale, range_method="minmax")
    params = fit_affine(x, fmt)
    assert params.group_factor is not None
    assert params.group_factor.shape == (3, 6)
    assert params.group_factor.min() >= 1
    assert params.group_factor.max() <= 255
    error = np.abs(dequantize(quantize(x, params), params) - x)
    assert (error <= params.steps(x.shape) / 2 * (1 + 1e-9)).all()
    if scale == "pow2":
        assert set(np.log2(params.group_factor).ravel() % 1) == {0.0}
        assert set(np.log2(params.scale) % 1) == {0.0}


def test_groups_are_better_than_channels_when_magnitudes_differ_along_a_channel():
    x = np.random.default_rng(4).normal(size=(2, 64)) * np.repeat([1, 0.1, 0.01, 1], 16)
    group = fit_affine(x, Format(4, signed=True, granularity="group", group_size=16))
    channel = fit_affine(x, Format(4, signed=True, granularity="channel"))
    assert squared_error(x, group) < squared_error(x, channel)


def test_group_factors_reach_a_hundred_and_twenty_eight_when_pow2_magnitudes_differ_more():
    x = np.array([[1024.0, 1.0, 8.0, 16.0]])
    fmt = Format(4, signed=True, granularity="group", group_size=1, scale="pow2", range_method="minmax")
    params = fit_affine(x, fmt)
    assert params.group_factor is not None
    assert params.group_factor.tolist() == [[128, 1, 1, 2]]
    assert params.scale.tolist() == [2.0]


def test_bipolar_groups_take_the_nearest_factor_when_fitted():
    x = np.abs(np.random.default_rng(6).normal(size=(3, 40))) + 0.05
    params = fit_affine(x, Format(1, signed=True, granularity="group", group_size=4))
    means = np.repeat(x.reshape(3, 10, 4).mean(axis=2), 4, axis=1)
    finest = means.max(axis=1, keepdims=True) / 255
    assert (np.abs(params.steps(x.shape) - means) <= finest * 0.5001).all()


def test_group_factor_is_one_when_there_is_one_group():
    x = np.array([[1.0, -0.5], [0.2, 0.1]])
    group = fit_affine(x, Format(4, signed=True, granularity="group", group_size=2, range_method="minmax"))
    assert group.group_factor is not None
    assert group.group_factor.tolist() == [[1], [1]]
    assert group.scale == pytest.approx(fit_affine(x, Format(4, granularity="channel", range_method="minmax")).scale)


def test_zero_channel_takes_the_largest_scale_when_others_are_not_zero():
    x = np.array([[0.0, 0.0], [7.0, -7.0], [14.0, 0.0]])
    params = fit_affine(x, WEIGHT)
    assert params.scale.tolist() == [2.0, 1.0, 2.0]
    assert quantize(x, params)[0].tolist() == [0, 0]


def test_zero_group_channel_has_equal_factors_when_others_are_not_zero():
    x = np.zeros((2, 4))
    x[1] = [1, 2, 3, 4]
    params = fit_affine(x, Format(4, signed=True, granularity="group", group_size=2, range_method="minmax"))
    assert params.group_factor is not None
    assert params.group_factor[0].tolist() == [1, 1]
    assert quantize(x, params)[0].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "moving_average"])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_scale_is_the_documented_one_when_the_whole_tensor_is_zero(method, granularity):
    fmt = Format(4, granularity=granularity, group_size=2 if granularity == "group" else None, range_method=method)
    params = fit_affine(np.zeros((3, 4)), fmt)
    assert params.scale == pytest.approx(EMPTY_SCALE)
    assert not quantize(np.zeros((3, 4)), params).any()


def test_scale_is_floored_when_a_channel_is_far_smaller_than_the_largest():
    params = fit_affine([[7.0], [7e-9]], WEIGHT)
    assert params.scale.tolist() == [1.0, RELATIVE_SCALE_FLOOR]


def test_bipolar_zero_channel_stays_small_when_others_are_not_zero():
    fmt = Format(1, signed=True, granularity="channel")
    assert fit_affine([[1.0], [0.0]], fmt).scale.tolist() == [1.0, RELATIVE_SCALE_FLOOR]


def test_sign_of_the_type_follows_the_data_when_left_open():
    assert str(fit_affine([0.0, 1.0], Format(4)).qtype) == "uint4"
    assert str(fit_affine([-1.0, 1.0], Format(4)).qtype) == "int4"
    assert str(fit_affine([0.0, 1.0], Format(4), nonnegative=False).qtype) == "int4"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_are_refused_by_name_when_not_finite(bad):
    with pytest.raises(QuantError, match=r"conv1\.weight: 1 of 2 values are NaN or infinite"):
        fit_affine([1.0, bad], Format(8), name="conv1.weight")
    with pytest.raises(QuantError, match=r"conv1\.weight: 1 of 2 values"):
        quantize([1.0, bad], params_of([1.0], [0], QType(8, True)), name="conv1.weight")
    with pytest.raises(QuantError, match="range: 1 of 1 values"):
        fit_range(0.0, bad, Format(8), nonnegative=True)


def test_values_are_refused_when_their_squares_would_overflow():
    with pytest.raises(QuantError, match=r"w: magnitude 1e\+40 is above 2\*\*100"):
        fit_affine([1e40], Format(8), name="w")


def test_fit_is_refused_when_there_are_no_values():
    with pytest.raises(QuantError, match=r"w: cannot fit a range to an empty tensor of shape \(0, 3\)"):
        fit_affine(np.zeros((0, 3)), Format(8), name="w")


def test_legal_sizes_are_listed_when_the_group_size_does_not_divide():
    fmt = Format(4, granularity="group", group_size=4)
    with pytest.raises(
        QuantError,
        match=r"conv\.weight: group_size must divide the 18 weights .* got 4\. Legal sizes: 1, 2, 3, 6, 9, 18;",
    ):
        fit_affine(np.ones((2, 2, 3, 3)), fmt, name="conv.weight")


def test_range_is_refused_when_empty_or_grouped():
    with pytest.raises(QuantError, match=r"empty range: low 2\.0 is above high 1\.0"):
        fit_range(2.0, 1.0, Format(8), nonnegative=True)
    with pytest.raises(QuantError, match="has no groups"):
        fit_range(0.0, 1.0, Format(8, granularity="group", group_size=2), nonnegative=True)


def test_range_of_vectors_gives_a_scale_a_channel_when_per_channel():
    params = fit_range([0, 0], [15, 30], Format(4, granularity="channel"), nonnegative=True)
    assert params.scale.tolist() == [1.0, 2.0]


def test_bipolar_range_is_half_the_larger_end_when_only_the_range_is_known():
    assert fit_range(-1.0, 3.0, Format(1), nonnegative=False).scale.tolist() == [1.5]


@pytest.mark.parametrize(
    ("scale", "zero_point", "factor", "message"),
    [
        ([[1.0]], [[0]], None, "vectors of one length"),
        ([1.0, 2.0], [0], None, "vectors of one length"),
        ([0.0], [0], None, "positive and finite"),
        ([np.nan], [0], None, "positive and finite"),
        ([1.0], [200], None, r"zero points of int8 must be in \[-128, 127\]"),
        ([1.0], [0], [[0]], "group_factor must be"),
        ([1.0], [0], [[256]], "group_factor must be"),
        ([1.0], [0], [[1], [1]], "group_factor must be"),
    ],
)
def test_params_are_refused_when_shapes_or_values_are_illegal(scale, zero_point, factor, message):
    factor = None if factor is None else np.array(factor)
    with pytest.raises(QuantError, match=message):
        AffineParams(np.array(scale), np.array(zero_point), QType(8, True), factor, Format(8))


def test_tensor_is_refused_when_it_has_other_channels_or_groups():
    fmt = Format(8, granularity="channel")
    params = params_of([1.0, 2.0], [0, 0], QType(8, True), fmt)
    with pytest.raises(QuantError, match=r"parameters of 2 channels do not fit a tensor of shape \(3, 1\)"):
        quantize(np.zeros((3, 1)), params)
    grouped = AffineParams(
        np.ones(1), np.zeros(1, int), QType(8, True), np.ones((1, 4), int), Format(8, granularity="group", group_size=2)
    )
    with pytest.raises(QuantError, match="4 groups do not divide the 6 weights"):
        quantize(np.zeros((1, 6)), grouped)
