"""Distillation: what is minimized, that it is reached, what does not depend on what, and refusals."""

import gc

import numpy as np
import pytest
import torch
from torch import nn

from dyadiq.allocation import allocate
from dyadiq.core.errors import ConfigError, DataError
from dyadiq.core.plan import uniform_plan
from dyadiq.cost.facts import network_facts
from dyadiq.curvature import analyze
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.passes import canonicalize
from dyadiq.quant.quantize import quantize
from dyadiq.quant.reconstruct import reconstruct_
from dyadiq.zero_shot import Distilled, distill, once
from dyadiq.zero_shot.distill import _fitting_batch
from dyadiq.zero_shot.start import starting_inputs
from trainable import MODELS, captured


def trained(name, seed=0):
    """Return a model whose batch norms hold the statistics of some structured data, and its graph."""
    model, _ = captured(name, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(256, *model.shape, generator=generator)
    x = x + x.roll(1, -1) if x.ndim == 4 else x
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = None  # the average of all batches
            module.reset_running_stats()
    model.train()
    with torch.no_grad():
        for part in x.split(128):
            model((part - x.mean()) / x.std())
    return model.eval(), model.graph()


def mismatch_by_modules(model, x):
    """Return the divergence of every batch norm by hooks and float64: the slow, obvious truth."""
    found = {}

    def compare(name, module, value):
        flat = value.transpose(0, 1).flatten(1)
        m, v = flat.mean(1), flat.var(1, correction=0) + module.eps
        known_m, known_v = module.running_mean, module.running_var + module.eps
        kl = (known_v / v).log() / 2 + (v + (m - known_m) ** 2) / (2 * known_v) - 0.5
        found[f"{name}.running_mean"] = float(kl.mean())

    for name, module in model.named_modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.register_forward_pre_hook(lambda m, args, name=name: compare(name, m, args[0]))
    with torch.no_grad():
        model.double()(torch.from_numpy(x).double())
    return found


@pytest.mark.parametrize("name", MODELS)
def test_statistics_come_near_those_remembered(name):
    model, graph = trained(name)
    made = distill(graph, 64)
    truth = mismatch_by_modules(model, made.images)
    assert made.mismatch == pytest.approx(truth, rel=1e-3, abs=1e-6)
    assert made.history[-1] < 0.2 * made.history[0]
    assert made.total_mismatch < 0.05
    assert not made.notes


def test_images_of_several_groups_match_together():
    model, graph = trained("residual")
    made = distill(graph, 23, batch_size=8, steps=5)
    assert [len(batch) for batch in made] == [23]
    assert made.mismatch == pytest.approx(mismatch_by_modules(model, made.images), rel=1e-3, abs=1e-6)


def test_known_input_statistics_are_taken_from_the_batch_norm_that_reads_it():
    _, graph = captured("features")  # norm0 reads the input
    made = distill(graph, 64, steps=1, learning_rate=1e-6, input_mean=100.0)
    np.testing.assert_allclose(made.images.mean(0), graph.params["norm0.running_mean"], atol=1e-4)
    np.testing.assert_allclose(made.images.var(0), graph.params["norm0.running_var"], rtol=1e-3)


def test_given_input_statistics_are_where_images_start_and_stay_inside_their_range():
    _, graph = trained("residual")
    made = distill(graph, 32, steps=1, learning_rate=1e-6, input_mean=[3.0, -2.0], input_std=0.5)
    np.testing.assert_allclose(made.images.mean((0, 2, 3)), [3.0, -2.0], atol=1e-4)
    np.testing.assert_allclose(made.images.std((0, 2, 3)), 0.5, rtol=1e-3)
    inside = distill(graph, 32, steps=10, input_range=(-1.0, 1.5)).images
    assert (inside.min(), inside.max()) == (-1.0, 1.5)
    assert distill(graph, 32, steps=10).images.max() > 1.5


def test_same_seed_gives_the_same_images_and_the_global_state_is_left_alone():
    _, graph = trained("residual")
    before = torch.random.get_rng_state()
    one, two, other = (distill(graph, 8, steps=3, seed=seed).images for seed in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())
    with torch.no_grad():
        assert np.array_equal(one, distill(graph, 8, steps=3, seed=1).images)


def test_poor_match_is_noted():
    _, graph = trained("perceptron")
    made = distill(graph, 16, steps=1)
    assert "batch norms are matched poorly" in made.notes[0]


def test_images_start_with_the_spectrum_of_photographs():
    x = starting_inputs((3, 32, 32), 64, torch.zeros(3), torch.ones(3), torch.Generator().manual_seed(0))
    power = torch.fft.rfft2(x).abs().square().mean((0, 1))[0, 1:]
    slope = np.polyfit(np.log(np.arange(1, 17)), np.log(power.numpy()), 1)[0]
    assert slope == pytest.approx(-2.0, abs=0.15)  # power is amplitude squared
    assert 0.6 < np.corrcoef(x[:, 0].flatten(), x[:, 1].flatten())[0, 1] < 0.8


def test_groups_are_smaller_when_images_are_large():
    def one_layer(side):
        infos = {"x": TensorInfo((64, side, side)), "y": TensorInfo((64, side, side))}
        return Graph("float", ("x",), ("y",), (Node("y", "relu", ("x",), "y"),), infos, {})

    assert [_fitting_batch(one_layer(side)) for side in (32, 224, 4096)] == [64, 41, 4]


def test_ranges_without_data_are_those_of_distilled_images():
    _, graph = trained("residual")
    plan = uniform_plan(network_facts(canonicalize(graph)), 8, 8)
    alone, given = quantize(graph, plan, None, seed=3), quantize(graph, plan, distill(graph, seed=3), seed=3)
    for name, value in alone.state_dict().items():
        assert torch.equal(value, given.state_dict()[name]), name


def test_rounding_is_reconstructed_on_distilled_images():
    _, graph = trained("perceptron")
    made = distill(graph, 64)
    module = quantize(graph, uniform_plan(network_facts(canonicalize(graph)), 3, 8), made)
    result = reconstruct_(module, made, ("gptq",))
    assert set(result.errors) == {"fc1.weight", "fc2.weight"}
    assert sum(after for _, after in result.errors.values()) < sum(before for before, _ in result.errors.values())


def test_batches_are_read_as_often_as_wanted():
    made = Distilled(np.arange(150, dtype=np.float32)[:, None], {"bn": 0.0}, (1.0,), seed=0)
    for _ in range(2):
        assert np.array_equal(np.concatenate(list(made)), made.images)
    assert [len(batch) for batch in made[1:]] == [64, 22]
    assert len(made[-1]) == 22
    with pytest.raises(IndexError):
        made[3]


def test_progress_is_told_of_every_step():
    told = []

    class Recorder:
        def start(self, label, total):
            told.append((label, total))

        def advance(self, steps=1, note=""):
            told.append(note[:8])

        def finish(self):
            told.append("finish")

    distill(captured("perceptron")[1], 6, steps=2, batch_size=3, progress=Recorder())
    assert told == [("distill inputs", 4), *["mismatch"] * 4, "finish"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_images": 1}, "n_images must be an integer of at least 2, got 1"),
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"batch_size": 1.5}, "batch_size must be an integer of at least 2, got 1.5"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"input_mean": [1.0, 2.0, 3.0]}, "input_mean must be one number, or one for each of the 2 channels.*got 3"),
        ({"input_mean": float("nan")}, "input_mean must be finite, got nan"),
        ({"input_std": [1.0, 0.0]}, r"input_std must be positive and finite, got \[1.0, 0.0\]"),
        ({"input_range": (1.0, -1.0)}, r"input_range must be \(least, largest\)"),
        ({"input_range": (0.0, float("inf"))}, "input_range must be two finite numbers"),
    ],
)
def test_options_are_refused_when_out_of_their_set(options, message):
    with pytest.raises(ConfigError, match=message):
        distill(captured("residual")[1], **options)


