import numpy as np
import pytest

from dyadiq.core.errors import ConfigError
from dyadiq.curvature.trace_estimators import crossed_mean, random_signs, sample_variance, xtrace


def spectrum_matrix(values, seed=0):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))
    return q @ np.diag(values) @ q.T


def naive_xtrace(a, probes):
    """Every probe left out in turn, with a factorization of its own."""
    estimates = []
    for i in range(probes.shape[1]):
        q, _ = np.linalg.qr(a @ np.delete(probes, i, axis=1))
        rest = probes[:, i] - q @ (q.T @ probes[:, i])
        estimates.append(np.trace(q.T @ a @ q) + rest @ a @ rest)
    return np.mean(estimates), np.std(estimates, ddof=1) / np.sqrt(len(estimates))


@pytest.mark.parametrize("size", [15, 17, 33])
def test_xtrace_equals_leaving_out_one_probe_after_another(size):
    a = spectrum_matrix(np.linspace(-1.0, 3.0, size))
    found = xtrace(lambda v: a @ v, size, 12, np.random.default_rng(5))
    value, stderr = naive_xtrace(a, random_signs(np.random.default_rng(5), size, 6))
    assert found.value == pytest.approx(value, rel=1e-9)
    assert found.stderr == pytest.approx(stderr, rel=1e-8)


def test_xtrace_is_exact_when_products_reach_the_size_or_probes_the_rank():
    a = spectrum_matrix(np.arange(1.0, 8.0))
    assert xtrace(lambda v: a @ v, 7, 8, np.random.default_rng(0)).value == pytest.approx(28.0)
    low = spectrum_matrix(np.array([5.0, 2.0, -1.0] + [0.0] * 30))
    found = xtrace(lambda v: low @ v, 33, 12, np.random.default_rng(0))
    assert (found.value, found.stderr) == (pytest.approx(6.0, rel=1e-9), 0.0)
    assert xtrace(lambda v: 0.0 * v, 33, 12, np.random.default_rng(0)).value == 0.0


def test_xtrace_is_unbiased_beats_hutchinson_and_knows_its_error():
    values = 0.7 ** np.arange(40.0)
    a = spectrum_matrix(values)
    runs = [xtrace(lambda v: a @ v, 40, 16, np.random.default_rng(seed)) for seed in range(200)]
    errors = np.array([run.value - values.sum() for run in runs])
    assert abs(errors.mean()) < 4 * errors.std() / np.sqrt(200)
    stated = np.sqrt(np.mean([run.stderr**2 for run in runs]))
    assert 0.5 * errors.std() < stated < 2.0 * errors.std()
    hutchinson = [
        (r @ a * r).sum(1).mean() for r in (random_signs(np.random.default_rng(s), 16, 40) for s in range(200))
    ]
    assert errors.std() < 0.3 * np.std(hutchinson)


@pytest.mark.parametrize("n", [2, 5])
def test_xtrace_is_refused_an_odd_or_too_small_number_of_products(n):
    with pytest.raises(ConfigError, match=f"n_products must be an even number of at least 4, got {n}"):
        xtrace(lambda v: v, 9, n, np.random.default_rng(0))


def test_standard_error_of_crossed_means_covers_both_sources():
    rng = np.random.default_rng(0)
    runs = []
    for _ in range(400):
        values = 1.0 + 2.0 * rng.normal(size=(8, 1)) + 3.0 * rng.normal(size=(1, 20)) + rng.normal(size=(8, 20))
        runs.append(crossed_mean(values))
    spread = np.std([run.value for run in runs])
    stated = np.sqrt(np.mean([run.stderr**2 for run in runs]))
    assert stated == pytest.approx(spread, rel=0.1)
    assert crossed_mean(np.array([[2.0, 4.0]])).stderr == pytest.approx(1.0)
    assert crossed_mean(np.array([[2.0], [4.0]])).stderr == pytest.approx(1.0)


def test_sample_variance_leaves_out_what_the_probes_add():
    rng = np.random.default_rng(0)
    runs = [sample_variance(3.0 * rng.normal(size=(1, 20)) + 5.0 * rng.normal(size=(4, 20))) for _ in range(400)]
    assert np.mean(runs) == pytest.approx(9.0, rel=0.15)
