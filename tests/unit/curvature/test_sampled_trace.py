import numpy as np
import pytest

from dyadiq.core.errors import ConfigError
from dyadiq.curvature import analyze
from dyadiq.curvature.importance import draw, effective_size
from graphs import NETWORKS, mlp, samples


def confident(graph, factor=6.0):
    """A network that is sure about most samples."""
    return graph.replace(params={k: factor * v if k.startswith("fc2") else v for k, v in graph.params.items()})


def test_weighted_means_are_unbiased_whatever_the_uncertainty():
    rng = np.random.default_rng(0)
    values, uncertainty = rng.normal(size=50) + 3.0, rng.exponential(size=50) * (np.arange(50) % 3 > 0)
    means = []
    for seed in range(400):
        drawn = draw(uncertainty, 30, np.random.default_rng(seed))
        means.append((drawn.weights * values[drawn.indices]).mean())
    assert np.mean(means) == pytest.approx(values.mean(), abs=4 * np.std(means) / 20)
    assert draw(np.zeros(5), 10, rng).weights == pytest.approx(np.ones(10))


def test_effective_size_counts_equal_contributions():
    assert effective_size(np.ones(7)) == pytest.approx(7)
    assert effective_size(np.array([1.0, 1e-9])) == pytest.approx(1)
    assert effective_size(np.zeros(3)) == 0.0


def test_draws_converge_to_the_exact_trace_of_all_samples_within_the_intervals():
    graph = confident(mlp())
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


def test_it_stops_at_the_tolerance_and_says_so_or_says_that_it_did_not_get_there():
    graph = confident(mlp())
    x = samples(graph, 400)
    wide = analyze(graph, [x], "sampled_trace", bits=(3,), tolerance=0.5)
    narrow = analyze(graph, [x], "sampled_trace", bits=(3,), tolerance=0.001)
    n_wide, n_narrow = (int(t.notes[0].split()[0]) for t in (wide, narrow))
    assert n_wide < n_narrow == 1600
    assert "50 % were asked for" in wide.notes[0]
    assert "stopped at 4 draws a sample, before 0.1 %" in narrow.notes[0]
    for name in narrow.curvature:
        assert narrow.curvature[name].stderr < wide.curvature[name].stderr


def test_importance_beats_even_draws_where_the_network_is_sure():
    graph = confident(mlp(), 12.0)
    x = samples(graph, 500)
    exact = analyze(graph, [x[:200]], "trace", bits=(3,), activation_bits=())
    drawn = analyze(graph, [x], "sampled_trace", bits=(3,), tolerance=0.15)
    n = int(drawn.notes[0].split()[0])
    for name, found in drawn.curvature.items():
        even = exact.curvature[name].stderr / exact.curvature[name].value * np.sqrt(200 / n)
        assert found.stderr / found.value < 0.8 * even, name


def test_dead_layers_have_a_trace_of_zero_and_do_not_block_the_stop():
    graph = mlp()
    params = {k: np.zeros_like(v) if k.startswith("fc1") else v for k, v in graph.params.items()}
    table = analyze(graph.replace(params=params), [samples(graph, 100)], "sampled_trace", bits=(3,), tolerance=0.5)
    assert table.curvature["fc0.weight"].value == 0.0
    assert "were asked for" in table.notes[0]


def test_it_is_refused_where_it_means_nothing():
    graph = NETWORKS["mlp"]()
    x = samples(graph, 8)
    with pytest.raises(ConfigError, match=r"draws samples by the entropy of their classes, got loss 'mse'"):
        analyze(graph, [x], "sampled_trace", loss="mse")
    with pytest.raises(ConfigError, match="measures weights, and none is asked for"):
        analyze(graph, [x], "sampled_trace", bits=(), activation_bits=(4,))
    with pytest.raises(ConfigError, match=r"tolerance must be in \(0, 1\), got 0.0"):
        analyze(graph, [x], "sampled_trace", tolerance=0.0)
