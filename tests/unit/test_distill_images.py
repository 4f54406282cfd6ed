"""`benchmarks/distill_images.py`: what is judged, and that a way of changing images reaches the training."""

from dataclasses import replace

import pytest
import torch

from dyadiq.train.augment import MIXING

SCRIPT = "distill_images"


class Says(torch.nn.Module):
    """A network whose logits are fixed for every image."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x):
        return self.logits.expand(len(x), -1)


def test_a_network_is_judged_by_its_teacher_and_by_labels(script):
    x = torch.zeros(7, 3, 2, 2)
    student, teacher = Says(0.0, 2.0), Says(1.0, 0.0)
    found = script.judged(student, teacher, x, (x, torch.tensor([1, 1, 0, 1, 0, 0, 1])))
    assert found["right"] == pytest.approx(4 / 7)
    p, q = teacher.logits.softmax(0), student.logits.softmax(0)
    assert found["divergence"] == pytest.approx(float((p * (p / q).log()).sum()))
    assert found["nll"] == pytest.approx(float(-(4 * q[1].log() + 3 * q[0].log()) / 7))
    assert script.judged(teacher, teacher, x, (x, torch.ones(7, dtype=torch.long)))["divergence"] == pytest.approx(
        0, abs=1e-6
    )


def test_every_way_is_what_is_trained_with(script):
    for augment, rate in script.WAYS:
        config = script.settings(replace(script.CASE, augment=augment, learning_rate=rate), script.EPOCHS, 0)
        assert (config.augment, config.learning_rate, config.epochs) == (augment, rate, 3)
        assert config.distill_weight == 1 or augment not in MIXING
        assert config.teacher_views == "mirror"
