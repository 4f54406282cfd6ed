"""Codes chosen once more by the loss: never worse, within their limits, equal to a slow search, and resumed alike."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from tests.graphs import mlp
from tests.unit.train.test_sparsify import CONFIG, FEW, labelled, needs_da4ml, quantized, same

from dyadiq.core.errors import ConfigError, QuantError
from dyadiq.core.signed_digits import count_digits
from dyadiq.fpga.estimate import estimate_hardware
from dyadiq.ir.integer import effective_weight
from dyadiq.quant.lower import lower
from dyadiq.train import finetune
from dyadiq.train.polish import exchange_digits_, nearest_others, polish_codes_
from dyadiq.train.sparsify_config import SparsifyConfig
from trainable import captured

DIGITS = SparsifyConfig(digits_per_weight=0.6, **FEW)


def loss_of(qmod, split):
    qmod.eval()
    with torch.no_grad():
        return float(F.cross_entropy(qmod.set_mode_("fake")(torch.tensor(split.x)), torch.tensor(split.y)))


def codes_of(qmod):
    graph = lower(qmod).graph
    return [effective_weight(graph, n) for n in graph.nodes if n.op in ("linear", "conv2d")]


@pytest.mark.parametrize("name", ["mlp", "perceptron", "features", "residual"])
def test_loss_falls_within_the_limits_and_is_the_modules_own(name):
    graph = mlp((8, 12, 4)) if name == "mlp" else captured(name)[1]
    qmod, split = quantized(graph), labelled(96, graph=graph)
    finetune(qmod, split, epochs=3, config=CONFIG, sparsify=DIGITS)
    limits = {key: q.max_digits.clone() for key, q in qmod.weight_quantizers().items()}
    before, codes = loss_of(qmod, split), codes_of(qmod)
    qmod.set_mode_("exact").train()
    found = polish_codes_(qmod, split, n_samples=1000)
    assert (qmod.mode, qmod.training) == ("exact", True)
    assert found.loss_before == pytest.approx(before, abs=1e-6)
    assert found.loss_after == pytest.approx(loss_of(qmod, split), abs=1e-6)
    assert found.loss_after < found.loss_before
    assert 0 < found.n_kept < found.n_tried
    for key, quantizer in qmod.weight_quantizers().items():
        assert torch.equal(quantizer.max_digits, limits[key])
    for old, new in zip(codes, codes_of(qmod), strict=True):
        assert ((old == 0) == (new == 0)).all()  # nothing is pruned or comes back


def test_search_equals_a_slow_one_that_runs_the_whole_module():
    """The very same candidates in the same order, each measured by the integer program's weights written one by one."""
    graph = mlp((5, 4))
    split = labelled(64, graph=graph)
    fast, slow = quantized(graph), quantized(graph)
    finetune(fast, split, epochs=3, config=CONFIG, sparsify=DIGITS)
    slow.load_state_dict(fast.state_dict())
    polish_codes_(fast, split)
    (quantizer,), (weight, _) = slow.weight_quantizers().values(), slow.model_tensors().values()
    codes, scale = codes_of(slow)[0].copy(), float(quantizer.scale)
    weight.data.copy_(torch.tensor(codes * scale))
    best = loss_of(slow, split)
    for place in np.argwhere(codes):
        at = tuple(place)
        allowed = [code for code in range(-127, 128) if count_digits(code) <= int(quantizer.max_digits[at])]
        for code in nearest_others(np.array(allowed), int(codes[at])):
            weight.data[at] = code * scale
            if loss_of(slow, split) < best - 2e-5:
                codes[at], best = code, loss_of(slow, split)
                break
            weight.data[at] = codes[at] * scale
    assert np.array_equal(codes_of(fast)[0], codes)


def testnearest_others_codes_are_of_the_same_sign_and_not_0():
    grid = np.array([-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 8.0])
    assert nearest_others(grid, 2) == [1, 4, 8]
    assert nearest_others(grid, -1) == [-2, -4]


def test_finetune_polishes_when_it_is_asked_to_and_says_so():
    asked = SparsifyConfig(digits_per_weight=0.6, polish_samples=64, **FEW)
    plain, polished = quantized(), quantized()
    before = finetune(plain, labelled(), config=CONFIG, validation=labelled(60, 1), sparsify=DIGITS)
    after = finetune(polished, labelled(), config=CONFIG, validation=labelled(60, 1), sparsify=asked)
    assert before.polished is None
    assert after.polished["loss_after"] <= after.polished["loss_before"]
    assert (after.history, after.best_epoch) == (before.history, before.best_epoch)
    assert not same(plain, polished)
    again = quantized()
    finetune(again, labelled(), config=CONFIG, validation=labelled(60, 1), sparsify=asked)
    assert same(again, polished)


def test_without_limits_and_with_negative_samples_it_is_refused():
    with pytest.raises(QuantError, match="no limits of signed digits, so there are no codes to choose among"):
        polish_codes_(quantized(), labelled())
    with pytest.raises(ConfigError, match="polish_samples must not be negative, got -1"):
        SparsifyConfig(lut=9, polish_samples=-1)


def ones(_name, shape):
    return np.ones(shape)


@pytest.mark.parametrize("spare", [0.0, 6.0])
@pytest.mark.parametrize("name", ["mlp", "perceptron"])
def test_exchanged_digits_cost_no_more_than_is_spare_and_the_loss_falls(name, spare):
    graph = mlp((8, 12, 4)) if name == "mlp" else captured(name)[1]
    qmod, split = quantized(graph), labelled(96, graph=graph)
    finetune(qmod, split, epochs=3, config=CONFIG, sparsify=DIGITS)
    polish_codes_(qmod, split)
    for quantizer, codes in zip(qmod.weight_quantizers().values(), qmod.weight_quants().values(), strict=True):
        quantizer.limit_digits_(torch.tensor(count_digits(codes.codes)))
    before, codes = sum(count_digits(w).sum() for w in codes_of(qmod)), codes_of(qmod)
    found = exchange_digits_(qmod, split, ones, spare)
    assert found.loss_after == pytest.approx(loss_of(qmod, split), abs=1e-6)
    assert found.loss_after < found.loss_before
    assert sum(count_digits(w).sum() for w in codes_of(qmod)) <= before + spare
    assert any(((old == 0) & (new != 0)).any() for old, new in zip(codes, codes_of(qmod), strict=True))


@needs_da4ml
def test_finetune_spends_what_is_left_of_a_budget_of_luts():
    lut = int(estimate_hardware(lower(quantized())).lut * 0.3)
    few = SparsifyConfig(lut=lut, polish_samples=64, **FEW)
    more = SparsifyConfig(lut=lut, polish_samples=64, exchanges=2, **FEW)
    losses = []
    for sparsify in (few, more):
        qmod = quantized()
        losses.append(finetune(qmod, labelled(), config=CONFIG, sparsify=sparsify).polished["loss_after"])
        assert estimate_hardware(lower(qmod)).lut <= lut * 1.1
    assert losses[1] < losses[0]
    with pytest.raises(ConfigError, match="exchanges are chosen by samples, so they need polish_samples"):
        SparsifyConfig(lut=9, exchanges=1)
