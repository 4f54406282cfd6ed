"""Signed digits chosen while training: budgets are met or refused, pruned weights return, and it resumes exactly."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from tests.graphs import mlp, shared

from dyadiq.core.errors import ConfigError, InfeasibleError, QuantError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.format import Format
from dyadiq.core.plan import uniform_plan
from dyadiq.core.signed_digits import count_digits
from dyadiq.cost.facts import network_facts
from dyadiq.fpga.estimate import estimate_hardware
from dyadiq.ir.execute import run_graph
from dyadiq.ir.integer import effective_weight
from dyadiq.ir.passes import canonicalize
from dyadiq.quant.lower import lower
from dyadiq.quant.quantize import quantize
from dyadiq.train import TrainConfig, finetune
from dyadiq.train.sparsify import DigitSchedule, _channels_read
from dyadiq.train.sparsify_config import SparsifyConfig
from dyadiq.zoo import Split
from trainable import captured

GRAPH = mlp((8, 12, 4))
CONFIG = TrainConfig(epochs=4, batch_size=32, learning_rate=0.01, freeze_bn_epoch=0)
POW2 = QuantConfig(Format(8, signed=True, narrow=True, scale="pow2"), Format(8, scale="pow2"), input_bits=6)
FEW = {"n_updates": 3, "n_samples": 64}

_BUDGET_FRAC = 0.03  # a digit of so small a network is 1 % of it

needs_da4ml = pytest.mark.skipif(
    find_spec("da4ml") is None, reason="budgets of LUTs need the adder graphs of da4ml: pip install 'dyadiq[fpga]'"
)


def labelled(n=128, seed=0, graph=GRAPH):
    """Samples labelled by the float network itself."""
    x = np.random.default_rng(seed).normal(size=(n, *graph.tensors["x"].shape)).astype(np.float32)
    logits = run_graph(canonicalize(graph), torch.tensor(x))[0]
    return Split(x, logits.argmax(dim=1).numpy())


def quantized(graph=GRAPH, config=POW2):
    plan = uniform_plan(network_facts(canonicalize(graph), config), 8, 5)
    return quantize(graph, plan, [labelled(graph=graph).x], config=config)


def limits_of(qmod):
    return {name: q.max_digits.numpy().copy() for name, q in qmod.weight_quantizers().items()}


def mean_digits(limits):
    return float(sum(x.sum() for x in limits.values()) / sum(x.size for x in limits.values()))


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("saliency", ["fisher", "magnitude"])
def test_budget_of_digits_is_met_by_limits_and_by_the_program(saliency):
    qmod = quantized()
    sparsify = SparsifyConfig(digits_per_weight=0.7, saliency=saliency, **FEW)
    result = finetune(qmod, labelled(), config=CONFIG, validation=labelled(60, 1), sparsify=sparsify)
    limits = limits_of(qmod)
    assert 0.65 < mean_digits(limits) <= 0.7
    weights = [effective_weight(lower(qmod).graph, node) for node in lower(qmod).graph.nodes if node.op == "linear"]
    assert all((count_digits(w) <= x).all() for w, x in zip(weights, limits.values(), strict=True))
    told = [record["digits_per_weight"] for record in result.history if "digits_per_weight" in record]
    assert told == sorted(told, reverse=True)
    assert told[-1] == pytest.approx(mean_digits(limits))
    assert result.best_epoch >= 2  # only epochs with the last limits may be kept
    assert all("lut" not in record for record in result.history)


def test_saliencies_choose_different_weights():
    found = []
    for saliency in ("fisher", "magnitude"):
        qmod = quantized()
        DigitSchedule(qmod, labelled(), SparsifyConfig(digits_per_weight=0.5, saliency=saliency, **FEW), 4, 0)(2)
        found.append(limits_of(qmod))
    assert any(not np.array_equal(found[0][name], found[1][name]) for name in found[0])


def test_inputs_that_never_vary_lose_their_weights_by_fisher_only():
    split = labelled()
    split.x[:, 3] = 0
    for saliency, pruned in (("fisher", True), ("magnitude", False)):
        qmod = quantized()
        DigitSchedule(qmod, split, SparsifyConfig(digits_per_weight=1.0, saliency=saliency, **FEW), 4, 0)(2)
        assert bool((limits_of(qmod)["fc0.weight"][:, 3] == 0).all()) is pruned


def test_pruned_weight_comes_back_when_it_has_grown():
    qmod = quantized()
    schedule = DigitSchedule(qmod, labelled(), SparsifyConfig(digits_per_weight=0.4, saliency="magnitude", **FEW), 9, 0)
    assert schedule(1) == {}
    schedule(3)
    row, column = np.argwhere(limits_of(qmod)["fc0.weight"] == 0)[0]
    with torch.no_grad():
        dict(qmod.named_parameters())["fc0.weight"][row, column] = 1.5
    schedule(schedule.final_epoch)
    assert limits_of(qmod)["fc0.weight"][row, column] > 0


def test_shared_weights_and_live_batch_norms_are_sparsified():
    graphs = {"shared": shared(), "batch norm": captured("perceptron")[1]}
    for graph in graphs.values():
        qmod = quantized(graph)
        qmod.batchnorm_frozen = False
        config = TrainConfig(epochs=2, batch_size=32, learning_rate=1e-3, freeze_bn_epoch=1)
        finetune(qmod, labelled(graph=graph), config=config, sparsify=SparsifyConfig(digits_per_weight=0.9, **FEW))
        assert 0.8 < mean_digits(limits_of(qmod)) <= 0.9
        lower(qmod)


def test_resumed_training_ends_with_the_same_bytes(tmp_path):
    sparsify = SparsifyConfig(digits_per_weight=0.8, start_frac=0.0, **FEW)
    options = {"config": CONFIG, "validation": labelled(40, seed=1), "sparsify": sparsify}
    whole, resumed = quantized(), quantized()
    finetune(whole, labelled(), checkpoint=tmp_path / "whole", **options)

    def interrupt(record):
        if record["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(quantized(), labelled(), checkpoint=tmp_path / "cut", on_epoch=interrupt, **options)
    finetune(resumed, labelled(), checkpoint=tmp_path / "cut", **options)
    assert same(whole, resumed)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "cut").read_bytes()
    other = options | {"sparsify": SparsifyConfig(digits_per_weight=0.7, start_frac=0.0, **FEW)}
    with pytest.raises(ConfigError, match="this checkpoint belongs to another training"):
        finetune(quantized(), labelled(), checkpoint=tmp_path / "cut", **other)


def test_few_samples_and_one_epoch_are_enough():
    qmod, split = quantized(), labelled(10)
    config = TrainConfig(epochs=1, batch_size=4, freeze_bn_epoch=0)
    finetune(qmod, split, config=config, sparsify=SparsifyConfig(digits_per_weight=1.0))
    assert mean_digits(limits_of(qmod)) <= 1.0


@needs_da4ml
def test_circuit_reaches_its_budget():
    qmod, budget = quantized(), 700
    assert estimate_hardware(lower(qmod)).lut > 1.5 * budget
    result = finetune(qmod, labelled(), config=CONFIG, sparsify=SparsifyConfig(lut=budget, **FEW))
    told = [record["lut"] for record in result.history if "lut" in record]
    assert len(told) == 1
    assert abs(told[0] - budget) <= _BUDGET_FRAC * budget


@needs_da4ml
def test_budget_that_is_met_already_limits_nothing_but_the_most_digits():
    qmod = quantized()
    schedule = DigitSchedule(qmod, labelled(), SparsifyConfig(lut=10**6, max_digits=2, **FEW), 4, 0)
    schedule(schedule.final_epoch)
    assert all(limits.max() == 2 for limits in limits_of(qmod).values())
    assert lower(qmod)


@needs_da4ml
def test_budget_out_of_reach_is_refused_with_what_remains():
    config = TrainConfig(epochs=1, batch_size=32, freeze_bn_epoch=0)
    with pytest.raises(
        InfeasibleError, match=r"sparsify: after the last update the circuit takes \d+ LUT .* expected at most 1 with"
    ) as caught:
        finetune(quantized(), labelled(), config=config, sparsify=SparsifyConfig(lut=1, **FEW))
    assert set(caught.value.best) == {"lut"}
    assert caught.value.best["lut"] >= 0


def test_budget_that_leaves_no_weight_is_refused():
    with pytest.raises(InfeasibleError, match=r"sparsify: digits_per_weight = 0\.001 leaves no weight at all\. Raise"):
        finetune(quantized(), labelled(), config=CONFIG, sparsify=SparsifyConfig(digits_per_weight=0.001, **FEW))


def test_format_is_refused_before_training_and_by_the_name_of_the_weight():
    qmod = quantized(config=QuantConfig(Format(8, signed=True, granularity="group", group_size=4)))
    with pytest.raises(QuantError, match=r"sparsify: fc0\.weight: signed digits can be limited for symmetric codes"):
        finetune(qmod, labelled(), config=CONFIG, sparsify=SparsifyConfig(digits_per_weight=1.0))
    assert qmod.mode == "fake"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"sparsify: exactly one of lut and digits_per_weight, for example lut = 8000"),
        ({"lut": 1, "digits_per_weight": 1.0}, r"sparsify: exactly one of lut and digits_per_weight"),
        ({"lut": 0}, r"sparsify: the target must be positive, got 0"),
        ({"digits_per_weight": float("nan")}, r"sparsify: the target must be positive, got nan"),
        ({"lut": 9, "saliency": "taylor"}, r"sparsify: saliency must be fisher or magnitude, got 'taylor'"),
        ({"lut": 9, "start_frac": 0.8}, r"start_frac <= end_frac < 1 must hold, got 0\.8 and 0\.7"),
        ({"lut": 9, "end_frac": 1.0}, r"start_frac <= end_frac < 1 must hold, got 0\.05 and 1\.0"),
        ({"lut": 9, "max_digits": 0}, r"sparsify: max_digits must be at least 1, got 0"),
        ({"lut": 9, "n_updates": 0}, r"sparsify: n_updates must be at least 1, got 0"),
    ],
)
def test_settings_are_refused_when_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        SparsifyConfig(**settings)


@needs_da4ml
@pytest.mark.parametrize("name", ["mlp", "features"])
def test_input_channels_get_the_grids_that_pay_and_the_budget_is_met(name):
    graph = GRAPH if name == "mlp" else captured(name)[1]
    qmod = quantized(graph)
    full = estimate_hardware(lower(qmod)).lut
    sparsify = SparsifyConfig(lut=int(full * 0.2), input_grids=True, **FEW)
    result = finetune(qmod, labelled(graph=graph), config=CONFIG, sparsify=sparsify)
    grid = qmod.quantizers_by_name()["x"].channel_grid()
    told = [record["input_bits"]["x"] for record in result.history if "input_bits" in record]
    assert told[-1] == grid.bits().tolist()
    assert min(told[-1]) < 6
    assert estimate_hardware(lower(qmod)).lut <= full * 0.2 * 1.03


@needs_da4ml
def test_training_with_grids_resumes_to_the_same_bytes(tmp_path):
    sparsify = SparsifyConfig(lut=int(estimate_hardware(lower(quantized())).lut * 0.3), input_grids=True, **FEW)
    whole = quantized()
    finetune(whole, labelled(), config=CONFIG, sparsify=sparsify)
    parts = quantized()

    def stop(record):
        if record["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(parts, labelled(), config=CONFIG, sparsify=sparsify, checkpoint=tmp_path / "c", on_epoch=stop)
    again = quantized()
    finetune(again, labelled(), config=CONFIG, sparsify=sparsify, checkpoint=tmp_path / "c")
    assert same(whole, again)


def test_channels_read_are_those_of_the_group():
    assert _channels_read((4, 3), 3).tolist() == [[0, 1, 2]] * 4
    assert _channels_read((4, 2, 3, 3), 4).tolist() == [[0, 1]] * 2 + [[2, 3]] * 2
    assert _channels_read((6, 1, 3, 3), 3).tolist() == [[0], [0], [1], [1], [2], [2]]


def test_grids_are_refused_without_a_budget_of_luts_or_with_an_asymmetric_input():
    with pytest.raises(ConfigError, match="input_grids narrows channels for their LUTs, so it needs lut"):
        SparsifyConfig(digits_per_weight=1.0, input_grids=True)
    config = QuantConfig(POW2.weight, Format(8, scheme="asymmetric", scale="pow2"), input_bits=6)
    qmod = quantized(config=config)
    if not qmod.quantizers_by_name()["x"].zero_point.any():
        qmod.quantizers_by_name()["x"].zero_point.fill_(3)
    with pytest.raises(
        QuantError, match=r"sparsify: x: channels can have grids of their own where 0 is the code of 0\.0"
    ):
        DigitSchedule(qmod, labelled(), SparsifyConfig(lut=1000, input_grids=True, **FEW), 4, 0)
