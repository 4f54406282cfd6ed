"""HAWQ's order: the most sensitive block first, everything in the end, resumable."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from tests.graphs import mlp

from dyadiq.core.errors import ConfigError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.plan import uniform_plan
from dyadiq.core.tables import Sensitivity, SensitivityTable
from dyadiq.cost.facts import network_facts
from dyadiq.quant.quantize import quantize
from dyadiq.train import TrainConfig, finetune
from dyadiq.train.blockwise import BlockSchedule, BlockwiseConfig, omega_order
from dyadiq.train.sparsify_config import SparsifyConfig
from dyadiq.zoo import Split
from learners import Killed

GRAPH = mlp((4, 8, 8, 3))
FACTS = network_facts(GRAPH, QuantConfig(input_bits=4))
CONFIG = TrainConfig(epochs=6, batch_size=16, learning_rate=0.01, freeze_bn_epoch=0)
WEIGHTS = [d.name for d in FACTS.decisions if d.kind == "weight"]
ORDER = (WEIGHTS[1], WEIGHTS[2], WEIGHTS[0])


def split():
    x = np.random.default_rng(0).normal(size=(48, 4))
    return Split(x, np.arange(48) % 3)


def quantized():
    return quantize(GRAPH, uniform_plan(FACTS, 3, 4), [split().x], config=FACTS.config)


def enabled(qmod):
    return {name for name, quantizer in qmod.quantizers_by_name().items() if quantizer.enabled}


def test_blocks_are_quantized_in_order_each_with_what_it_reads():
    qmod = quantized()
    schedule = BlockSchedule(qmod, BlockwiseConfig(ORDER, 0.5), 6)
    assert schedule.final_epoch == 3
    seen = []
    for epoch in range(6):
        noted = schedule(epoch)
        seen.append((noted["blocks"], enabled(qmod)))
    assert [n for n, _ in seen] == [1, 2, 3, 3, 3, 3]
    first, second, last = seen[0][1], seen[1][1], seen[-1][1]
    reads = {layer.weight: layer.input for layer in FACTS.layers}
    assert first == {ORDER[0], reads[ORDER[0]]}
    assert second == first | {ORDER[1], reads[ORDER[1]]}
    assert last == set(qmod.quantizers_by_name())


def test_order_is_that_of_the_expected_loss_at_the_widths_of_the_plan():
    omega = dict(zip(WEIGHTS, (0.1, 0.3, 0.2), strict=True))
    entries = {name: {3: Sensitivity(value, 0.0), 8: Sensitivity(-value, 0.0)} for name, value in omega.items()}
    assert omega_order(SensitivityTable("trace", "nats", entries, FACTS), quantized()) == ORDER
    with pytest.raises(ConfigError, match="was not measured at 3 bits"):
        omega_order(SensitivityTable("trace", "nats", {WEIGHTS[0]: {8: Sensitivity(0.0, 0.0)}}, FACTS), quantized())


def test_everything_is_quantized_in_the_end_also_when_interrupted():
    def kill(record):
        raise Killed

    for stop in (None, kill):
        qmod = quantized()
        with contextlib.suppress(Killed):
            finetune(qmod, split(), config=CONFIG, blockwise=BlockwiseConfig(ORDER), on_epoch=stop)
        assert enabled(qmod) == set(qmod.quantizers_by_name())


def test_only_epochs_of_the_whole_network_are_kept():
    result = finetune(quantized(), split(), config=CONFIG, blockwise=BlockwiseConfig(ORDER), validation=split())
    assert result.best_epoch >= 3
    assert [record["blocks"] for record in result.history] == [1, 2, 3, 3, 3, 3]


@pytest.mark.parametrize("n_done", [1, 5])
def test_resumed_training_ends_with_the_same_bytes_when_blockwise(tmp_path, n_done):
    whole, parts = quantized(), quantized()
    again = copy.deepcopy(parts)
    finetune(whole, split(), config=CONFIG, blockwise=BlockwiseConfig(ORDER))

    def kill(record):
        if record["epoch"] + 1 == n_done:
            raise Killed

    options = {"config": CONFIG, "blockwise": BlockwiseConfig(ORDER), "checkpoint": tmp_path / "c"}
    with pytest.raises(Killed):
        finetune(parts, split(), **options, on_epoch=kill)
    finetune(again, split(), **options)
    a, b = whole.state_dict(), again.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    with pytest.raises(ConfigError, match="another training"):
        finetune(quantized(), split(), **options | {"blockwise": BlockwiseConfig(ORDER[::-1])})


@pytest.mark.parametrize(
    ("order", "frac", "n_epochs", "message"),
    [
        (ORDER, 1.0, 6, r"frac must be in \(0, 1\), got 1.0"),
        ((), 0.5, 6, "must name every weight once, got none"),
        ((*ORDER, ORDER[0]), 0.5, 6, "must name every weight once, got"),
        ((*ORDER[:2], "w"), 0.5, 6, r"order lacks \['.*'\] and has unknown \['w'\]"),
        (ORDER, 0.9, 2, "of 2 epochs none is left"),
    ],
)
def test_bad_settings_are_refused(order, frac, n_epochs, message):
    with pytest.raises(ConfigError, match=message):
        BlockSchedule(quantized(), BlockwiseConfig(order, frac), n_epochs)


def test_two_schedules_at_once_are_refused():
    options = {"blockwise": BlockwiseConfig(ORDER), "sparsify": SparsifyConfig(digits_per_weight=0.5)}
    with pytest.raises(ConfigError, match="Use one of them"):
        finetune(quantized(), split(), config=CONFIG, **options)


def test_blocks_are_switched_when_the_estimator_is_another():
    seen, qmod = [], quantized()
    config = TrainConfig(epochs=6, batch_size=16, freeze_bn_epoch=0, estimator="lsq")
    finetune(
        qmod,
        split(),
        config=config,
        blockwise=BlockwiseConfig(ORDER),
        on_epoch=lambda _: seen.append(len(enabled(qmod))),
    )
    assert seen == sorted(seen)
    assert seen[0] == 2
