import numpy as np
import pytest

from dyadiq.core.affine import dequantize, fit_affine, quantize
from dyadiq.core.errors import DataError, QuantError
from dyadiq.core.format import Format
from dyadiq.core.ranges import HEADROOM_BITS, MOMENTUM, SAMPLE_SIZE, make_observer

METHODS = ["minmax", "moving_average", "percentile", "mse"]


def observed(fmt, batches, **options):
    observer = make_observer(fmt, **options)
    for batch in batches:
        observer.update(batch)
    return observer.params()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("scale", ["float", "pow2"])
@pytest.mark.parametrize("bits", [1, 4])
def test_observer_equals_fit_of_the_tensor_when_there_is_one_small_batch(method, scheme, scale, bits):
    x = np.random.default_rng(0).normal(size=(8, 5))
    fmt = Format(bits, scheme=scheme, scale=scale, range_method=method)
    got, expected = observed(fmt, [x]), fit_affine(x, fmt, nonnegative=False)
    assert got.scale == pytest.approx(expected.scale, rel=1e-12)
    assert got.zero_point.tolist() == expected.zero_point.tolist()
    assert got.qtype == expected.qtype


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_result_does_not_depend_on_the_cut_when_batches_differ(method):
    x = np.random.default_rng(1).normal(size=2 * SAMPLE_SIZE)
    fmt = Format(4, range_method=method)
    whole, parts = observed(fmt, [x]), observed(fmt, np.array_split(x, 7))
    assert whole.scale.tolist() == parts.scale.tolist()


def test_minmax_keeps_the_extremes_when_later_batches_are_smaller():
    assert observed(Format(4, range_method="minmax"), [[15.0], [1.0]], nonnegative=True).scale.tolist() == [1.0]


def test_moving_average_follows_the_formula_when_there_are_three_batches():
    fmt = Format(8, range_method="moving_average", scheme="asymmetric")
    params = observed(fmt, [[-1.0, 1.0], [-2.0, 3.0], [0.0, 5.0]])
    low, high = -1.0, 1.0
    for batch_low, batch_high in ((-2.0, 3.0), (0.0, 5.0)):
        low, high = MOMENTUM * low + (1 - MOMENTUM) * batch_low, MOMENTUM * high + (1 - MOMENTUM) * batch_high
    assert params.scale[0] == pytest.approx((high - low) / 255)


def test_percentile_is_close_to_the_truth_when_the_stream_is_longer_than_the_sample():
    x = np.random.default_rng(2).normal(size=5 * SAMPLE_SIZE)
    fmt = Format(8, range_method="percentile", percentile=0.999)
    bound = np.quantile(np.abs(x), 0.999)
    assert observed(fmt, np.array_split(x, 5)).scale[0] * 127 == pytest.approx(bound, rel=0.03)


def test_mse_error_is_close_to_the_best_when_the_stream_is_longer_than_the_sample():
    x = np.random.default_rng(3).laplace(size=4 * SAMPLE_SIZE)
    fmt = Format(3, range_method="mse")

    def error(params):
        return ((dequantize(quantize(x, params), params) - x) ** 2).mean()

    assert error(observed(fmt, np.array_split(x, 4))) <= 1.02 * error(fit_affine(x, fmt))


def test_bipolar_scale_is_the_mean_magnitude_of_all_batches_when_one_bit():
    for method in METHODS:
        assert observed(Format(1, range_method=method), [[-1.0, 3.0], [2.0, -2.0]]).scale.tolist() == [2.0]


def test_sign_follows_the_argument_or_the_data_when_asked():
    fmt, data = Format(4, range_method="minmax"), [[0.0, 1.0]]
    assert str(observed(fmt, data, nonnegative=None).qtype) == "uint4"
    assert str(observed(fmt, [[-1.0, 1.0]], nonnegative=None).qtype) == "int4"
    assert str(observed(fmt, data).qtype) == "int4"
    assert str(observed(fmt, data, nonnegative=True).qtype) == "uint4"


@pytest.mark.parametrize("method", METHODS)
def test_scale_is_legal_when_all_values_are_zero(method):
    params = observed(Format(8, range_method=method), [np.zeros(5)], nonnegative=True)
    assert params.scale[0] > 0
    assert quantize([0.0], params).tolist() == [0]


@pytest.mark.parametrize("method", METHODS)
def test_params_are_refused_when_nothing_was_seen(method):
    with pytest.raises(DataError, match="activation 'relu1': no calibration values were seen"):
        observed(Format(8, range_method=method), [], name="relu1")
    with pytest.raises(DataError, match="no calibration values were seen"):
        observed(Format(8, range_method=method), [np.zeros((0, 4))])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_update_is_refused_by_name_when_not_finite(bad):
    with pytest.raises(DataError, match="activation 'relu1': 1 of 3 values are NaN or infinite"):
        observed(Format(8), [[1.0, bad, 0.0]], name="relu1")


def test_observer_is_refused_when_the_format_is_per_channel():
    with pytest.raises(
        QuantError, match="activation 'relu1': activations have one scale per tensor, got granularity 'channel'"
    ):
        make_observer(Format(8, granularity="channel"), name="relu1")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_answers_of_16_bits_are_not_clipped_up_to_twice_what_was_seen(method, scheme):
    x = np.random.default_rng(3).normal(size=3 * SAMPLE_SIZE)
    fmt = Format(HEADROOM_BITS, scheme=scheme, range_method=method)
    params = observed(fmt, np.array_split(x, 3), answer=True)
    for value in (2.0 * x.min(), 2.0 * x.max()):
        assert dequantize(quantize(np.array([value]), params), params) == pytest.approx(value, rel=1e-3)
    ends = [dequantize(np.array([code]), params)[0] for code in (params.qtype.qmin, params.qtype.qmax)]
    assert max(abs(end) for end in ends) == pytest.approx(2.0 * np.abs(x).max(), rel=1e-3)


@pytest.mark.parametrize("bits", [8, HEADROOM_BITS - 1])
def test_answers_of_fewer_bits_follow_the_method(bits):
    x, fmt = np.random.default_rng(4).normal(size=100), Format(bits)
    assert observed(fmt, [x], answer=True).scale == observed(fmt, [x]).scale
