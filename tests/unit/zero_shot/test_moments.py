"""The fast moments against torch's own, in float64; the divergence against torch.distributions."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from dyadiq.zero_shot.moments import channel_moments, gaussian_divergence


@pytest.mark.parametrize(
    "shape", [(1, 7), (2, 1), (33, 15), (1, 3, 1, 1), (7, 17, 1, 5), (3, 1, 15, 7), (16, 33, 2, 2)]
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_moments_and_their_gradients_are_those_of_torch(shape, layout):
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(shape, generator=generator, dtype=torch.float64) + 20
    x = x.to(memory_format=layout) if len(shape) == 4 else x
    axes = [axis for axis in range(len(shape)) if axis != 1]
    weights = torch.randn(2, shape[1], generator=generator, dtype=torch.float64)
    results = []
    for moments in (channel_moments, lambda v: tuple(reversed(torch.var_mean(v, axes, correction=0)))):
        leaf = x.clone().requires_grad_()
        mean, var = moments(leaf)
        (weights[0] @ mean + weights[1] @ var).backward()
        results.append((mean.detach(), var.detach(), leaf.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_divergence_is_that_of_normal_distributions():
    generator = torch.Generator().manual_seed(0)
    mean, known_mean = torch.randn(2, 33, generator=generator, dtype=torch.float64)
    var, known_var = torch.rand(2, 33, generator=generator, dtype=torch.float64) + 0.1
    expected = kl_divergence(Normal(mean, var.sqrt()), Normal(known_mean, known_var.sqrt()))
    torch.testing.assert_close(gaussian_divergence(mean, var, known_mean, known_var), expected)
