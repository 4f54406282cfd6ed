"""Augmentation: every result is a shifted, perhaps mirrored sample, and follows the generator only."""

import numpy as np
import pytest
import torch

from dyadiq.core.errors import ConfigError, DataError
from dyadiq.train import TrainConfig
from dyadiq.train.augment import AUGMENTATIONS, MIXING, crop_flip, crop_flip_cutmix, crop_flip_mixup
from dyadiq.train.batches import Batches
from dyadiq.zoo import Split


def all_views(image, black):
    """Every shift by up to 4 pixels, mirrored or not: pad, mirror, cut."""
    channels, height, width = image.shape
    padded = black[:, None, None].expand(channels, height + 8, width + 8).clone()
    padded[:, 4:-4, 4:-4] = image
    cuts = [padded[:, i : i + height, j : j + width] for i in range(9) for j in range(9)]
    return [view for cut in cuts for view in (cut, cut.flip(2))]


def test_every_result_is_a_shifted_or_mirrored_image():
    x = torch.randn(30, 2, 7, 9, generator=torch.Generator().manual_seed(0))
    black = torch.tensor([-3.0, -5.0])
    result = crop_flip(x, black, torch.Generator().manual_seed(1))
    seen = set()
    for image, got in zip(x, result, strict=True):
        found = [number for number, view in enumerate(all_views(image, black)) if torch.allclose(view, got, atol=1e-6)]
        assert found
        seen.add(found[0])
    assert len(seen) > 20
    assert {number % 2 for number in seen} == {0, 1}  # mirrored and not


def test_same_generator_gives_the_same_images():
    x, black = torch.randn(8, 3, 8, 8), torch.zeros(3)
    first, again, other = (crop_flip(x, black, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_samples_that_are_no_images_are_refused():
    with pytest.raises(DataError, match=r"crop_flip takes images \[N, C, H, W\], got samples of shape \[5\]"):
        crop_flip(torch.zeros(2, 5), torch.zeros(5), torch.Generator())


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_epochs_differ_and_repeat_themselves(name):
    split = Split(np.random.default_rng(0).normal(size=(12, 3, 8, 8)).astype(np.float32), np.arange(12) % 3)
    teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    batches = Batches(teacher, split, TrainConfig(batch_size=5, augment=name, distill_weight=1.0), teacher)
    epochs = [[step.x for step in batches.of_epoch(epoch)] for epoch in (0, 1, 0)]
    assert len(epochs[0]) == batches.count == 2
    assert all(torch.equal(a, b) for a, b in zip(epochs[0], epochs[2], strict=True))
    assert not torch.equal(epochs[0][0], epochs[1][0])


def test_black_is_the_smallest_value_of_a_channel():
    x = np.random.default_rng(0).normal(size=(6, 2, 8, 8)) + np.array([5.0, -5.0])[:, None, None]
    split = Split(x, np.arange(6) % 3)
    batches = Batches(torch.nn.Linear(1, 1), split, TrainConfig(batch_size=6, augment="crop_flip"), None)
    (step,) = batches.of_epoch(0)
    assert torch.allclose(step.x.amin((0, 2, 3)), torch.tensor(split.x.min((0, 2, 3))))


class Pixels(torch.nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :3]


def test_teacher_sees_the_augmented_images():
    split = Split(np.random.default_rng(0).normal(size=(6, 3, 8, 8)), np.arange(6) % 3)
    for name in ("none", "crop_flip"):
        batches = Batches(torch.nn.Linear(1, 1), split, TrainConfig(batch_size=6, augment=name), Pixels())
        (step,) = batches.of_epoch(0)
        assert torch.equal(step.teacher, step.x.flatten(1)[:, :3])


def test_mixed_images_lie_between_two_changed_ones():
    x, black = torch.randn(16, 3, 8, 8), torch.zeros(3)
    changed = crop_flip(x, black, torch.Generator().manual_seed(3))
    mixed = crop_flip_mixup(x, black, torch.Generator().manual_seed(3))
    partners = set()
    for own, got in zip(changed, mixed, strict=True):
        towards = (changed - own).flatten(1)
        share = (towards @ (got - own).flatten()) / towards.square().sum(1).clamp(min=1e-9)
        rest = ((got - own).flatten() - share[:, None] * towards).norm(dim=1)
        found = int(rest.argmin())
        assert rest[found] < 1e-4
        assert -1e-6 <= share[found] <= 1 + 1e-6
        partners.add(found)
    assert len(partners) > 5


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9), (2, 15)])
def test_a_rectangle_comes_from_the_same_place_of_one_other_image(height, width):
    x, black = torch.randn(60, 2, height, width), torch.full((2,), -9.0)
    changed = crop_flip(x, black, torch.Generator().manual_seed(3))
    mixed = crop_flip_cutmix(x, black, torch.Generator().manual_seed(3))
    shares, partners, places = [], set(), set()
    for own, got in zip(changed, mixed, strict=True):
        new = (got != own).any(0)
        if not new.any():
            continue
        rows, columns = new.any(1).nonzero().flatten(), new.any(0).nonzero().flatten()
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        same = (changed[:, :, top:bottom, left:right] == got[:, top:bottom, left:right]).flatten(1).all(1)
        assert same.any()  # of one image, and nothing but the rectangle changed
        partners.update(same.nonzero().flatten().tolist())
        places.add((top, left))
        shares.append((bottom - top) * (right - left) / (height * width))
    assert len(partners) > 5
    assert len(places) > 5
    assert max(shares) > 0.6
    assert min(shares) < 0.3


@pytest.mark.parametrize("augment", sorted(MIXING))
@pytest.mark.parametrize(("weight", "teacher"), [(0.5, True), (1.0, False)])
def test_mixed_images_have_no_labels(weight, teacher, augment):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    split = Split(np.zeros((4, 3, 8, 8), np.float32), np.zeros(4, np.int64))
    config = TrainConfig(augment=augment, distill_weight=weight)
    with pytest.raises(ConfigError, match="samples without labels, so it needs a teacher and distill_weight = 1"):
        Batches(model, split, config, model if teacher else None)
