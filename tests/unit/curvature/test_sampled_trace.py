import sys

import numpy as np
import pytest
import torch

from dyadiq.core.errors import ConfigError
from dyadiq.curvature import analyze
from dyadiq.curvature.priority import PrioritySample
from dyadiq.curvature.sampled_trace import _sizes, _vectors
from graphs import NETWORKS, gated, mlp, samples


def confident(graph, factor=6.0):
    """A network that is sure about most samples."""
    return graph.replace(params={k: factor * v if k.startswith("fc2") else v for k, v in graph.params.items()})


def test_totals_are_unbiased_and_their_intervals_cover():
    rng = np.random.default_rng(0)
    sizes = 10.0 ** rng.uniform(-6, 0, 2000) * (np.arange(2000) % 3 > 0)
    values = sizes * rng.exponential(size=2000)
    errors = []
    for seed in range(300):
        sample = PrioritySample(sizes, np.random.default_rng(seed))
        found = sample.total(values[sample.order[:150]])
        errors.append((found.value - values.sum()) / found.stderr)
    assert abs(np.mean(errors)) < 0.3
    assert 0.85 < np.std(errors) < 1.2
    assert np.mean(np.abs(errors) < 1.96) > 0.89


def test_totals_are_exact_when_every_unit_of_a_size_was_taken():
    sizes = np.array([0.5, 0.0, 3.0, 1e-9])
    sample = PrioritySample(sizes, np.random.default_rng(0))
    assert sorted(sample.order) == [0, 2, 3]
    found = sample.total((7.0 * sizes)[sample.order])
    assert (found.value, found.stderr, found.estimated) == (pytest.approx(7.0 * sizes.sum()), 0.0, 0.0)


@pytest.mark.parametrize("n_classes", [2, 10, 65])
def test_directions_make_up_the_metric_of_the_outputs_and_sizes_are_their_squares(n_classes):
    outputs = 3.0 * torch.randn(4, n_classes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = outputs.softmax(1)
    vectors = torch.stack([_vectors(outputs, torch.full((4,), i)) for i in range(n_classes)], dim=2)
    metric = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    assert torch.allclose(vectors @ vectors.transpose(1, 2), metric, rtol=0, atol=1e-14)
    assert torch.allclose(vectors.square().sum(1), _sizes(outputs), rtol=0, atol=1e-14)


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_all_directions_give_the_exact_trace(network, monkeypatch):
    monkeypatch.setattr(sys.modules["dyadiq.curvature.sampled_trace"], "MAX_PASSES", 1000)
    graph = NETWORKS[network]()
    x = samples(graph, 7)
    exact = analyze(graph, [x], "trace", bits=(3,), activation_bits=(), precision="float64")
    found = analyze(graph, [x], "sampled_trace", bits=(3,), tolerance=1e-15, precision="float64")
    for name, curvature in found.curvature.items():
        assert curvature.value == pytest.approx(exact.curvature[name].value, rel=1e-10), name
        assert curvature.stderr == pytest.approx(0.0, abs=1e-12 * curvature.value), name


def test_estimates_converge_to_the_exact_trace_of_all_samples_within_the_intervals():
    graph = confident(mlp(), 1.5)
    x = samples(graph, 600)
    exact = analyze(graph, [x], "trace", bits=(3,), activation_bits=(), precision="float64")
    misses = 0
    for seed in range(10):
        table = analyze(graph, [x], "sampled_trace", bits=(3,), tolerance=0.2, seed=seed, precision="float64")
        for name, found in table.curvature.items():
            truth = exact.curvature[name].value
            assert abs(found.value - truth) < 0.25 * truth
            misses += abs(found.value - truth) > 2 * found.stderr
    assert misses <= 6  # 30 intervals of two standard errors.


def test_it_stops_at_the_tolerance_and_says_so_or_says_that_it_did_not_get_there(monkeypatch):
    graph = confident(mlp(), 1.5)
    x = samples(graph, 400)
    wide = analyze(graph, [x], "sampled_trace", bits=(3,), tolerance=0.5)
    monkeypatch.setattr(sys.modules["dyadiq.curvature.sampled_trace"], "MAX_PASSES", 1)
    narrow = analyze(graph, [x], "sampled_trace", bits=(3,), tolerance=0.001)
    n_wide, n_narrow = (int(t.notes[0].split()[0]) for t in (wide, narrow))
    assert n_wide < n_narrow == 400
    assert "50 % were asked for" in wide.notes[0]
    assert "stopped at 1 directions a sample, before 0.1 %" in narrow.notes[0]
    assert "mean over the 400 samples given" in wide.notes[1]
    for name in narrow.curvature:
        assert narrow.curvature[name].stderr < wide.curvature[name].stderr


def test_priority_beats_even_draws_where_the_network_is_sure():
    graph = confident(mlp(), 12.0)
    x = samples(graph, 500)
    exact = analyze(graph, [x[:200]], "trace", bits=(3,), activation_bits=())
    drawn = analyze(graph, [x], "sampled_trace", bits=(3,), tolerance=0.15)
    n = int(drawn.notes[0].split()[0])
    for name, found in drawn.curvature.items():
        even = exact.curvature[name].stderr / exact.curvature[name].value * np.sqrt(200 / n)
        assert found.stderr / found.value < 0.8 * even, name


def test_dead_layers_have_a_trace_of_zero_and_do_not_block_the_stop():
    graph = gated()
    options = {"bits": (3,), "activation_bits": (), "tolerance": 0.5, "unreached": "worst"}
    table = analyze(graph, [samples(graph, 100)], "sampled_trace", **options)
    assert table.curvature["closed.weight"].value == table.curvature["behind.weight"].value == 0.0
    assert "were asked for" in table.notes[0]


def test_it_is_refused_where_it_means_nothing():
    graph = NETWORKS["mlp"]()
    x = samples(graph, 8)
    with pytest.raises(ConfigError, match=r"weighs samples by the entropy of their classes, got loss 'mse'"):
        analyze(graph, [x], "sampled_trace", loss="mse")
    with pytest.raises(ConfigError, match="measures weights, and none is asked for"):
        analyze(graph, [x], "sampled_trace", bits=(), activation_bits=(4,))
    with pytest.raises(ConfigError, match=r"tolerance must be in \(0, 1\), got 0.0"):
        analyze(graph, [x], "sampled_trace", tolerance=0.0)
