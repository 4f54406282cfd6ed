import numpy as np
import pytest

from dyadiq.curvature.lanczos import lanczos


def symmetric(d, seed=0):
    a = np.random.default_rng(seed).normal(size=(d, d))
    return a + a.T


@pytest.mark.parametrize("d", [1, 7, 15, 17, 33])
def test_all_eigenvalues_are_found_after_as_many_steps_as_rows(d):
    a = symmetric(d)
    found = lanczos(lambda v: v @ a, np.random.default_rng(1).normal(size=(1, d)), d)
    np.testing.assert_allclose(found.eigen()[0][0], np.linalg.eigvalsh(a), atol=1e-10)
    np.testing.assert_allclose(found.basis[0] @ found.basis[0].T, np.eye(d), atol=1e-12)


def test_systems_are_solved_side_by_side_each_with_its_own_matrix():
    stack = np.stack([symmetric(6, seed) for seed in range(4)])
    found = lanczos(lambda v: np.einsum("rij,rj->ri", stack, v), np.random.default_rng(1).normal(size=(4, 6)), 6)
    values, vectors = found.top()
    np.testing.assert_allclose(values, np.linalg.eigvalsh(stack)[:, -1], rtol=1e-10)
    np.testing.assert_allclose(np.einsum("rij,rj->ri", stack, vectors), values[:, None] * vectors, atol=1e-9)


def test_space_ends_early_when_the_matrix_has_low_rank_and_no_copies_appear():
    u = np.random.default_rng(0).normal(size=(40, 2))
    found = lanczos(lambda v: v @ u @ u.T, np.random.default_rng(1).normal(size=(1, 40)), 20)
    assert found.diagonal.shape[1] == 3  # Two eigenvalues and zero.
    np.testing.assert_allclose(found.eigen()[0][0, 1:], np.linalg.eigvalsh(u.T @ u), rtol=1e-10)


def test_zero_matrix_gives_zero():
    values, vectors = lanczos(lambda v: 0.0 * v, np.ones((2, 5)), 4).top()
    assert not values.any()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0)


def test_it_stops_when_the_largest_eigenvalue_has_settled():
    a = np.diag([100.0, *np.linspace(0.0, 1.0, 199)])
    calls = []
    found = lanczos(lambda v: calls.append(0) or v @ a, np.ones((1, 200)), 100, tolerance=1e-6)
    assert len(calls) < 12
    assert found.top()[0][0] == pytest.approx(100.0, rel=1e-9)
