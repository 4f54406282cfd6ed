"""`benchmarks/four_bits.py`: which photographs count for which class, and what of a plan is widened."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dyadiq.core.format import Format
from dyadiq.core.plan import BitPlan
from dyadiq.zoo import Split

SCRIPT = "four_bits"
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def photographs(titles):
    """One 2 by 2 image of each class in every split, its pixels the number of the class."""
    numbers = np.arange(len(titles))
    x = np.broadcast_to(numbers.reshape(-1, 1, 1, 1), (len(titles), 3, 2, 2)).astype(np.float32)
    split = Split(x, numbers)
    return SimpleNamespace(classes=titles, train=split, validation=split, test=split)


def test_labelled_photographs_are_those_of_classes_that_both_data_sets_have(script):
    known = [(name + ", and more", label) for label, names in script.SAME_CLASS.items() for name in names]
    titles = ("pretzel", *(title for title, _ in known), "pill bottle")
    x, y = script.labelled(photographs(titles), CIFAR)
    assert x.shape == (2 * 3 * len(known), 3, 1, 1)
    for pixel, label in zip(x[:, 0, 0, 0].tolist(), y.tolist(), strict=True):
        assert known[int(pixel) - 1][1] == CIFAR[label]


def test_a_class_that_is_not_found_is_no_silence(script):
    with pytest.raises(AssertionError):
        script.labelled(photographs(("pretzel", "goose")), CIFAR)


def test_ways_widen_what_they_name(script):
    widths = {"conv1.weight": 8, "relu": 8, "relu:narrow": 4, "a.weight": 5, "a:relu": 4, "avg_pool2d": 4, "linear": 16}
    plan = BitPlan({name: Format(bits) for name, bits in widths.items()})
    expected = {
        "4 bits": set(),
        "weights of 8 bits": {"a.weight"},
        "activations of 8 bits": {"relu:narrow", "a:relu", "avg_pool2d"},
        "what the first block reads at 8 bits": {"relu:narrow"},
        "all copies of the residual stream at 8 bits": {"relu:narrow"},
        "what the last layer reads at 8 bits": {"avg_pool2d"},
        "4 bits, smoothed": set(),
    }
    assert set(script.WAYS) == set(expected)
    for way, (wide, _) in script.WAYS.items():
        found = script.widened(plan, wide).bits
        assert {name for name in widths if found[name] != widths[name]} == expected[way], way
        assert all(found[name] == 8 for name in expected[way])


def test_images_are_halved_by_means_of_four_pixels(script):
    x = np.arange(32, dtype=np.float32).reshape(2, 1, 4, 4)
    found = script.at_half_size(Split(x, np.zeros(2, np.int64)))
    assert torch.equal(found[0, 0], torch.tensor([[2.5, 4.5], [10.5, 12.5]]))
