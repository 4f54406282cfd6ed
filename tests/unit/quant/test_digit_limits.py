"""Weights limited in their signed digits: refused where 0 is no code, exact everywhere else, and they stay limited."""

import copy

import numpy as np
import pytest
import torch

from dyadiq.core.affine import fit_affine
from dyadiq.core.errors import ArtifactError, QuantError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.format import Format
from dyadiq.core.plan import uniform_plan
from dyadiq.core.signed_digits import count_digits
from dyadiq.cost.facts import network_facts
from dyadiq.ir.integer import effective_weight
from dyadiq.ir.passes import canonicalize
from dyadiq.ir.reference import run_reference
from dyadiq.quant.fake_quant import WeightQuantizer
from dyadiq.quant.lower import lower
from dyadiq.quant.quantize import quantize
from dyadiq.quant.store import load_quant_module, save_quant_module
from trainable import MODELS, captured, samples_of

POW2 = QuantConfig(
    Format(8, signed=True, narrow=True, granularity="channel", scale="pow2"), Format(8, scale="pow2"), product_bits=24
)
CONFIGS = {"channel": QuantConfig(), "pow2": POW2, "snapped": QuantConfig(multiplier_bits=6, product_bits=24)}


def weight_quantizer(fmt, weight=None):
    weight = np.random.default_rng(0).normal(size=(2, 6)) if weight is None else weight
    return WeightQuantizer(fit_affine(weight, fmt), learn_scale=True)


def quantized(name="perceptron", config=POW2):
    model, graph = captured(name)
    plan = uniform_plan(network_facts(canonicalize(graph), config), 8, 5)
    return quantize(graph, plan, [samples_of(model, 16)], config=config).eval()


def limit(qmod, seed=0):
    """Give every weight a random limit of 0, 1 or 2 digits."""
    rng = np.random.default_rng(seed)
    weights = qmod.folded_graph().params
    for name, quantizer in qmod.weight_quantizers().items():
        quantizer.limit_digits_(torch.tensor(rng.integers(0, 3, size=weights[name].shape)))
    return qmod


@pytest.mark.parametrize(
    ("fmt", "message"),
    [
        (Format(1, signed=True), r"got bipolar with zero points \[0\]\. Use scheme 'symmetric', bits >= 2 and"),
        (Format(4, "asymmetric"), r"symmetric codes without groups, got uint4 with zero points \[\d+\]\."),
        (Format(4, granularity="group", group_size=3), r"got int4 with zero points \[0\], in groups\."),
    ],
)
def test_format_is_refused_when_zero_is_not_its_code(fmt, message):
    quantizer = weight_quantizer(fmt)
    with pytest.raises(QuantError, match=message):
        quantizer.limit_digits_(torch.ones(2, 6))
    assert quantizer.limit_digits_(None).max_digits is None


def test_limits_that_make_no_sense_are_refused():
    quantizer = weight_quantizer(Format(4))
    with pytest.raises(QuantError, match=r"must be 0 \(pruned\) or more, got -1"):
        quantizer.limit_digits_(torch.tensor([[1, -1]]))
    quantizer.limit_digits_(torch.ones(2, 5))
    for call in (lambda: quantizer(torch.zeros(2, 6)), lambda: quantizer.codes(np.zeros((2, 6)), name="w")):
        with pytest.raises(QuantError, match=r"got shape \[2, 5\], expected that of the weight, \[2, 6\]"):
            call()


def test_generous_limits_change_nothing():
    weight = np.random.default_rng(1).normal(size=(2, 6))
    quantizer = weight_quantizer(Format(8, granularity="channel"), weight)
    free = quantizer.codes(weight, name="w")
    assert np.array_equal(quantizer.limit_digits_(torch.full((2, 6), 1000)).codes(weight, name="w"), free)


def test_unsigned_weights_can_be_limited():
    weight = np.abs(np.random.default_rng(2).normal(size=(2, 6)))
    quantizer = weight_quantizer(Format(6), weight)
    codes = quantizer.limit_digits_(torch.ones(2, 6)).codes(weight, name="w")
    assert not quantizer.qtype.signed
    assert set(codes.ravel().tolist()) <= {0, 1, 2, 4, 8, 16, 32}


