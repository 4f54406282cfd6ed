import math

import numpy as np
import pytest
import torch

from dyadiq.core.affine import AffineParams, dequantize, fit_affine, fit_range, quantize
from dyadiq.core.errors import QuantError
from dyadiq.core.format import Format
from dyadiq.core.qtype import QType
from dyadiq.quant.fake_quant import ActivationQuantizer, WeightQuantizer
from dyadiq.quant.rounding_gradient import fake_quantize, round_to_grid

FORMATS = [
    Format(bits, scheme=scheme, granularity=granularity, group_size=6 if granularity == "group" else None, scale=scale)
    for bits in (1, 2, 4, 8)
    for scheme in ("symmetric", "asymmetric")
    for granularity in ("tensor", "channel", "group")
    for scale in ("float", "pow2")
]


def in_float32(params):
    """Parameters with the scales a quantizer keeps."""
    scale = params.scale.astype(np.float32).astype(np.float64)
    return AffineParams(scale, params.zero_point, params.qtype, params.group_factor, params.fmt)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_weight_quantizer_equals_numpy_bit_for_bit_when_in_float64(fmt):
    weight = np.random.default_rng(0).normal(size=(4, 3, 2, 2))
    params = in_float32(fit_affine(weight, fmt))
    quantizer = WeightQuantizer(params, learn_scale=False)
    assert np.array_equal(quantizer(torch.tensor(weight)).numpy(), dequantize(quantize(weight, params), params))
    assert np.array_equal(quantizer.codes(weight, name="w"), quantize(weight, params))


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_weight_codes_equal_numpy_when_weights_are_float32(fmt):
    weight = np.random.default_rng(1).normal(size=(4, 3, 2, 2)).astype(np.float32)
    params = in_float32(fit_affine(weight, fmt))
    fake = WeightQuantizer(params, learn_scale=True)(torch.tensor(weight)).detach()
    assert np.array_equal(fake.numpy(), dequantize(quantize(weight, params), params).astype(np.float32))


def test_weight_codes_equal_numpy_when_float32_would_round_to_the_other_side_of_a_tie():
    params = in_float32(fit_range(-1.0, 1.0, Format(8), nonnegative=False))
    ties = ((np.arange(-100, 100) + 0.5) * params.scale[0]).astype(np.float32)
    weight = np.stack([ties, np.nextafter(ties, np.float32(9)), np.nextafter(ties, np.float32(-9))])
    fake = WeightQuantizer(params, learn_scale=False)(torch.tensor(weight)).numpy()
    assert np.array_equal(fake, dequantize(quantize(weight, params), params).astype(np.float32))
    assert not np.array_equal(np.floor(weight / np.float32(params.scale[0]) + 0.5), quantize(weight, params))


@pytest.mark.parametrize("fmt", [f for f in FORMATS if f.granularity == "tensor"], ids=str)
def test_activation_quantizer_equals_numpy_bit_for_bit_when_in_float64(fmt):
    x = np.random.default_rng(2).normal(size=(5, 7))
    params = in_float32(fit_affine(x, fmt))
    quantizer = ActivationQuantizer(params, learn_scale=False)
    assert np.array_equal(quantizer(torch.tensor(3 * x)).numpy(), dequantize(quantize(3 * x, params), params))


def test_ties_round_up_when_values_are_half_steps():
    x = torch.tensor([-1.5, -0.5, 0.5, 1.5])
    assert round_to_grid(x, torch.tensor(1.0)).tolist() == [-1.0, 0.0, 1.0, 2.0]
    assert fake_quantize(x, torch.tensor(1.0), 0, QType(4, True)).tolist() == [-1.0, 0.0, 1.0, 2.0]


def test_gradient_of_values_is_zero_when_clipped_and_one_inside():
    x = torch.tensor([-9.0, -4.4, -0.3, 3.4, 3.6, 9.0], requires_grad=True)
    fake_quantize(x, torch.tensor(1.0), 0, QType(3, True)).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0, 0]
    x.grad = None
    fake_quantize(x, torch.tensor(1.0), torch.tensor(2), QType(3, False)).sum().backward()
    assert x.grad.tolist() == [0, 0, 1, 1, 1, 0]


def test_gradient_of_values_is_one_everywhere_when_not_clipped():
    x = torch.tensor([-9.0, 9.0], requires_grad=True)
    round_to_grid(x, torch.tensor(1.0)).sum().backward()
    assert x.grad.tolist() == [1, 1]


def test_gradient_of_values_is_one_within_two_steps_when_bipolar():
    x = torch.tensor([-2.1, -1.9, 0.0, 1.9, 2.1], requires_grad=True)
    fake_quantize(x, torch.tensor(1.0), 0, QType(1, True, bipolar=True)).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def slow_step_gradient(x, step, zero_point, qtype):
    """LSQ, eq. (3), for one value."""
    if qtype.bipolar:
        sign = 1.0 if x >= 0 else -1.0
        return sign - x / step if abs(x / step) <= 2 else sign
    code = math.floor(x / step + 0.5) + zero_point
    if code < qtype.qmin:
        return qtype.qmin - zero_point
    if code > qtype.qmax:
        return qtype.qmax - zero_point
    return code - zero_point - x / step


