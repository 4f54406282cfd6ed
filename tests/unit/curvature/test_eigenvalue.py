import numpy as np
import pytest

from dyadiq.core.errors import DataError
from dyadiq.curvature import analyze
from dyadiq.curvature.data_splits import mean_plus_deviation
from graphs import NETWORKS, samples
from oracles import gauss_newton_blocks

N = 6
CLOSE = 2e-3  # Lanczos stops when the eigenvalue has settled to 1e-3


@pytest.mark.parametrize("network", NETWORKS)
def test_curvature_is_the_largest_eigenvalue_of_the_dense_block(network):
    graph = NETWORKS[network](seed=2)
    x = samples(graph, N)
    table = analyze(graph, [x], "eigenvalue", bits=(4,), precision="float64")
    errors = analyze(graph, [x], "squared_error", bits=(4,), precision="float64")
    for decision in table.facts.decisions:
        name, blocks = decision.name, gauss_newton_blocks(graph, x, decision.name)
        if decision.kind == "activation":
            assert table.curvature[name].value == pytest.approx(np.linalg.eigvalsh(blocks)[:, -1].mean(), rel=CLOSE)
            continue
        values, vectors = np.linalg.eigh(blocks.mean(0))
        assert table.curvature[name].value == pytest.approx(values[-1], rel=CLOSE)
        per_sample = np.einsum("i,nij,j->n", vectors[:, -1], blocks, vectors[:, -1])
        assert table.curvature[name].stderr == pytest.approx(per_sample.std(ddof=1) / np.sqrt(N), rel=0.1, abs=1e-12)
        assert table.value(name, 4) == pytest.approx(0.5 * table.curvature[name].value * errors.value(name, 4))


def test_data_splits_is_mean_plus_deviation_of_the_eigenvalues_of_splits():
    graph = NETWORKS["residual"](seed=2)
    x = samples(graph, N)
    table = analyze(graph, [x], "data_splits", bits=(4,), precision="float64")
    errors = analyze(graph, [x], "squared_error", bits=(4,), precision="float64")
    pairs = [gauss_newton_blocks(graph, x[i : i + 2], "grouped.weight").mean(0) for i in (0, 2, 4)]
    tops = [np.linalg.eigvalsh(block)[-1] for block in pairs]
    expected = np.mean(tops) + np.std(tops, ddof=1)
    assert table.curvature["grouped.weight"].value == pytest.approx(expected, rel=CLOSE)
    assert table.value("grouped.weight", 4) == pytest.approx(
        0.5 * expected * errors.value("grouped.weight", 4), rel=CLOSE
    )
    assert "3 splits" in table.notes[0]


def test_data_splits_are_refused_when_there_is_only_one():
    graph = NETWORKS["mlp"]()
    with pytest.raises(DataError, match="needs at least 4 samples for two splits, got 3"):
        analyze(graph, [samples(graph, 3)], "data_splits")


def test_deviation_counts_whatever_the_sign():
    low, high = mean_plus_deviation([-1.0, -1.1, -0.9]), mean_plus_deviation([-1.0, -3.0, 1.0])
    assert high.value > low.value > 0
    assert high.stderr > low.stderr > 0
