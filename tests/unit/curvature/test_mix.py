import numpy as np
import pytest

from dyadiq.core.errors import ConfigError, DataError
from dyadiq.curvature.mix import blend, uncertainty, unsure_samples
from dyadiq.curvature.perturb import Network
from graphs import NETWORKS
from measured import measured_problem


@pytest.mark.parametrize("n", [2, 3, 17])
def test_every_sample_is_blended_with_another_and_every_one_is_a_partner_once(n):
    x = np.eye(n, dtype=np.float32)
    blends = blend(x, seed=4, share=0.25)
    assert blends.dtype == np.float32
    np.testing.assert_array_equal(np.diag(blends), 0.75)
    np.testing.assert_array_equal((blends == 0.25).sum(0), 1)
    np.testing.assert_array_equal((blends == 0.25).sum(1), 1)


def test_pairing_depends_on_the_seed_alone():
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    np.testing.assert_array_equal(blend(x, seed=1), blend(x, seed=1))
    assert (blend(x, seed=1) != blend(x, seed=2)).any()


def test_blends_are_refused_without_a_partner_or_with_too_large_a_share():
    with pytest.raises(DataError, match="expected at least 2 samples, got 1"):
        blend(np.zeros((1, 2), np.float32), seed=0)
    with pytest.raises(ConfigError, match=r"share is in \(0, 0.5\], got 0.7"):
        blend(np.zeros((4, 2), np.float32), seed=0, share=0.7)


def test_unsure_samples_are_blends_and_by_turns_real_ones_that_the_network_is_unsure_about():
    x = np.arange(40, dtype=np.float32)[:, None]
    unsure = np.where(np.arange(40) < 10, 1.0, 0.0)
    drawn = np.concatenate([unsure_samples(x, unsure, 12, seed=seed)[1::2, 0] for seed in range(50)])
    assert np.isin(drawn, x).all()
    assert 0.7 < (drawn < 10).mean() < 1.0
    one = unsure_samples(x, unsure, 20, seed=0)
    assert len(np.unique(one[1::2])) == 10
    np.testing.assert_array_equal(one, unsure_samples(x, unsure, 20, seed=0))
    assert unsure_samples(x, np.zeros(40), 2, seed=0).shape == (2, 1)


def test_uncertainty_is_one_minus_the_sum_of_squared_probabilities():
    problem = measured_problem(NETWORKS["mlp"]())
    network = Network(problem)
    p = np.concatenate([network.output_of(batch).softmax(1).numpy() for batch in problem.batches])
    np.testing.assert_allclose(uncertainty(problem, network), 1.0 - np.square(p).sum(1), atol=1e-12)


def test_unsure_samples_are_refused_in_odd_numbers_or_of_too_few():
    x = np.zeros((3, 1), np.float32)
    with pytest.raises(ConfigError, match="n is a positive even number, got 3"):
        unsure_samples(x, np.ones(3), 3, seed=0)
    with pytest.raises(DataError, match="8 need at least 4 samples to draw from, got 3"):
        unsure_samples(x, np.ones(3), 8, seed=0)
