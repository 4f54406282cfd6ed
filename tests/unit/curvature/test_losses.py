import numpy as np
import pytest
import torch

from dyadiq.core.errors import ConfigError, DataError
from dyadiq.curvature.losses import check_outputs, root_column, root_times, root_transposed_times
from oracles import hessian, softmax_root

ROUNDING = 1e-14


@pytest.fixture
def logits():
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_root_times_its_transpose_is_the_hessian_of_cross_entropy(logits):
    for z in logits:
        dense = hessian(lambda v: torch.logsumexp(v, 0), z)
        np.testing.assert_allclose(softmax_root(z) @ softmax_root(z).T, dense, atol=ROUNDING)


def test_products_equal_those_with_the_dense_root(logits):
    vectors = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    transposed = root_transposed_times(logits, vectors, "cross_entropy")
    plain = root_times(logits, vectors[0], "cross_entropy")
    for n, z in enumerate(logits):
        dense = softmax_root(z)
        np.testing.assert_allclose(plain[n], dense @ vectors[0, n], atol=ROUNDING)
        for k in range(2):
            np.testing.assert_allclose(transposed[k, n], dense.T @ vectors[k, n], atol=ROUNDING)
        for c in range(4):
            np.testing.assert_allclose(root_column(logits, c, "cross_entropy")[n], dense[:, c], atol=ROUNDING)


def test_root_is_sqrt_two_when_the_loss_is_mse(logits):
    for product in (root_times, root_transposed_times):
        np.testing.assert_allclose(product(logits, logits, "mse").square().sum(), 2 * logits.square().sum())


def test_outputs_are_flattened_when_the_loss_is_mse():
    assert check_outputs(torch.ones(2, 3, 4, 4), "mse").shape == (2, 48)


@pytest.mark.parametrize("shape", [(2, 1), (2, 3, 4)])
def test_outputs_are_refused_when_they_are_no_logits(shape):
    with pytest.raises(ConfigError, match=r"needs logits of shape \[N, C\] with C >= 2.*Use loss 'mse'"):
        check_outputs(torch.ones(shape), "cross_entropy")


def test_outputs_are_refused_when_not_finite():
    with pytest.raises(DataError, match="NaN or infinite outputs"):
        check_outputs(torch.tensor([[1.0, float("inf")]]), "mse")
