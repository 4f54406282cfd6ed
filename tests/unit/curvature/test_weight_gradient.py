import numpy as np
import pytest
import torch

from dyadiq.core.errors import GraphError
from dyadiq.curvature.weight_gradient import squared_norm, weight_gradient
from dyadiq.ir.execute import run_node
from dyadiq.ir.graph import Node

ROUNDING = 1e-12  # float64 sums of a few hundred terms in another order


def convolution(stride=1, padding=0, dilation=1, groups=1):
    attrs = {"stride": (stride, 1), "padding": (padding, 0), "dilation": (1, dilation), "groups": groups}
    return Node("conv", "conv2d", ("x", "w"), "conv", attrs)


CASES = {
    "linear": (Node("fc", "linear", ("x", "w"), "fc"), (7,), (5, 7)),
    "many_positions": (convolution(), (3, 8, 8), (2, 3, 3, 3)),  # direct is cheaper
    "one_position": (convolution(), (6, 3, 3), (8, 6, 3, 3)),  # ghost is cheaper
    "strided_padded_dilated": (convolution(stride=2, padding=1, dilation=2), (2, 6, 7), (4, 2, 3, 2)),
    "grouped": (convolution(groups=2), (4, 5, 5), (6, 2, 2, 3)),
    "grouped_one_position": (convolution(groups=2), (12, 3, 3), (16, 6, 3, 3)),
    "depthwise": (convolution(groups=3), (3, 5, 5), (3, 1, 3, 3)),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_autograd_of_each_sample_alone(case):
    node, x_shape, w_shape = CASES[case]
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(4, *x_shape, generator=rng, dtype=torch.float64)
    weight = torch.randn(w_shape, generator=rng, dtype=torch.float64, requires_grad=True)
    delta = torch.randn(run_node(node, [x, weight]).shape, generator=rng, dtype=torch.float64)

    gradients = weight_gradient(node, w_shape, x, delta)
    norms = squared_norm(node, w_shape, x, delta)

    assert gradients.shape == (4, *w_shape)
    for i in range(4):
        (expected,) = torch.autograd.grad((run_node(node, [x[i : i + 1], weight]) * delta[i : i + 1]).sum(), weight)
        np.testing.assert_allclose(gradients[i], expected, rtol=ROUNDING, atol=ROUNDING)
        assert norms[i].item() == pytest.approx(expected.square().sum().item(), rel=ROUNDING)


def test_node_is_refused_when_it_has_no_weight():
    node = Node("pool", "max_pool2d", ("x",), "pool")
    with pytest.raises(GraphError, match="pool: weight gradients are known for conv2d and linear, got 'max_pool2d'"):
        squared_norm(node, (1, 1, 1, 1), torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
