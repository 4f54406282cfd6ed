"""Training in bfloat16: narrow dot products, float32 weights, the integers of the network it trains."""

import numpy as np
import torch

from dyadiq.core.affine import fit_range
from dyadiq.core.format import Format
from dyadiq.quant.fake_quant import ActivationQuantizer
from dyadiq.train import TrainConfig, accuracy, train
from learners import Net, blobs


def test_training_learns_when_in_bfloat16():
    model = Net()
    train(model, blobs(), TrainConfig(epochs=20, batch_size=16, learning_rate=0.01, precision="bfloat16"))
    assert accuracy(model, blobs(90, seed=1)) > 0.8
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_codes_are_those_of_float32_when_values_are_bfloat16():
    x = torch.randn(64, 16, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    quantizer = ActivationQuantizer(fit_range(0.0, 2.9, Format(4), nonnegative=True), learn_scale=True)
    wide, narrow = quantizer(x.float()), quantizer(x)
    assert narrow.dtype == torch.bfloat16
    assert torch.equal(narrow, wide.bfloat16())


def test_gradients_agree_with_float32_when_values_are_bfloat16():
    x = torch.randn(64, 16, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = []
    for value, gradient in ((x, upstream), (x.float(), upstream.float()), (x.double(), upstream.double())):
        quantizer = ActivationQuantizer(fit_range(0.0, 2.9, Format(4), nonnegative=True), learn_scale=True)
        value = value.clone().requires_grad_()
        quantizer(value).backward(gradient)
        found.append((value.grad.float(), float(quantizer.log2_gain.grad)))
    assert all(torch.equal(found[0][0], other[0]) for other in found[1:])
    assert np.isclose(found[1][1], found[2][1], rtol=1e-4)  # sums of float32
    assert np.isclose(found[0][1], found[2][1], rtol=0.05)  # results rounded to 8 bits
