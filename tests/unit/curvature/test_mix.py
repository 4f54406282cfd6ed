import numpy as np
import pytest

from dyadiq.core.errors import ConfigError, DataError
from dyadiq.curvature.mix import blend


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
