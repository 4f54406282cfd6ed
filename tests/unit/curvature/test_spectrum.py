"""Spectra by stochastic Lanczos quadrature, beside the eigenvalues of dense blocks in float64."""

from dataclasses import replace

import numpy as np
import pytest

from dyadiq.core.errors import ConfigError, DataError
from dyadiq.curvature import analyze
from dyadiq.curvature.block import Block
from dyadiq.curvature.perturb import Network
from dyadiq.curvature.spectrum import quadrature, spectra
from graphs import NETWORKS, mlp, samples
from measured import measured_problem as problem_of

EXACT = 1e-9


def dense(problem, name):
    """The Gauss-Newton block, column by column."""
    block = Block(problem, Network(problem), name)
    columns = [block.gauss_newton(unit[None])[0][0] for unit in np.eye(block.n_elements)]
    return np.stack(columns, axis=1)


@pytest.mark.parametrize(
    ("network", "name"), [("mlp", "fc1.weight"), ("branches", "left.weight"), ("shared", "first.weight")]
)
def test_all_unit_vectors_and_steps_give_the_exact_spectrum(network, name):
    problem = problem_of(NETWORKS[network](), 12)
    matrix = dense(problem, name)
    truth = np.linalg.eigvalsh(matrix)
    assert truth.max() > 0
    points, weights = quadrature(lambda v: v @ matrix, np.eye(len(matrix)), len(matrix))
    assert weights.sum() == pytest.approx(1.0, rel=EXACT)
    gaps = (truth[1:] + truth[:-1]) / 2
    for between in gaps[np.diff(truth) > 1e-6 * truth.max()]:
        counted = len(matrix) * weights[points > between].sum()
        assert counted == pytest.approx((truth > between).sum(), abs=1e-6)


@pytest.mark.parametrize("power", [1, 2, 5, 9])
def test_moments_are_those_of_the_starts_up_to_twice_the_steps(power):
    problem = problem_of(mlp(), 12)
    matrix = dense(problem, "fc0.weight")
    starts = np.random.default_rng(0).choice([-1.0, 1.0], size=(3, len(matrix)))
    points, weights = quadrature(lambda v: v @ matrix, starts, 5)
    raised = np.linalg.matrix_power(matrix, power)
    truth = np.mean([v @ raised @ v / (v @ v) for v in starts])
    assert (weights * points**power).sum() == pytest.approx(truth, rel=EXACT)


def test_random_starts_come_close_to_eigenvalues_and_trace():
    names = ("stem.weight", "fc.weight")
    problem = problem_of(NETWORKS["residual"](), 20)
    problem = replace(problem, widths=dict.fromkeys(names, (4,)))
    found = spectra(problem, n_starts=12, n_steps=24)
    for name in names:
        truth, spectrum = np.linalg.eigvalsh(dense(problem, name)), found[name]
        assert spectrum.n == len(truth)
        assert spectrum.points.max() == pytest.approx(truth.max(), rel=1e-6)
        assert abs(spectrum.trace.value - truth.sum()) < 4 * spectrum.trace.stderr + EXACT * truth.sum()
        for share in (1e-3, 1e-2, 0.1, 0.5):
            counted, exact = spectrum.n_above(share * truth.max()), (truth > share * truth.max()).sum()
            assert abs(counted - exact) < 0.12 * len(truth)


def test_table_holds_spectra_where_asked_for_and_the_seed_decides_them(tmp_path):
    graph = mlp()
    x = samples(graph, 8)
    plain = analyze(graph, [x], bits=(4,))
    assert plain.spectra == {}
    options = {"bits": (4,), "precision": "float64", "spectrum": True}
    table = analyze(graph, [x], "trace", **options)
    assert list(table.spectra) == ["fc0.weight", "fc1.weight", "fc2.weight"]
    again = analyze(graph, [x], "trace", **options, folder=tmp_path)
    resumed = analyze(graph, [x], "trace", **options, folder=tmp_path)
    for name, found in table.spectra.items():
        np.testing.assert_array_equal(found.points, again.spectra[name].points)
        np.testing.assert_array_equal(found.weights, resumed.spectra[name].weights)
        trace = table.curvature[name].value * found.n
        assert abs(found.trace.value - trace) < 5 * found.trace.stderr + 1e-9 * trace


def test_spectra_are_refused_where_there_is_no_curvature():
    graph = mlp()
    with pytest.raises(DataError, match="needs calibration data"):
        analyze(graph, None, "squared_error", activation_bits=(), spectrum=True)
    with pytest.raises(ConfigError, match=r"method 'spectrum' needs a network with one output"):
        analyze(graph.replace(outputs=("fc1", "fc2")), [samples(graph, 8)], "squared_error", spectrum=True)
