import numpy as np
import pytest

from dyadiq.curvature import analyze
from graphs import NETWORKS, FloatGraph, gated, mlp, samples
from oracles import hessian_traces

EXACT = 1e-10  # float64, another order of summation
N = 5


def measure(graph, batches, **options):
    return analyze(graph, batches, "trace", **{"bits": (4,), "precision": "float64"} | options)


@pytest.mark.parametrize("network", NETWORKS)
def test_curvature_equals_the_dense_hessian_block_whatever_the_labels(network):
    graph = NETWORKS[network](seed=3)
    x = samples(graph, N)
    table = measure(graph, [x])
    n_classes = graph.tensors[graph.outputs[0]].shape[0]
    labels = np.random.default_rng(1).integers(n_classes, size=N)
    names = [d.name for d in table.facts.decisions]
    assert set(names) == set(table.curvature)
    if network == "shared":  # Twice in a row is quadratic in the weight: only Gauss-Newton, tested below.
        names.remove("first.weight")
    for decision in map(table.facts.decision, names):
        truth = hessian_traces(graph, x, decision.name, labels) / decision.n_elements
        curvature = table.curvature[decision.name]
        assert curvature.value == pytest.approx(truth.mean(), rel=EXACT), decision.name
        assert curvature.stderr == pytest.approx(truth.std(ddof=1) / np.sqrt(N), rel=1e-8), decision.name


@pytest.mark.parametrize("network", ["mlp", "residual"])
def test_curvature_equals_the_dense_hessian_block_when_the_loss_is_mse(network):
    graph = NETWORKS[network](seed=4)
    x = samples(graph, N)
    table = measure(graph, [x], loss="mse")
    assert table.unit == "squared output error"
    for decision in table.facts.decisions:
        truth = hessian_traces(graph, x, decision.name).mean() / decision.n_elements
        assert table.curvature[decision.name].value == pytest.approx(truth, rel=EXACT)


def test_shared_weight_gets_the_gauss_newton_trace_of_both_uses():
    # In a linear network y = w w x (mse) the Jacobian is 2 w x, so J^T 2 J = 8 w^2 x^2.
    g = FloatGraph(1)
    g.params["w"] = np.array([[3.0]])
    once = g.add_node("once", "linear", ("x", "w"))
    graph = g.build(g.add_node("twice", "linear", (once, "w")))
    x = np.array([[1.0], [2.0]])
    table = measure(graph, [x], loss="mse")
    assert table.curvature["w"].value == pytest.approx(np.mean(8 * 9 * x**2), rel=EXACT)


def test_entries_are_half_of_curvature_times_squared_error():
    graph = NETWORKS["residual"]()
    x = samples(graph, 8)
    table = measure(graph, [x], bits=(2, 4))
    errors = analyze(graph, [x], "squared_error", bits=(2, 4), precision="float64")
    for name in ("stem.weight", "grouped.weight", "fc.weight"):
        for bits in (2, 4):
            entry, curvature, error = table.entries[name][bits], table.curvature[name], errors.value(name, bits)
            assert entry.value == pytest.approx(0.5 * curvature.value * error, rel=EXACT)
            assert entry.stderr == pytest.approx(0.5 * curvature.stderr * error, rel=EXACT)
    # One sample alone has neither mean nor product of means: pairs of equal samples show the per-sample product.
    pair = np.stack([x[0], x[0]])
    table, errors = measure(graph, [pair]), analyze(graph, [pair], "squared_error", bits=(4,), precision="float64")
    for name in ("x", "stem_relu", "join"):
        expected = 0.5 * table.curvature[name].value * errors.value(name, next(iter(table.entries[name])))
        assert table.entries[name][next(iter(table.entries[name]))].value == pytest.approx(expected, rel=EXACT)


def test_random_probes_are_unbiased_and_converge_when_there_are_many():
    graph = mlp()
    x = samples(graph, 20)
    exact = measure(graph, [x])
    few = [measure(graph, [x], n_probes=1, seed=seed).curvature["fc1.weight"].value for seed in range(60)]
    many = measure(graph, [x], n_probes=400).curvature["fc1.weight"].value
    truth = exact.curvature["fc1.weight"].value
    assert abs(np.mean(few) - truth) < 4 * np.std(few, ddof=1) / np.sqrt(60)
    assert abs(many - truth) < 4 * np.std(few, ddof=1) / np.sqrt(400)
    assert np.std(few) > 0.01 * truth  # They are random at all.


def test_seed_is_recorded_and_decides_the_probes_when_there_are_some():
    graph = mlp()
    x = samples(graph, 6)
    assert measure(graph, [x], activation_bits=()).seed is None
    first, again, other = (measure(graph, [x], n_probes=2, seed=s) for s in (5, 5, 6))
    assert first.seed == 5
    assert first.notes == ("traces estimated with 2 random probes per sample",)
    assert first.curvature == again.curvature
    assert first.curvature != other.curvature


def test_single_precision_agrees_roughly():
    graph = NETWORKS["residual"]()
    x = samples(graph, 8)
    single, double = measure(graph, [x], precision="float32"), measure(graph, [x])
    for name, curvature in double.curvature.items():
        assert single.curvature[name].value == pytest.approx(curvature.value, rel=1e-4)


def test_dead_layers_have_no_curvature():
    graph = gated()
    table = measure(graph, [samples(graph, 4)], unreached="worst")
    for name in ("closed.weight", "behind.weight"):
        assert table.curvature[name].value == 0.0