def test_values_are_on_the_grid_to_the_last_bit_and_gradients_pass_everywhere():
    weight = (torch.randn(4, 50, generator=torch.Generator().manual_seed(0)) * 3).requires_grad_()
    quantizer = weight_quantizer(Format(5, scale="pow2"))
    quantizer.limit_digits_(torch.arange(200).reshape(4, 50) % 3)
    fake = quantizer(weight)
    fake.sum().backward()
    codes = quantizer.codes(weight.detach().double().numpy(), name="w")
    assert np.array_equal(fake.detach().numpy(), (codes * float(quantizer.scale)).astype(np.float32))
    assert bool((weight.grad == 1).all())  # pruned and clipped weights keep learning
    assert quantizer.log2_gain.grad is None


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("config", CONFIGS)
def test_program_of_a_limited_module_has_its_digits_and_its_integers(name, config):
    qmod = limit(quantized(name, CONFIGS[config])).double()
    program = lower(qmod)
    weights = {node.name: node.inputs[1] for node in canonicalize(qmod.graph).nodes if len(node.inputs) > 1}
    for node in program.graph.nodes:
        if node.op in ("conv2d", "linear"):
            weight = effective_weight(program.graph, node)
            assert (count_digits(weight) <= qmod.weight_quantizers()[weights[node.name]].max_digits.numpy()).all()
            assert bool((weight != 0).any())
    x = samples_of(MODELS[name], 16).double()
    integers = run_reference(program, x.numpy())
    assert np.array_equal(qmod.set_mode_("exact")(x).numpy(), integers[program.graph.outputs[0]])
    if config == "pow2":  # scales are powers of two, so the fake values are those integers times their scale
        wanted = program.dequantize(integers)[program.graph.outputs[0]]
        assert np.array_equal(qmod.set_mode_("fake")(x).detach().numpy(), wanted)


def test_exact_integers_follow_when_limits_change():
    qmod, x = quantized().set_mode_("exact"), samples_of(MODELS["perceptron"], 8)
    free = qmod(x)
    limited = limit(qmod)(x)
    assert not torch.equal(free, limited)
    for quantizer in qmod.weight_quantizers().values():
        quantizer.limit_digits_(None)
    assert torch.equal(qmod(x), free)


def test_limits_come_back_from_a_file_a_state_and_a_copy(tmp_path):
    qmod = limit(quantized("residual"))
    save_quant_module(tmp_path / "q", qmod)
    other = quantized("residual")
    other.load_state_dict(qmod.state_dict())
    x = samples_of(MODELS["residual"], 4)
    for back in (load_quant_module(tmp_path / "q"), other, copy.deepcopy(qmod)):
        assert list(back.state_dict()) == list(qmod.state_dict())
        assert torch.equal(back.set_mode_("exact")(x), qmod.set_mode_("exact")(x))
    free = quantized("residual")
    other.load_state_dict(free.state_dict())
    assert all(q.max_digits is None for q in other.weight_quantizers().values())


def test_float_weights_leave_the_limits_alone():
    qmod = limit(quantized())
    before = {n: q.max_digits.clone() for n, q in qmod.weight_quantizers().items()}
    qmod.load_float_state_dict_(captured("perceptron", seed=1)[0].state_dict())
    assert all(torch.equal(q.max_digits, before[n]) for n, q in qmod.weight_quantizers().items())


def test_file_is_refused_when_its_format_cannot_have_limits(tmp_path):
    qmod = quantized(config=QuantConfig(Format(8, signed=True, granularity="group", group_size=2)))
    qmod.weight_quantizers()["fc1.weight"].max_digits = torch.ones(12, 8, dtype=torch.int8)
    save_quant_module(tmp_path / "q", qmod)
    with pytest.raises(ArtifactError, match=r"does not describe a quantized module \(signed digits can be limited for"):
        load_quant_module(tmp_path / "q")
