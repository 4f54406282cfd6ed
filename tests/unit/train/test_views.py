"""What a teacher is shown: its logits are means over views, and training learns exactly these."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dyadiq.core.errors import ConfigError, DataError
from dyadiq.train import TrainConfig
from dyadiq.train.batches import Batches
from dyadiq.train.views import VIEWS, AveragedViews
from dyadiq.zoo import Split


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(24, 3)).eval()


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return Split(rng.standard_normal((12, 2, 3, 4)).astype(np.float32), rng.integers(0, 3, 12))


def test_every_name_of_the_config_is_a_view():
    for name in VIEWS:
        assert TrainConfig(teacher_views=name).teacher_views == name
    with pytest.raises(ConfigError, match="teacher_views must be one of one, mirror"):
        TrainConfig(teacher_views="shifted")


def test_mean_over_an_image_and_its_mirror_image(teacher, images):
    x = torch.from_numpy(images.x)
    mirrored = torch.from_numpy(images.x[..., ::-1].copy())
    found = AveragedViews(teacher, "mirror")(x)
    assert torch.equal(found, (teacher(x) + teacher(mirrored)) / 2)
    assert not torch.equal(found, teacher(x))
    assert torch.equal(AveragedViews(teacher, "one")(x), teacher(x))


@pytest.mark.parametrize("augment", ["none", "crop_flip", "crop_flip_mixup", "crop_flip_cutmix"])
def test_batches_carry_what_the_teacher_says_of_all_views(teacher, images, augment):
    config = TrainConfig(batch_size=5, augment=augment, distill_weight=1.0, teacher_views="mirror")
    for step in Batches(teacher, images, config, teacher).of_epoch(0):
        assert torch.allclose(step.teacher, (teacher(step.x) + teacher(step.x.flip(3))) / 2, atol=1e-6)
    plain = next(Batches(teacher, images, replace(config, teacher_views="one"), teacher).of_epoch(0))
    assert torch.allclose(plain.teacher, teacher(plain.x), atol=1e-6)


def test_samples_that_are_no_images_are_refused(images):
    flat = Split(images.x.reshape(12, -1), images.y)
    config = TrainConfig(batch_size=5, distill_weight=1.0, teacher_views="mirror")
    teacher = nn.Linear(24, 3)
    with pytest.raises(DataError, match="'mirror' takes images"):
        Batches(teacher, flat, config, teacher)
