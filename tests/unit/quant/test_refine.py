"""Ranges refined by the outputs: never worse, still powers of two, and the module is left as it was."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name

from dyadiq.core.errors import ConfigError, DataError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.format import Format
from dyadiq.core.plan import uniform_plan
from dyadiq.cost.facts import network_facts
from dyadiq.ir.passes import canonicalize
from dyadiq.quant.fake_quant import ActivationQuantizer
from dyadiq.quant.quantize import quantize
from dyadiq.quant.refine import refine_ranges_
from trainable import MODELS, captured, samples_of


def quantized(name="perceptron", scale="pow2", bits=3):
    model, graph = captured(name)
    config = QuantConfig(
        Format(8, signed=True, narrow=True, scale=scale), Format(8, scale=scale, range_method="minmax"), input_bits=4
    )
    plan = uniform_plan(network_facts(canonicalize(graph), config), 8, bits)
    return quantize(graph, plan, [samples_of(model, 64)], config=config)


def divergence(qmod, x):
    qmod.eval()
    with torch.no_grad():
        wanted = qmod.set_mode_("float")(x).double().log_softmax(1)
        got = qmod.set_mode_("fake")(x).double().log_softmax(1)
    return float(F.kl_div(got, wanted, reduction="sum", log_target=True))


def scales(qmod):
    found = {n: q for n, q in qmod.quantizers_by_name().items() if isinstance(q, ActivationQuantizer)}
    return {n: float(q.scale) for n, q in found.items()}


def test_divergence_falls_and_scales_stay_powers_of_two():
    qmod, x = quantized(), samples_of(MODELS["perceptron"], 64)
    x[0] *= 20  # an outlier, that a range of all values wastes codes on
    qmod = quantize(qmod.graph, qmod.plan, [x], config=qmod.config)
    before, start = divergence(qmod, x), scales(qmod)
    factors = refine_ranges_(qmod, [x[:40], x[40:]])
    assert divergence(qmod, x) < before
    assert any(factor != 1 for factor in factors.values())
    assert scales(qmod) == {name: start[name] * factors[name] for name in start}
    assert all(np.frexp(scale)[0] == 0.5 for scale in scales(qmod).values())


def test_mode_and_training_are_left_as_they_were():
    qmod, x = quantized("features"), samples_of(MODELS["features"], 16)
    qmod.set_mode_("exact").train()
    refine_ranges_(qmod, [(x, torch.zeros(16))], factors=(0.5,), sweeps=1)
    assert (qmod.mode, qmod.training) == ("exact", True)


def test_nothing_changes_when_no_factor_is_better():
    qmod, x = quantized(bits=16), samples_of(MODELS["perceptron"], 64)
    before = scales(qmod)
    factors = refine_ranges_(qmod, [x], factors=(2.0**-14,))
    assert set(factors.values()) == {1.0}
    assert scales(qmod) == before


@pytest.mark.parametrize(("output_bits", "smaller"), [(16, False), (8, True)])
def test_headroom_of_answers_stays_and_other_ranges_of_outputs_may_fall(output_bits, smaller):
    model, graph = captured("perceptron")
    config = QuantConfig(Format(8, signed=True, narrow=True), Format(8, range_method="minmax"), output_bits=output_bits)
    x = samples_of(model, 64)
    qmod = quantize(graph, uniform_plan(network_facts(canonicalize(graph), config), 8, 8), [x], config=config)
    (name,) = qmod.sites.outputs
    if smaller:
        qmod.quantizers_by_name()[name].scale.mul_(8)  # far more range than anything needs
    before = scales(qmod)[name]
    factor = refine_ranges_(qmod, [x])[name]
    assert (factor < 1) == smaller
    assert scales(qmod)[name] == before * factor


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf"), 0.75])
def test_factor_is_refused_when_it_is_no_power_of_two(factor):
    with pytest.raises(ConfigError, match="refine: factors must be powers of two, as the scales are; got"):
        refine_ranges_(quantized(), [samples_of(MODELS["perceptron"], 4)], factors=(0.5, factor))


def test_any_positive_factor_is_taken_when_scales_are_real_numbers():
    qmod, x = quantized(scale="float"), samples_of(MODELS["perceptron"], 8)
    assert set(refine_ranges_(qmod, [x], factors=(0.75,), sweeps=1).values()) <= {0.75, 1.0}
    with pytest.raises(ConfigError, match="refine: factors must be positive; got"):
        refine_ranges_(qmod, [x], factors=(0.0,))


def test_missing_batches_are_refused():
    with pytest.raises(DataError, match="no batches: got an empty iterable"):
        refine_ranges_(quantized(), [])
