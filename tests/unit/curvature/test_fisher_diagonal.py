"""The Fisher diagonal against its definition: the sum over all labels of their probability times squared gradients."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name

from dyadiq.core.errors import DataError
from dyadiq.curvature.fisher_diagonal import fisher_diagonal

_SIGMAS = 5.0  # for a sum of independent draws; there are 24 entries


def network(seed=0):
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    second = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    return {"first": first, "second": second}, lambda x: torch.tanh(x @ first.T) @ second.T


def samples(n, seed=1):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def squared_gradients(parameters, model, x):
    """Return, for one sample, ``[labels]`` probabilities and by parameter ``[labels, ...]`` squared gradients."""
    logits = model(x[None])
    squares = {name: [] for name in parameters}
    for label in range(logits.shape[1]):
        loss = F.cross_entropy(logits, torch.tensor([label]))
        gradients = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            squares[name].append(gradient**2)
    return logits.detach().softmax(1)[0], {name: torch.stack(found) for name, found in squares.items()}


def exact(parameters, model, xs):
    """Return mean and variance of a single draw's squared gradients, averaged over samples."""
    means = {name: torch.zeros_like(value) for name, value in parameters.items()}
    variances = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for x in xs:
        p, squares = squared_gradients(parameters, model, x)
        for name, value in squares.items():
            mean = torch.einsum("c,c...->...", p, value)
            means[name] += mean.detach() / len(xs)
            variances[name] += (torch.einsum("c,c...->...", p, value**2) - mean**2).detach() / len(xs)
    return means, variances


def test_estimate_is_the_sum_over_labels_up_to_its_standard_error():
    parameters, model = network()
    x, repeats = samples(16), 60
    wanted, variances = exact(parameters, model, x)
    found = fisher_diagonal(model, parameters, x.repeat(repeats, 1), micro_batch=1)
    for name in parameters:
        stderr = (variances[name] / (len(x) * repeats)).sqrt()
        assert bool(((found[name] - wanted[name]).abs() <= _SIGMAS * stderr).all())


def test_estimate_has_no_bias_when_batches_are_larger():
    parameters, model = network()
    x = samples(8)
    wanted, _ = exact(parameters, model, x)
    repeats = 400
    found = fisher_diagonal(model, parameters, x.repeat(repeats, 1), micro_batch=8)
    for name in parameters:  # a squared sum of many has the relative variance of a squared normal value, 2
        ratio = found[name] / wanted[name]
        assert bool(((ratio - 1).abs() <= _SIGMAS * (3 / repeats) ** 0.5).all())


def test_every_draw_of_one_sample_is_one_of_its_labels():
    parameters, model = network()
    x = samples(1)
    _, squares = squared_gradients(parameters, model, x[0])
    seen = set()
    for seed in range(12):
        found = fisher_diagonal(model, parameters, x, micro_batch=1, seed=seed)
        same = [c for c in range(3) if all(torch.allclose(found[n], squares[n][c], rtol=1e-12) for n in found)]
        assert len(same) == 1
        seen.add(same[0])
    assert len(seen) > 1


def test_same_seed_gives_the_same_bits_and_the_rest_is_left_out():
    parameters, model = network()
    x = samples(70)
    first, again = (fisher_diagonal(model, parameters, x, seed=3) for _ in range(2))
    shorter = fisher_diagonal(model, parameters, x[:64], seed=3)
    assert all(torch.equal(first[n], again[n]) and torch.equal(first[n], shorter[n]) for n in parameters)


def test_too_few_samples_and_odd_outputs_are_refused():
    parameters, model = network()
    with pytest.raises(DataError, match=r"Fisher diagonal: got 5 samples, expected at least 32\. Give it more data"):
        fisher_diagonal(model, parameters, samples(5))
    with pytest.raises(DataError, match=r"the model returns shape \[32\], expected finite logits \[N, classes\]"):
        fisher_diagonal(lambda x: model(x)[:, 0], parameters, samples(32))
    with pytest.raises(DataError, match=r"expected finite logits"):
        fisher_diagonal(lambda x: model(x) * float("inf"), parameters, samples(32))
