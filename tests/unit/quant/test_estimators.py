"""Training estimators: gradients against the papers, and the integers of what was trained."""

import copy

import numpy as np
import pytest
import torch

from dyadiq.core.affine import fit_range
from dyadiq.core.errors import UnknownNameError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.format import Format
from dyadiq.core.plan import uniform_plan
from dyadiq.cost.facts import network_facts
from dyadiq.ir.passes import canonicalize
from dyadiq.ir.reference import run_reference
from dyadiq.quant.estimators import ESTIMATORS, find_estimator
from dyadiq.quant.estimators.dorefa import bounded_weight
from dyadiq.quant.estimators.lsq import LsqActivationQuantizer, LsqWeightQuantizer
from dyadiq.quant.estimators.lsq_plus import LsqPlusActivationQuantizer
from dyadiq.quant.estimators.pact import PactActivationQuantizer
from dyadiq.quant.lower import lower
from dyadiq.quant.quantize import quantize
from dyadiq.quant.store import load_quant_module, save_quant_module
from trainable import captured, samples_of


def values(n=400, seed=0, shift=0.0):
    return torch.randn(4, n // 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + shift


def module_of(name="residual", *, scheme="symmetric", scale="float", **options):
    model, graph = captured(name)
    config = QuantConfig(
        weight=Format(8, signed=True, granularity="channel", scale=scale),
        activation=Format(8, scheme=scheme, scale=scale),
    )
    plan = uniform_plan(network_facts(canonicalize(graph), config), 3, 4)
    return model, quantize(graph, plan, [samples_of(model, 64)], config=config, **options)


def train_(module, model, steps=6, rate=0.02):
    """Some steps of plain gradient descent on random targets, in float32."""
    x, y = samples_of(model, 32, seed=1), torch.arange(32) % 3
    optimizer = torch.optim.SGD(module.parameters(), lr=rate)
    module.train()
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    return module.eval()


def same_programs(a, b):
    a, b = a.graph, b.graph
    return a.nodes == b.nodes and all(np.array_equal(a.params[name], b.params[name]) for name in a.params | b.params)


# -- every estimator ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_integers_are_those_trained_whatever_the_estimator(name, scheme):
    model, module = module_of(scheme=scheme)
    before = copy.deepcopy(module.state_dict())
    train_(module.set_estimator_(name), model)
    x = samples_of(model, 20, seed=2)
    program = lower(module)
    truth = run_reference(program, x.numpy().astype(np.float64))["fc"]
    assert np.array_equal(module.set_mode_("exact")(x).numpy(), truth)
    # Nothing moves when its estimator goes: what was learned is written back.
    assert same_programs(program, lower(module.set_estimator_("log_lsq")))
    assert module.state_dict().keys() == before.keys()
    assert not all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("name", ESTIMATORS)
def test_fake_values_are_the_integers_times_their_scale_when_in_float64(name):
    model, module = module_of()
    train_(module.set_estimator_(name), model)
    module = module.double()
    x = samples_of(model, 20, seed=2).double()
    codes = module.set_mode_("exact")(x).double()
    scale = module.activation_quants()["fc"].scale
    # The program's ratios are dyadic numbers of 16 bits: a step of the output, now and then one of hidden codes.
    assert ((module.set_mode_("fake")(x) / scale - codes).abs() < 1.5).double().mean() > 0.9


@pytest.mark.parametrize("name", ESTIMATORS)
def test_nothing_changes_when_an_estimator_is_set_but_the_transform_of_weights(name):
    model, module = module_of()
    plain, x = lower(module), samples_of(model, 20)
    fake = module(x)
    same = same_programs(plain, lower(module.set_estimator_(name)))
    assert same == (find_estimator(name).transform is None)
    if same:
        assert torch.equal(module(x), fake)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_stored_module_is_the_same_when_its_estimator_is_another(name, tmp_path):
    model, module = module_of(scheme="asymmetric")
    train_(module.set_estimator_(name), model)
    save_quant_module(tmp_path / "m", module)
    again = load_quant_module(tmp_path / "m")
    assert again.estimator is module.estimator
    assert same_programs(lower(again), lower(module))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_nothing_is_learned_of_ranges_when_scales_are_fixed(name):
    _, module = module_of(learn_scales=False)
    module.set_estimator_(name)
    assert not [n for n, _ in module.named_parameters() if n.startswith("quantizers.")]


def test_limits_of_digits_and_switches_stay_when_an_estimator_is_set():
    _, module = module_of()
    quantizer = module.weight_quantizers()["fc.weight"]
    quantizer.limit_digits_(torch.ones(3, 6)).enabled = False
    module.set_estimator_("lsq")
    quantizer = module.weight_quantizers()["fc.weight"]
    assert isinstance(quantizer, LsqWeightQuantizer)
    assert torch.equal(quantizer.max_digits, torch.ones(3, 6, dtype=torch.int8))
    assert not quantizer.enabled


def test_unknown_estimator_is_refused_with_near_names():
    with pytest.raises(UnknownNameError, match=r"estimator.*'lsq\+\+'.*lsq\+"):
        module_of()[1].set_estimator_("lsq++")


# -- LSQ ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weight", "activation"])
def test_lsq_gradient_of_the_step_is_that_of_the_paper(name):
    v = values()
    params = fit_range(-1.5, 1.5, Format(3), nonnegative=False)
    kind = LsqWeightQuantizer if name == "weight" else LsqActivationQuantizer
    quantizer = kind(params, learn_scale=True).double()
    upstream = values(seed=1)
    quantizer(v).backward(upstream)
    s, qn, qp = float(quantizer.step.detach()), 4, 3
    ratio = v / s
    # Equation (3): -v/s + round(v/s) inside, -Q_N and Q_P outside; section 2.2: g = 1 / sqrt(N Q_P).
    slope = torch.where(ratio <= -qn - 0.5, -qn, torch.where(ratio >= qp + 0.5, qp, torch.floor(ratio + 0.5) - ratio))
    n = v.numel() if name == "weight" else v[0].numel()
    assert float(quantizer.step.grad) == pytest.approx(float((upstream * slope).sum()) / (n * qp) ** 0.5, rel=1e-9)


def test_lsq_gradient_is_the_slope_of_the_clipped_part():
    """Where everything is clipped, the result is linear in the step: finite differences see the gradient."""
    v = values().abs() + 5
    quantizer = LsqActivationQuantizer(fit_range(0.0, 1.0, Format(3), nonnegative=True), learn_scale=True).double()
    quantizer(v).sum().backward()
    step, got = quantizer.step.detach().clone(), float(quantizer.step.grad)
    sums = []
    for change in (-1e-4, 1e-4):
        with torch.no_grad():
            quantizer.step.copy_(step + change)
            sums.append(float(quantizer(v).sum()))
    assert got * (v[0].numel() * 7) ** 0.5 == pytest.approx((sums[1] - sums[0]) / 2e-4, rel=1e-6)


def test_step_stays_positive_and_a_power_of_two_where_asked():
    quantizer = LsqWeightQuantizer(fit_range(-1.0, 1.0, Format(4), nonnegative=False), learn_scale=True)
    with torch.no_grad():
        quantizer.step.fill_(-3.0)
    assert quantizer.current_scale().item() == float(quantizer.scale) / 1024
    pow2 = LsqWeightQuantizer(fit_range(-1.0, 1.0, Format(4, scale="pow2"), nonnegative=False), learn_scale=True)
    with torch.no_grad():
        pow2.step.fill_(0.3)
    assert pow2.current_scale().item() == 0.25
    pow2.current_scale().sum().backward()
    assert float(pow2.step.grad) == 1.0


# -- LSQ+ --------------------------------------------------------------------------------------------


def test_lsq_plus_gradients_are_those_of_the_paper():
    x, upstream = values(shift=0.4), values(seed=1)
    quantizer = LsqPlusActivationQuantizer(
        fit_range(-0.7, 1.3, Format(3, scheme="asymmetric"), nonnegative=False), learn_scale=True
    ).double()
    x.requires_grad_()
    quantizer(x).backward(upstream)
    s, zero_point = float(quantizer.step.detach()), int(quantizer.current_zero_point())
    ratio = x.detach() / s + zero_point  # (x - beta) / s
    code = torch.floor(ratio + 0.5)
    inside = (code >= 0) & (code <= 7)
    share = 1 / (x[0].numel() * 7) ** 0.5
    slope = torch.where(inside, code - ratio, code.clamp(0, 7))  # equation (5)
    assert float(quantizer.step.grad) == pytest.approx(float((upstream * slope).sum()) * share, rel=1e-9)
    assert float(quantizer.offset.grad) == pytest.approx(float((upstream * ~inside).sum()) * share, rel=1e-9)  # (6)
    assert torch.equal(x.grad, upstream * inside)


def test_lsq_plus_offset_moves_the_zero_point_which_stays_a_code():
    quantizer = LsqPlusActivationQuantizer(
        fit_range(-1.0, 1.0, Format(4, scheme="asymmetric"), nonnegative=False), learn_scale=True
    )
    scale = quantizer.current_scale().item()
    for offset, expected in ((-3.2 * scale, 3), (-99.0, 15), (99.0, 0)):
        with torch.no_grad():
            quantizer.offset.fill_(offset)
        assert int(quantizer.current_zero_point()) == int(quantizer.affine_params().zero_point[0]) == expected
        assert quantizer(torch.zeros(1, 1)).tolist() == [[0.0]]


def test_lsq_plus_learns_an_offset_that_calibration_missed():
    x = torch.rand(1, 500, generator=torch.Generator().manual_seed(3)) + 1.0
    params = fit_range(-3.0, 1.0, Format(4, scheme="asymmetric"), nonnegative=False)
    quantizer = LsqPlusActivationQuantizer(params, learn_scale=True)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.02)
    errors = []
    for _ in range(150):
        optimizer.zero_grad()
        error = ((quantizer(x) - x) ** 2).mean()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < errors[0] / 10
    assert int(quantizer.current_zero_point()) < int(quantizer.zero_point)


