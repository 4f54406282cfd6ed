"""Fine-tuning a quantized network: better than before, deterministic, resumable."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.graphs import FloatGraph, mlp

from dyadiq.core.errors import ConfigError, DataError, UnknownNameError
from dyadiq.core.facts import QuantConfig
from dyadiq.core.plan import uniform_plan
from dyadiq.cost.facts import network_facts
from dyadiq.ir.execute import run_graph
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.reference import run_reference
from dyadiq.quant.estimators import ESTIMATORS
from dyadiq.quant.lower import lower
from dyadiq.quant.quantize import quantize
from dyadiq.train import FINETUNE_CONFIG, TrainConfig, evaluate, finetune
from dyadiq.train.finetune import batches_to_split
from dyadiq.zoo import Split
from learners import Killed

GRAPH = mlp((4, 8, 3))
CONFIG = TrainConfig(epochs=3, batch_size=16, learning_rate=0.01, freeze_bn_epoch=0)


def labelled(n=96, seed=0):
    """Samples labelled by the float network itself."""
    x = np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)
    return Split(x, run_graph(GRAPH, torch.tensor(x))[0].argmax(dim=1).numpy())


def quantized(bits=2):
    config = QuantConfig(input_bits=4)
    plan = uniform_plan(network_facts(GRAPH, config), bits, bits)
    return quantize(GRAPH, plan, [labelled().x], config=config)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_finetuning_lowers_the_loss_and_restores_the_mode():
    qmod, split = quantized(), labelled()
    before = evaluate(qmod, split).loss
    finetune(qmod.set_mode_("exact"), split, epochs=15, config=CONFIG)
    assert qmod.mode == "exact"
    assert evaluate(qmod.set_mode_("fake"), split).loss < before


def test_scales_are_learned_and_batches_are_taken():
    qmod, split = quantized(), labelled()
    batches = [(split.x[:50], split.y[:50]), (torch.tensor(split.x[50:]), torch.tensor(split.y[50:]))]
    result = finetune(qmod, batches, epochs=1)
    gains = [q.log2_gain for q in qmod.quantizers_by_name().values()]
    assert any(bool(gain.any()) for gain in gains)
    assert len(result.history) == 1
    other = quantized()
    finetune(other, split, epochs=1, config=FINETUNE_CONFIG)
    assert same(qmod, other)


def test_network_with_several_outputs_is_refused():
    g = FloatGraph(4)
    graph = g.build(g.linear("a", "x", 3), g.linear("b", "x", 3))
    qmod = quantize(graph, uniform_plan(network_facts(graph), 4, 8), [labelled().x])
    with pytest.raises(ConfigError, match=r"QuantModule returns a tuple of 2, expected one tensor of logits"):
        finetune(qmod, labelled(), epochs=1)
    assert qmod.mode == "fake"


def test_network_with_several_inputs_is_refused():
    graph = Graph(
        "float",
        ("u", "v"),
        ("fc",),
        (Node("sum", "add", ("u", "v"), "sum"), Node("fc", "linear", ("sum", "fc.weight"), "fc")),
        {**dict.fromkeys(("u", "v", "sum"), TensorInfo((4,))), "fc": TensorInfo((3,))},
        {"fc.weight": np.random.default_rng(0).normal(size=(3, 4))},
    )
    x = labelled().x
    qmod = quantize(graph, uniform_plan(network_facts(graph), 4, 8), [{"v": x, "u": 2 * x}])
    assert qmod(torch.tensor(x), torch.tensor(x)).shape == (len(x), 3)
    with pytest.raises(ConfigError, match=r"the network has 2 inputs \['u', 'v'\], .* Train it in your own loop"):
        finetune(qmod, labelled(), epochs=1)


def test_resumed_finetuning_ends_with_the_same_bytes(tmp_path):
    whole, resumed = quantized(), quantized()
    options = {"config": CONFIG, "validation": labelled(40, seed=1), "teacher": quantized(8)}
    finetune(whole, labelled(), checkpoint=tmp_path / "whole", **options)

    def interrupt(record):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(quantized(), labelled(), checkpoint=tmp_path / "cut", on_epoch=interrupt, **options)
    finetune(resumed, labelled(), checkpoint=tmp_path / "cut", **options)
    assert same(whole, resumed)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "cut").read_bytes()


def test_batchnorm_is_frozen_by_the_module_itself():
    qmod = quantized()
    qmod.batchnorm_frozen = False
    seen = []
    config = TrainConfig(**CONFIG.to_json() | {"freeze_bn_epoch": 2})
    finetune(qmod, labelled(), config=config, on_epoch=lambda record: seen.append(qmod.batchnorm_frozen))
    assert seen == [False, False, True]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], r"no batches: got an empty iterable"),
        ([torch.zeros(2, 4)], r"batch 0: got Tensor without labels, expected \(inputs, labels\)"),
        ([(np.zeros((2, 4)), np.array([0]))], r"batch 0: got 2 samples but 1 labels"),
    ],
)
def test_unlabelled_or_missing_batches_are_refused(batches, message):
    with pytest.raises(DataError, match=message):
        batches_to_split(batches)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_lowers_the_loss_and_is_written_back(name):
    qmod, split = quantized(3), labelled()
    before, keys = evaluate(qmod, split).loss, list(qmod.state_dict())
    config = replace(CONFIG, epochs=12, estimator=name, scale_rate_frac=0.1)
    finetune(qmod, split, config=config)
    assert evaluate(qmod, split).loss < before
    assert list(qmod.state_dict()) == keys
    program = lower(qmod)
    truth = run_reference(program, split.x.astype(np.float64))[program.graph.outputs[0]]
    assert np.array_equal(qmod.set_mode_("exact")(torch.tensor(split.x)).numpy(), truth)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_resumed_fine_tuning_ends_with_the_same_bytes_whatever_the_estimator(name, tmp_path):
    whole, parts, again = quantized(3), quantized(3), quantized(3)
    config = replace(CONFIG, estimator=name, average_decay=0.9)
    finetune(whole, labelled(), config=config)

    def kill(record):
        raise Killed

    with pytest.raises(Killed):
        finetune(parts, labelled(), config=config, checkpoint=tmp_path / "c", on_epoch=kill)
    assert parts.estimator.name == "log_lsq"
    finetune(again, labelled(), config=config, checkpoint=tmp_path / "c")
    assert same(whole, again)


def test_penalty_of_pact_lowers_its_ranges():
    scales = []
    for decay in (0.0, 3.0):
        qmod = quantized(3)
        finetune(qmod, labelled(), config=replace(CONFIG, estimator="pact", range_decay=decay))
        scales.append(sum(float(q.scale) for q in qmod.quantizers_by_name().values() if q.scale.numel() == 1))
    assert scales[1] < scales[0]


def test_unknown_estimator_is_refused():
    with pytest.raises(UnknownNameError, match="estimator"):
        finetune(quantized(), labelled(), config=replace(CONFIG, estimator="lsqq"))
