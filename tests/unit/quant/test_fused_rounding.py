"""One native pass against the torch expressions that define it."""

import math

import pytest
import torch

from dyadiq.core.native import native_module
from dyadiq.core.qtype import QType
from dyadiq.quant import fused_rounding, rounding_gradient
from dyadiq.quant.rounding_gradient import fake_quantize, round_to_grid

needs_native = pytest.mark.skipif(native_module() is None, reason="the native module is not built")
SIZES = [(1,), (7,), (15, 17), (33, 31), (2, 3, 5, 7), (4, 16, 8, 8)]


def values(shape, dtype, *, layout=torch.contiguous_format, seed=0):
    """Values of several steps, among them ties, ends, infinities and NaN where there is room."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2
    flat = x.view(-1)
    special = torch.tensor([0.25, -0.25, 1.25, -2.25, 1.75, -1.75, math.inf, -math.inf, math.nan, 0.0])
    flat[: min(len(flat) // 2, len(special))] = special[: len(flat) // 2]
    return x.to(dtype).to(memory_format=layout) if x.ndim == 4 else x.to(dtype)


def both(monkeypatch, operation, x, gradient, step):
    """Result, gradient of values and of the step: of the native pass, then of torch."""
    found = []
    for native in (True, False):
        with monkeypatch.context() as patch:
            if not native:
                patch.setattr(rounding_gradient, "fusable", lambda *_: False)
            own, own_step = x.clone().requires_grad_(), step.clone().requires_grad_()
            result = operation(own, own_step)
            result.backward(gradient)
            found.append((result.detach(), own.grad, own_step.grad))
    return found


def same(a, b):
    return torch.equal(torch.nan_to_num(a, nan=123.0), torch.nan_to_num(b, nan=123.0))


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_values_and_their_gradients_are_those_of_torch_to_the_last_bit(monkeypatch, dtype, shape, bits):
    layouts = [torch.contiguous_format, torch.channels_last] if len(shape) == 4 else [torch.contiguous_format]
    for layout in layouts:
        x, gradient = values(shape, dtype, layout=layout), values(shape, dtype, seed=1).nan_to_num(1.0, 1.0, 1.0)
        for operation in (
            lambda v, s: fake_quantize(v, s, torch.tensor(1), QType(bits, signed=False)),
            lambda v, s: fake_quantize(v, s, 0, QType(bits, signed=True)),
            lambda v, s: round_to_grid(v, s),
        ):
            native, torchs = both(monkeypatch, operation, x, gradient, torch.tensor([0.5]))
            assert same(native[0], torchs[0])
            known = ~x.isnan()  # What torch makes of NaN depends on its place in a vector.
            assert torch.equal(native[1][known], torchs[1][known])
            assert native[0].stride() == torchs[0].stride()


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_gradient_of_the_step_is_the_sum_of_its_parts_in_float64(dtype, shape):
    x, gradient = (values(shape, dtype, seed=s).nan_to_num(0.3, 2.0, -2.0) for s in (2, 3))
    step = torch.tensor(0.37, requires_grad=True)
    result = fake_quantize(x, step, 0, QType(3, signed=True), gradient_scale=0.1)
    result.backward(gradient)
    wide, high, low = x.double(), 3.5 * step.detach(), -4.5 * step.detach()
    inside = (wide >= low) & (wide < high)
    parts = gradient.double() * (result.detach().double() - torch.where(inside, wide, 0.0))
    # Every part is a difference of float32, and the sum has at most 1e3 of them.
    bound = 1e-6 * float(parts.abs().sum()) + 1e-7
    assert abs(float(step.grad) - float(parts.sum()) / 0.37 * 0.1) <= bound


@needs_native
def test_a_gradient_that_lies_otherwise_is_read_in_the_order_of_the_values(monkeypatch):
    x = values((2, 16, 3, 5), torch.float32, layout=torch.channels_last)
    gradient = values((2, 16, 3, 5), torch.float32, seed=4).nan_to_num(1.0, 1.0, 1.0)
    operation = lambda v, s: fake_quantize(v, s, 0, QType(4, signed=True))  # noqa: E731
    native, torchs = both(monkeypatch, operation, x, gradient, torch.tensor(0.5))
    assert torch.equal(native[1][~x.isnan()], torchs[1][~x.isnan()])
    expanded = torch.tensor(2.0).expand(2, 16, 3, 5)
    native, torchs = both(monkeypatch, operation, x, expanded, torch.tensor(0.5))
    assert torch.equal(native[1][~x.isnan()], torchs[1][~x.isnan()])


@needs_native
@pytest.mark.parametrize(
    ("x", "step", "low"),
    [
        (torch.ones(4, dtype=torch.float64), torch.ones(()), -1.0),
        (torch.ones(4, dtype=torch.float16), torch.ones(()), -1.0),
        (torch.ones(4), torch.ones((), dtype=torch.float64), -1.0),
        (torch.ones(4), torch.ones(4), -1.0),
        (torch.ones(4), torch.ones(()), torch.zeros(4)),
        (torch.ones(4, 6)[:, ::2], torch.ones(()), -1.0),
    ],
    ids=["float64", "float16", "wide step", "steps", "ends", "gaps"],
)
def test_other_values_are_left_to_torch(x, step, low):
    assert fused_rounding.fusable(torch.ones(4), torch.ones(1), -1.0, torch.ones(()))
    assert not fused_rounding.fusable(x, step, low, 1.0)


def test_without_a_native_module_torch_does_it(monkeypatch):
    monkeypatch.setattr(fused_rounding, "native_module", lambda: None)
    assert not fused_rounding.fusable(torch.ones(4), torch.ones(1), -1.0, 1.0)
    assert round_to_grid(torch.tensor([0.75]), torch.tensor(0.5)).tolist() == [1.0]


def test_ends_of_16_bit_codes_are_exact_in_half_precision():
    x = torch.full((4,), 1e9).bfloat16()
    result = fake_quantize(x, torch.tensor(2.0**-15), torch.tensor(3), QType(16, signed=False))
    assert result.float().tolist() == [float(torch.tensor((65535 - 3) * 2.0**-15).bfloat16())] * 4


@needs_native
def test_the_native_pass_refuses_arrays_of_different_lengths():
    a, b = torch.zeros(4).numpy(), torch.zeros(5).numpy()
    with pytest.raises(ValueError, match="not as many"):
        native_module().round_values(a, b, 1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="not as many"):
        native_module().round_gradients(a, a, a, b, 0.0, 1.0)