def test_lsq_plus_has_no_offset_when_symmetric():
    quantizer = LsqPlusActivationQuantizer(fit_range(0.0, 1.0, Format(4), nonnegative=True), learn_scale=True)
    assert [name for name, _ in quantizer.named_parameters()] == ["step"]


# -- PACT --------------------------------------------------------------------------------------------


def test_pact_gradients_are_those_of_the_paper():
    x, upstream = values(), values(seed=1)
    quantizer = PactActivationQuantizer(fit_range(0.0, 1.2, Format(4), nonnegative=True), learn_scale=True).double()
    x.requires_grad_()
    result = quantizer(x)
    result.backward(upstream)
    alpha = float(quantizer.alpha.detach())
    assert result.max().item() == pytest.approx(alpha)
    # Equation (3): 0 below alpha, 1 from alpha on.
    assert float(quantizer.alpha.grad) == pytest.approx(float(upstream[x >= alpha].sum()), rel=1e-9)
    assert torch.equal(x.grad, upstream * ((x >= 0) & (x < alpha)))
    expected = torch.floor(x.detach().clamp(0, alpha) * 15 / alpha + 0.5) * alpha / 15  # equation (2)
    assert torch.allclose(result, expected)


def test_pact_clips_both_ends_when_signed():
    x = torch.tensor([[-9.0, -0.1, 9.0, 9.0]])
    quantizer = PactActivationQuantizer(
        fit_range(-1.0, 1.0, Format(3, narrow=True), nonnegative=False), learn_scale=True
    )
    quantizer(x).sum().backward()
    assert float(quantizer.alpha.grad) == pytest.approx(1.0)  # Two at the upper end, one at the lower.


