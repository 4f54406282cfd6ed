import numpy as np
import pytest
import torch

from dyadiq.core.errors import DataError
from dyadiq.curvature.block import Block
from dyadiq.curvature.perturb import Network
from graphs import NETWORKS
from measured import measured_problem
from oracles import gauss_newton_blocks, hessian_blocks

EXACT = {"rtol": 1e-10, "atol": 1e-12}  # float64, another order of summation


def inputs_of(problem):
    return torch.cat([batch[0] for batch in problem.batches])


@pytest.mark.parametrize("network", NETWORKS)
def test_products_equal_those_of_dense_matrices(network):
    problem = measured_problem(NETWORKS[network](seed=3))
    labels = torch.cat(problem.labels)
    rng = np.random.default_rng(0)
    for name in problem.widths:
        block = Block(problem, Network(problem), name)
        v = rng.normal(size=(block.n_rows, block.n_elements))
        newton = gauss_newton_blocks(problem.graph, inputs_of(problem), name)
        true = hessian_blocks(problem.graph, inputs_of(problem), name, labels)
        rows = np.broadcast_to(v, (problem.n_samples, block.n_elements))
        product, squares = block.gauss_newton(v)
        expected = np.einsum("nij,nj->ni", newton, rows)
        np.testing.assert_allclose(squares, np.einsum("ni,ni->n", rows, expected), **EXACT)
        hessian = np.einsum("nij,nj->ni", true, rows)
        np.testing.assert_allclose(block.quadratic(v), np.einsum("ni,ni->n", rows, hessian), **EXACT)
        if block.n_rows == 1:
            expected, hessian = expected.mean(0, keepdims=True), hessian.mean(0, keepdims=True)
        np.testing.assert_allclose(product, expected, **EXACT)
        np.testing.assert_allclose(block.hessian(v), hessian, **EXACT)


def test_hessian_is_the_gauss_newton_matrix_where_the_network_is_piecewise_linear_and_not_where_it_is_not():
    for network, same in (("residual", True), ("shared", False)):
        problem = measured_problem(NETWORKS[network](seed=3))
        name = problem.weights[0]
        block = Block(problem, Network(problem), name)
        v = np.random.default_rng(0).normal(size=(1, block.n_elements))
        assert np.allclose(block.hessian(v), block.gauss_newton(v)[0], rtol=1e-10) is same


def test_products_do_not_depend_on_chunks():
    graph = NETWORKS["branches"]()
    whole, cut = measured_problem(graph, cuts=()), measured_problem(graph, cuts=(1, 4))
    for name in whole.widths:
        a, b = (Block(p, Network(p), name) for p in (whole, cut))
        v = np.random.default_rng(0).normal(size=(a.n_rows, a.n_elements))
        np.testing.assert_allclose(a.gauss_newton(v)[0], b.gauss_newton(v)[0], **EXACT)
        np.testing.assert_allclose(a.hessian(v), b.hessian(v), **EXACT)


def test_hessian_is_refused_when_there_are_no_labels():
    problem = measured_problem(NETWORKS["mlp"](), labelled=False)
    block = Block(problem, Network(problem), "fc0.weight")
    with pytest.raises(DataError, match=r"needs labels, got batches without them\. Give batches as \(inputs, labels\)"):
        block.hessian(np.ones((1, block.n_elements)))


def test_products_vanish_behind_dead_units():
    graph = NETWORKS["mlp"]()
    params = {k: np.zeros_like(v) if k.startswith("fc1") else v for k, v in graph.params.items()}
    problem = measured_problem(graph.replace(params=params))
    block = Block(problem, Network(problem), "fc0.weight")
    v = np.ones((1, block.n_elements))
    assert not block.gauss_newton(v)[0].any()
    assert not block.hessian(v).any()
    assert not block.quadratic(v).any()
