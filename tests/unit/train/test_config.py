"""Settings out of range."""

import math
from typing import get_args

import pytest

from dyadiq.core.errors import ConfigError
from dyadiq.train import TrainConfig
from dyadiq.train.augment import AUGMENTATIONS
from dyadiq.train.config import AugmentName


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("epochs", 0, "at least 1"),
        ("batch_size", 0, "at least 1"),
        ("learning_rate", 0.0, "positive and finite"),
        ("learning_rate", math.nan, "positive and finite"),
        ("temperature", -1.0, "positive and finite"),
        ("weight_decay", -0.1, "finite and not negative"),
        ("l1", math.inf, "finite and not negative"),
        ("scale_rate_frac", -1.0, "finite and not negative"),
        ("momentum", 1.0, r"in \[0, 1\)"),
        ("label_smoothing", 1.0, r"in \[0, 1\)"),
        ("distill_weight", 1.1, r"in \[0, 1\]"),
        ("seed", -1, "not negative"),
        ("freeze_bn_epoch", -1, "not negative"),
        ("optimizer", "lion", "one of adam, adamw, sgd"),
        ("average_decay", 1.0, r"in \[0, 1\)"),
        ("augment", "cutout", "one of none, crop_flip, crop_flip_mixup, crop_flip_cutmix"),
        ("precision", "float16", "one of float32, bfloat16"),
        ("schedule", "step", "one of cosine, onecycle, constant"),
    ],
)
def test_value_out_of_range_is_refused(field, value, expected):
    with pytest.raises(ConfigError, match=rf"training: {field} must be {expected}, got {value}"):
        TrainConfig(**{field: value})


def test_json_reads_back():
    config = TrainConfig(epochs=7, freeze_bn_epoch=3, optimizer="sgd")
    assert TrainConfig(**config.to_json()) == config


def test_names_are_those_of_the_registries():
    assert {"none", *AUGMENTATIONS} == set(get_args(AugmentName))
