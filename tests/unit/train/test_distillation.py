"""The distillation loss against a sum in Python floats."""

import math

import pytest
import torch

from dyadiq.train.distillation import distillation_loss


def slow_loss(student, teacher, temperature):
    total = 0.0
    for q_row, p_row in zip(student.tolist(), teacher.tolist(), strict=True):
        q = [math.exp(v / temperature) for v in q_row]
        p = [math.exp(v / temperature) for v in p_row]
        for a, b in zip(p, q, strict=True):
            total += a / sum(p) * math.log((a / sum(p)) / (b / sum(q)))
    return temperature**2 * total / len(student)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_loss_equals_the_sum_when_logits_differ(temperature):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    assert float(distillation_loss(student, teacher, temperature)) == pytest.approx(
        slow_loss(student, teacher, temperature), rel=1e-12
    )


def test_loss_does_not_shrink_when_the_batch_is_repeated():
    student, teacher = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[0.0, 3.0, 1.0]])
    once = distillation_loss(student, teacher, 2.0)
    assert float(distillation_loss(student.repeat(8, 1), teacher.repeat(8, 1), 2.0)) == pytest.approx(float(once))


def test_gradient_keeps_its_size_when_the_temperature_is_high():
    student = torch.tensor([[0.3, -0.2]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[-0.1, 0.4]], dtype=torch.float64)
    norms = []
    for temperature in (100.0, 200.0):
        (gradient,) = torch.autograd.grad(distillation_loss(student, teacher, temperature), student)
        norms.append(float(gradient.norm()))
    assert norms[0] == pytest.approx(norms[1], rel=1e-2)  # the limit of large T: (student - teacher) / C
