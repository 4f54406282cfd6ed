"""Grids of input channels: fake, exact and reference agree; bits that do not pay are dropped."""

import numpy as np
import pytest
import torch

from dyadiq.core.channel_grid import ChannelGrid
from dyadiq.core.errors import QuantError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.format import Format
from dyadiq.core.plan import uniform_plan
from dyadiq.core.qtype import QType
from dyadiq.cost.facts import network_facts
from dyadiq.ir.passes import canonicalize
from dyadiq.ir.reference import run_reference
from dyadiq.quant.grids import _window, refine_grids_
from dyadiq.quant.lower import lower
from dyadiq.quant.quantize import quantize
from dyadiq.quant.store import load_quant_module, save_quant_module
from trainable import captured, samples_of


def quantized(name="perceptron", scheme="symmetric", input_bits=8):
    model, graph = captured(name)
    config = QuantConfig(
        Format(8, signed=True, narrow=True, scale="pow2"), Format(8, scheme=scheme, scale="pow2"), input_bits=input_bits
    )
    plan = uniform_plan(network_facts(canonicalize(graph), config), 8, 6)
    x = samples_of(model, 64)
    return quantize(graph, plan, [x], config=config), x


def some_grid(quantizer, n_channels, seed=0):
    rng = np.random.default_rng(seed)
    shift = rng.integers(0, 4, n_channels)
    low, high = (edge // 2**shift for edge in (-60, 40))
    grid = ChannelGrid(shift, low, high)
    quantizer.set_grid_(grid)
    return grid


@pytest.mark.parametrize("name", ["perceptron", "features"])
def test_fake_exact_and_reference_agree(name, tmp_path):
    qmod, x = quantized(name)
    qmod.eval().double()
    quantizer = qmod.quantizers_by_name()[qmod.graph.inputs[0]]
    grid = some_grid(quantizer, x.shape[1])
    program = lower(qmod)
    assert program.spec_version == 2
    (expected,) = run_reference(program, x.numpy()).values()
    assert np.array_equal(qmod.set_mode_("exact")(x).numpy(), expected)
    codes = grid.quantize(x.double().numpy(), float(quantizer.scale))
    assert np.array_equal(quantizer(x.double()).detach().numpy(), codes * float(quantizer.scale))
    save_quant_module(tmp_path / "q", qmod)
    back = load_quant_module(tmp_path / "q")
    assert back.quantizers_by_name()[qmod.graph.inputs[0]].channel_grid().same_as(grid)
    assert np.array_equal(back(x).numpy(), expected)


def test_state_decides_whether_there_are_grids():
    with_grid, x = quantized()
    name = with_grid.graph.inputs[0]
    grid = some_grid(with_grid.quantizers_by_name()[name], x.shape[1])
    plain, _ = quantized()
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    plain.load_state_dict(with_grid.state_dict())
    assert plain.quantizers_by_name()[name].channel_grid().same_as(grid)
    plain.load_state_dict(before)
    assert plain.quantizers_by_name()[name].channel_grid() is None


def test_search_drops_bits_that_do_not_pay_and_keeps_those_that_do():
    qmod, x = quantized()
    name = qmod.graph.inputs[0]
    n_channels = x.shape[1]
    qmod.set_mode_("exact").train()
    free = refine_grids_(qmod, x, {name: np.zeros(n_channels)})[name]
    assert (free.bits() == 8).all()
    price = np.full(n_channels, 1e-4)
    price[0] = 1e6
    paid = refine_grids_(qmod, x, {name: price}, sweeps=20)[name]
    assert paid.bits()[0] == 1
    assert 1 < paid.bits()[1:].mean() < 8
    assert (qmod.mode, qmod.training) == ("exact", True)
    assert qmod.quantizers_by_name()[name].channel_grid().same_as(paid)
    again = refine_grids_(qmod, x, {name: np.where(price > 1, 0, price)}, sweeps=20)[name]
    assert again.bits()[0] > 1  # bits come back where they pay


def test_windows_have_the_least_squared_error_of_all():
    rng = np.random.default_rng(1)
    x, qtype = rng.gamma(2.0, 8.0, 500) - 5, QType.parse("int8")
    for shift, bits in ((0, 4), (2, 3), (3, 1), (0, 8)):
        step, count = 2**shift, 2**bits
        steps = np.floor(x / step + 0.5)
        least, most = -(128 // step), 127 // step
        errors = {
            low: float(((np.clip(steps, low, low + count - 1) - np.clip(steps, least, most)) ** 2).sum())
            for low in range(least, most - count + 2)
        }
        low, high = _window(x, 1.0, shift, bits, qtype)
        assert high - low + 1 == count
        assert errors[low] == min(errors.values())
    assert _window(x, 1.0, 1, 8, qtype) is None


def test_grids_are_refused_where_0_has_another_code():
    qmod, x = quantized(scheme="asymmetric")
    quantizer = qmod.quantizers_by_name()[qmod.graph.inputs[0]]
    assert int(quantizer.zero_point) != 0
    with pytest.raises(QuantError, match=r"where 0 is the code of 0.0, got .* with zero point"):
        some_grid(quantizer, x.shape[1])


def test_grids_of_another_number_of_channels_are_refused_in_lowering():
    qmod, x = quantized()
    some_grid(qmod.quantizers_by_name()[qmod.graph.inputs[0]], x.shape[1] + 1)
    with pytest.raises(QuantError, match=r"channel grid: .* do not fit"):
        lower(qmod)


def test_learned_scales_get_gradients_through_grids():
    qmod, x = quantized()
    quantizer = qmod.quantizers_by_name()[qmod.graph.inputs[0]]
    some_grid(quantizer, x.shape[1])
    qmod.set_mode_("fake")(x).square().sum().backward()
    assert torch.isfinite(quantizer.log2_gain.grad).all()
    assert float(quantizer.log2_gain.grad.abs().sum()) > 0
