"""Circuits trimmed by what they take: budgets kept, changes those of a slow search."""

import copy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from tests.graphs import mlp
from tests.unit.train.test_polish import codes_of, loss_of
from tests.unit.train.test_sparsify import CONFIG, FEW, labelled, limits_of, needs_da4ml, quantized, same

from dyadiq.core.errors import ConfigError, QuantError
from dyadiq.core.signed_digits import count_digits
from dyadiq.fpga.estimate import count_luts, estimate_hardware
from dyadiq.quant.lower import lower
from dyadiq.train import circuit, finetune
from dyadiq.train.circuit import trim_circuit_
from dyadiq.train.descent import descent_on
from dyadiq.train.sparsify_config import SparsifyConfig

pytestmark = needs_da4ml

SIZES = (5, 6, 3)  # small, as every trial counts a circuit
SMALL = mlp(SIZES)
DIGITS = SparsifyConfig(digits_per_weight=0.6, **FEW)


def counted(qmod):
    return count_luts(lower(qmod))


@cache
def trained(sizes):
    graph = mlp(sizes)
    qmod = quantized(graph)
    finetune(qmod, labelled(graph=graph), epochs=3, config=CONFIG, sparsify=DIGITS)
    return qmod


def sparse(sizes=SIZES):
    return copy.deepcopy(trained(sizes))


def trim(qmod, split, budget, **options):
    return trim_circuit_(qmod, split, lambda: counted(qmod), budget, **options)


def test_count_is_that_of_the_estimate():
    for sizes in (SIZES, (5, 4), (3, 7, 2)):
        program = lower(sparse(sizes))
        for depth in (1, 4):
            assert count_luts(program, depth) == estimate_hardware(program, depth).lut


def test_budget_is_kept_and_the_result_is_the_modules_own():
    qmod, split = sparse(), labelled(96, graph=SMALL)
    again = copy.deepcopy(qmod)
    qmod.set_mode_("exact").train()
    budget = int(counted(qmod) * 0.8)
    found = trim(qmod, split, budget, passes=2, n_samples=1000, seed=3)
    assert (qmod.mode, qmod.training) == ("exact", True)
    assert counted(qmod) <= budget
    assert found.loss_after == pytest.approx(loss_of(qmod, split), abs=1e-6)
    assert 0 < found.n_kept < found.n_tried
    for limits, codes in zip(limits_of(qmod).values(), codes_of(qmod), strict=True):
        assert np.array_equal(limits, count_digits(codes))
    trim(again, split, budget, passes=2, n_samples=1000, seed=3)
    assert same(qmod, again)


@pytest.mark.parametrize("price", [1e-5, 1e-3])
def test_every_weight_is_given_the_best_of_its_candidates(price):
    """One after the other, against a search that writes each candidate into a copy and counts and runs that."""
    qmod, split = sparse((5, 4)), labelled(64, graph=mlp((5, 4)))
    before = counted(qmod)
    with torch.no_grad(), descent_on(qmod, split, 1000, 0) as descent:
        search = circuit._Pass(descent, lambda: counted(qmod), 10 * before, price, before)
        ((start, layer),) = descent.layers().items()
        total = descent.loss + price * before
        for place in map(tuple, np.argwhere(descent.codes(layer))):
            copied, sums = copy.deepcopy(qmod), []
            old = int(descent.codes(layer)[place])
            for code in [old, *search._other_codes(layer, old)]:
                with descent_on(copied, split, 1000, 0) as other:
                    other.set_code(layer, place, code)
                sums.append((loss_of(copied, split) + price * counted(copied), code))
            search._try_weight((start, place), layer, None)
            now = int(descent.codes(layer)[place])
            kept, best = next(s for s, code in sums if code == now), min(sums)
            gain = sums[0][0] - best[0]
            if gain < 2e-5 - 1e-7:
                assert now == old
            elif now != old or sums[0][0] - best[0] > price * circuit._MOST_SAVED:
                assert kept == pytest.approx(best[0], abs=1e-6)
            assert search.now == counted(qmod)
            assert descent.loss + price * search.now <= total + 1e-7
            total = descent.loss + price * search.now


def test_finetune_trims_to_the_budget_and_repeats_itself():
    full = counted(quantized(SMALL))
    asked = SparsifyConfig(lut=int(full * 0.3), polish_samples=64, trims=2, **FEW)
    qmod, again = quantized(SMALL), quantized(SMALL)
    found = finetune(qmod, labelled(graph=SMALL), config=CONFIG, sparsify=asked)
    assert counted(qmod) <= asked.lut
    assert found.polished["n_kept"] > 0
    finetune(again, labelled(graph=SMALL), config=CONFIG, sparsify=asked)
    assert same(qmod, again)


def test_training_between_passes_keeps_to_the_limits_and_repeats_itself():
    asked = SparsifyConfig(lut=int(counted(quantized(SMALL)) * 0.3), polish_samples=64, trims=2, trim_epochs=1, **FEW)
    modules = [quantized(SMALL), quantized(SMALL)]
    for qmod in modules:
        finetune(qmod, labelled(graph=SMALL), config=CONFIG, sparsify=asked)
        assert counted(qmod) <= asked.lut
        for limits, codes in zip(limits_of(qmod).values(), codes_of(qmod), strict=True):
            assert (count_digits(codes) <= limits).all()
    assert same(*modules)
    plain = quantized(SMALL)
    finetune(plain, labelled(graph=SMALL), config=CONFIG, sparsify=replace(asked, trim_epochs=0))
    assert not same(plain, modules[0])


def test_what_is_called_between_is_told_the_pass_and_may_train():
    qmod, calls = sparse(), []

    def between(number):
        calls.append(number)
        assert torch.is_grad_enabled()

    trim(qmod, labelled(graph=SMALL), counted(qmod), passes=3, between=between, n_samples=32)
    assert calls == [0, 1]


def test_what_does_not_fit_is_refused():
    with pytest.raises(QuantError, match="no limits of signed digits"):
        trim(quantized(SMALL), labelled(graph=SMALL), 100, passes=1)
    with pytest.raises(ConfigError, match="trims are chosen by samples, so they need polish_samples"):
        SparsifyConfig(lut=9, trims=1)
    with pytest.raises(ConfigError, match="trims count the circuit's LUTs, so they need lut"):
        SparsifyConfig(digits_per_weight=0.5, polish_samples=9, trims=1)
    with pytest.raises(ConfigError, match="trim_epochs are between trims, so they need at least 2"):
        SparsifyConfig(lut=9, polish_samples=9, trims=1, trim_epochs=1)
    with pytest.raises(ConfigError, match="trims must not be negative"):
        SparsifyConfig(lut=9, trims=-1)
