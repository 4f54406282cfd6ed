import numpy as np
import pytest

from dyadiq.core.errors import ConfigError, DataError
from dyadiq.curvature.perturb import Network
from dyadiq.curvature.unsure import draw_unsure, uncertainty, uncertainty_of
from graphs import NETWORKS
from measured import measured_problem


def test_uncertainty_is_one_minus_the_sum_of_squared_probabilities():
    problem = measured_problem(NETWORKS["mlp"]())
    network = Network(problem)
    p = np.concatenate([network.output_of(batch).softmax(1).numpy() for batch in problem.batches])
    np.testing.assert_allclose(uncertainty(problem, network), 1.0 - np.square(p).sum(1), atol=1e-12)
    batches = [batch[0].numpy() for batch in problem.batches]
    found = uncertainty_of(problem.graph, batches, problem.facts)
    np.testing.assert_allclose(found, 1.0 - np.square(p).sum(1), atol=1e-5)


def test_samples_are_drawn_by_their_uncertainty_without_repeats_and_none_is_out_of_reach():
    unsure = np.where(np.arange(40) < 10, 1.0, 0.0)
    drawn = np.concatenate([draw_unsure(unsure, 4, seed=seed) for seed in range(200)])
    assert 0.8 < (drawn < 10).mean() < 1.0
    assert len(np.unique(draw_unsure(unsure, 40, seed=0))) == 40
    np.testing.assert_array_equal(draw_unsure(unsure, 7, seed=3), draw_unsure(unsure, 7, seed=3))
    assert (draw_unsure(unsure, 7, seed=3) != draw_unsure(unsure, 7, seed=4)).any()


def test_samples_are_drawn_alike_where_the_network_is_certain_of_all():
    drawn = np.concatenate([draw_unsure(np.zeros(5), 2, seed=seed) for seed in range(100)])
    assert set(drawn) == set(range(5))


def test_draws_are_refused_in_no_number_or_of_too_few():
    with pytest.raises(ConfigError, match="n is a positive number, got 0"):
        draw_unsure(np.ones(3), 0, seed=0)
    with pytest.raises(DataError, match="8 samples were asked for, there are 3 to draw from"):
        draw_unsure(np.ones(3), 8, seed=0)
