"""The torch path of limited weights is the numpy path, code for code, for any weights, limits and formats."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dyadiq.core.affine import fit_affine
from dyadiq.core.format import Format
from dyadiq.core.signed_digits import count_digits
from dyadiq.quant.fake_quant import WeightQuantizer


@st.composite
def limited(draw):
    """A weight of shape [O, 2, 3], its quantizer, and limits."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    weight = rng.normal(size=(draw(st.integers(1, 4)), 2, 3))
    fmt = Format(
        bits=draw(st.sampled_from([2, 3, 5, 8, 12])),
        signed=draw(st.sampled_from([True, False])),
        narrow=draw(st.booleans()),
        granularity=draw(st.sampled_from(["tensor", "channel"])),
        scale=draw(st.sampled_from(["float", "pow2"])),
    )
    quantizer = WeightQuantizer(fit_affine(weight, fmt), learn_scale=draw(st.booleans()))
    scale = quantizer.affine_params().scale.reshape(-1, 1, 1)
    if draw(st.booleans()):  # ties, also those between codes that are several steps apart, and clipped values
        weight = np.round(2 * weight / scale) / 2 * scale * draw(st.sampled_from([1, 3]))
    if draw(st.booleans()):
        weight = weight.astype(np.float32).astype(np.float64)
    limits = rng.integers(0, draw(st.integers(1, 6)), size=weight.shape)
    return weight, quantizer.limit_digits_(torch.tensor(limits)), limits


@given(limited())
@settings(max_examples=80, deadline=None)
def test_torch_and_numpy_choose_the_same_codes(case):
    weight, quantizer, limits = case
    codes = quantizer.codes(weight, name="w")
    scale = quantizer.current_scale().detach().double()
    with torch.no_grad():
        assert np.array_equal(quantizer.effective_codes(torch.tensor(weight), scale).numpy(), codes)
        fake = quantizer(torch.tensor(weight)).numpy()
    assert np.array_equal(fake, codes * scale.reshape(-1, 1, 1).numpy())
    assert (count_digits(codes) <= limits).all()
    assert quantizer.qtype.qmin <= codes.min()
    assert codes.max() <= quantizer.qtype.qmax