@pytest.mark.parametrize("qtype", [QType(3, True), QType(3, False), QType(1, True, bipolar=True)], ids=str)
def test_gradient_of_the_step_follows_lsq_when_per_channel(qtype):
    x = torch.randn(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    step = torch.tensor([[0.5], [0.25]], dtype=torch.float64, requires_grad=True)
    zero_point = 0 if qtype.bipolar else 1
    fake_quantize(x, step, zero_point, qtype, gradient_scale=0.5).sum().backward()
    for row, s, got in zip(x, step.detach(), step.grad, strict=True):
        expected = 0.5 * sum(slow_step_gradient(float(v), float(s), zero_point, qtype) for v in row)
        assert float(got) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_activations_follow_lsq_when_images_lie_either_way(layout):
    x = (torch.randn(3, 5, 4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2).to(
        memory_format=layout
    )
    upstream = torch.randn(3, 5, 4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    step = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    x.requires_grad_()
    fake_quantize(x, step, torch.tensor(2), QType(3, False)).backward(upstream)
    slow = [slow_step_gradient(float(v), 0.4, 2, QType(3, False)) for v in x.detach().flatten()]
    expected = sum(g * float(u) for g, u in zip(slow, upstream.flatten(), strict=True))
    assert float(step.grad) == pytest.approx(expected, rel=1e-9)
    inside = torch.tensor([0 <= math.floor(float(v) / 0.4 + 0.5) + 2 <= 7 for v in x.detach().flatten()])
    assert torch.equal(x.grad.flatten(), upstream.flatten() * inside)


def test_ends_of_the_range_are_those_of_the_codes():
    ends = torch.tensor([-0.5, 7.5])  # Of step 1 and 3 bits: the first rounds up to code 0, the second to 8.
    x = torch.cat([ends, torch.nextafter(ends, torch.tensor(-9.0))]).requires_grad_()
    fake_quantize(x, torch.tensor(1.0), 0, QType(3, False)).sum().backward()
    assert x.grad.tolist() == [1, 0, 0, 1]


def test_gradient_of_the_gain_is_scaled_by_size_and_range_when_learned():
    weight = torch.randn(3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    params = fit_affine(weight.numpy(), Format(3, signed=True, granularity="channel", scale="pow2"))
    quantizer = WeightQuantizer(params, learn_scale=True).double()
    quantizer(weight).sum().backward()
    for row, s, got in zip(weight, params.scale, quantizer.log2_gain.grad, strict=True):
        by_step = sum(slow_step_gradient(float(v), float(s), 0, params.qtype) for v in row)
        assert float(got) == pytest.approx(by_step / math.sqrt(20 * 3) * s * math.log(2), rel=1e-9)


def test_gradient_reaches_the_base_scale_when_grouped():
    weight = torch.randn(2, 12, generator=torch.Generator().manual_seed(2))
    fmt = Format(3, signed=True, granularity="group", group_size=4)
    quantizer = WeightQuantizer(fit_affine(weight.numpy(), fmt), learn_scale=True)
    (quantizer(weight) ** 2).sum().backward()
    assert quantizer.log2_gain.grad.shape == (2,)
    assert (quantizer.log2_gain.grad != 0).all()


def test_gradient_step_lowers_the_error_when_the_scale_is_too_large():
    x = torch.randn(500, generator=torch.Generator().manual_seed(3))
    quantizer = ActivationQuantizer(fit_range(-20.0, 20.0, Format(3), nonnegative=False), learn_scale=True)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.05)
    errors = []
    for _ in range(100):
        optimizer.zero_grad()
        error = ((quantizer(x) - x) ** 2).mean()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < errors[0] / 3


@pytest.mark.parametrize("gain", [-3.4, -0.5, 0.2, 7.6])
def test_scale_stays_an_exact_power_when_pow2_and_learned(gain):
    quantizer = ActivationQuantizer(fit_range(0.0, 1.0, Format(4, scale="pow2"), nonnegative=True), learn_scale=True)
    with torch.no_grad():
        quantizer.log2_gain.fill_(gain)
    assert quantizer.current_scale().item() == 2.0 ** (-3 + math.floor(gain + 0.5))
    quantizer.current_scale().sum().backward()
    assert quantizer.log2_gain.grad.item() == pytest.approx(quantizer.current_scale().item() * math.log(2))


def test_scale_is_exactly_the_calibrated_one_when_nothing_was_learned():
    params = fit_range(0.0, 1.0, Format(8), nonnegative=True)
    for learn in (True, False):
        assert ActivationQuantizer(params, learn_scale=learn).affine_params().scale[0] == np.float32(1 / 255)


def test_scale_is_a_parameter_only_when_learned():
    params = fit_range(0.0, 1.0, Format(8), nonnegative=True)
    assert [n for n, _ in ActivationQuantizer(params, learn_scale=True).named_parameters()] == ["log2_gain"]
    fixed = ActivationQuantizer(params, learn_scale=False)
    assert not list(fixed.parameters())
    assert list(fixed.state_dict()) == ["scale", "zero_point"]


def test_values_pass_when_disabled():
    params = fit_range(0.0, 1.0, Format(2), nonnegative=True)
    x = torch.tensor([[0.1, -7.0]])
    for quantizer in (ActivationQuantizer(params, learn_scale=False), WeightQuantizer(params, learn_scale=False)):
        quantizer.enabled = False
        assert quantizer(x) is x
    assert ActivationQuantizer(params, learn_scale=False).round(x).tolist() != x.tolist()
    quantizer = ActivationQuantizer(params, learn_scale=False)
    quantizer.enabled = False
    assert quantizer.round(x) is x


def test_branch_is_rounded_but_not_clipped_when_on_its_way_to_a_join():
    quantizer = ActivationQuantizer(fit_range(0.0, 3.0, Format(2), nonnegative=True), learn_scale=False)
    assert quantizer.round(torch.tensor([[-5.3, 7.5]])).tolist() == [[-5.0, 8.0]]


def test_codes_are_refused_by_name_when_not_finite():
    quantizer = WeightQuantizer(fit_range(0.0, 3.0, Format(2), nonnegative=True), learn_scale=False)
    with pytest.raises(QuantError, match=r"fc\.weight: 1 of 1 values are NaN"):
        quantizer.codes(np.array([np.nan]), name="fc.weight")