def test_network_of_several_inputs_is_refused_with_the_reason():
    _, graph = captured("perceptron")
    more = graph.replace(inputs=("x", "y"), tensors={**graph.tensors, "y": TensorInfo((3,))})
    with pytest.raises(DataError, match=r"one input, got \['x', 'y'\]: batch norms do not remember which values"):
        distill(more)


def test_network_that_overflows_is_refused():
    _, graph = trained("residual")
    huge = graph.replace(params={**graph.params, "conv1.weight": graph.params["conv1.weight"] * np.float32(1e30)})
    with pytest.raises(
        DataError, match="after 0 steps the statistics of the network's batch norms are NaN or infinite"
    ):
        distill(huge, 8)


def test_inputs_are_distilled_once_for_a_graph_and_its_parameters(monkeypatch):
    _, graph = trained("residual")
    calls = []

    def counted(graph, n_images, **options):
        calls.append((n_images, options["seed"]))
        return distill(graph, n_images, steps=2, seed=options["seed"])

    monkeypatch.setattr(once, "distill", counted)
    table = analyze(graph, None, bits=(4, 8), activation_bits=(8,))
    plan = allocate(table, {"bits": 6}, bits=(4, 8))
    quantize(graph, plan, None)
    assert calls == [(128, 0)]
    quantize(graph, plan, None, seed=1)
    next(iter(graph.params.values()))[...] *= 0.5
    quantize(graph, plan, None, seed=1)
    quantize(trained("residual")[1], plan, None, seed=1)
    assert calls == [(128, 0), (128, 1), (128, 1), (128, 1)]
    del graph
    gc.collect()
    assert once._LATEST.made is None
