"""Learning rate curves against torch's schedulers."""

import pytest
import torch

from dyadiq.train.schedule import learning_rate_factor


def torch_rates(make_scheduler, n_steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = make_scheduler(optimizer), []
    for _ in range(n_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_cosine_equals_torch():
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 17), 17)
    assert [learning_rate_factor("cosine", k, 17) for k in range(17)] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n_steps", [1, 2, 3, 40])
def test_onecycle_rises_then_falls_and_stays_positive(n_steps):
    rates = [learning_rate_factor("onecycle", k, n_steps) for k in range(n_steps)]
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert min(rates) > 0
    assert max(rates) <= 1


def test_constant_is_constant():
    assert {learning_rate_factor("constant", k, 9) for k in range(9)} == {1.0}