def test_pact_penalty_covers_every_clipping_value():
    _, module = module_of()
    module.set_estimator_("pact")
    ranges = module.estimator.penalized(module.quantizers_by_name().values())
    assert len(ranges) == len(module.quantizers_by_name()) - len(module.weight_quantizers())
    assert find_estimator("lsq").penalized(module.quantizers_by_name().values()) == []


# -- DoReFa ------------------------------------------------------------------------------------------


def test_dorefa_transform_is_that_of_the_paper_at_the_size_of_the_weights():
    w = values()
    paper = torch.tanh(w) / torch.tanh(w).abs().max()  # equation (9), before quantization, in [-1, 1]
    assert torch.allclose(bounded_weight(w), paper * w.abs().max())
    assert torch.equal(bounded_weight(torch.zeros(3)), torch.zeros(3))


def test_dorefa_gradient_agrees_with_finite_differences():
    w = values(40).requires_grad_()
    assert torch.autograd.gradcheck(bounded_weight, (w,))


def test_dorefa_weights_are_quantized_after_the_transform():
    _, module = module_of()
    module.set_estimator_("dorefa")
    raw = dict(module.named_parameters())["fc.weight"].detach().numpy()
    quant = module.weight_quants()["fc.weight"]
    bounded = bounded_weight(torch.tensor(raw)).double().numpy()
    expected = np.clip(np.floor(bounded / quant.scale[:, None] + 0.5), quant.qtype.qmin, quant.qtype.qmax)
    assert np.array_equal(quant.codes, expected)
