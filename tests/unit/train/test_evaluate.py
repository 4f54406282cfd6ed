"""Accuracy of modules and functions; nothing of the model changes."""

import numpy as np
import pytest
import torch
from torch import nn

from dyadiq.core.errors import ConfigError, DataError
from dyadiq.train import accuracy, evaluate, predict
from dyadiq.zoo import Split

SPLIT = Split(np.random.default_rng(0).normal(size=(50, 3)), np.arange(50) % 3)


def test_accuracy_counts_hits():
    expected = np.mean(SPLIT.x.argmax(axis=1) == SPLIT.y)
    assert accuracy(lambda x: x, SPLIT) == expected
    assert accuracy(nn.Identity(), SPLIT) == expected


def test_integer_scores_are_taken_as_they_are():
    scores = (SPLIT.x * 1000).astype(np.int64)
    assert accuracy(lambda x: (x * 1000).astype(np.int64), SPLIT) == np.mean(scores.argmax(axis=1) == SPLIT.y)


def test_loss_is_the_mean_cross_entropy():
    log_p = SPLIT.x - np.log(np.exp(SPLIT.x.astype(np.float64)).sum(axis=1, keepdims=True))
    expected = -log_p[np.arange(50), SPLIT.y].mean()
    assert evaluate(lambda x: x, SPLIT, batch_size=7).loss == pytest.approx(expected, rel=1e-6)


def test_modes_of_submodules_are_restored_and_statistics_kept():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.BatchNorm1d(3)).train()
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = predict(model, SPLIT.x), predict(model, SPLIT.x)
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert [m.training for m in model] == [True, True, False]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_modes_are_restored_when_the_model_fails():
    model = nn.Sequential(nn.Linear(2, 2)).train()
    with pytest.raises(RuntimeError):
        predict(model, SPLIT.x)
    assert model[0].training


def test_nan_scores_are_refused():
    with pytest.raises(DataError, match=r"the scores of sample 3 are NaN"):
        accuracy(lambda x: np.where(np.arange(len(x))[:, None] == 3, np.nan, x), SPLIT)


def test_scores_of_the_wrong_shape_are_refused():
    with pytest.raises(DataError, match=r"scores have shape \[50\], expected \[50, classes\]"):
        accuracy(lambda x: x[:, 0], SPLIT)


def test_labels_beyond_the_classes_are_refused():
    with pytest.raises(DataError, match=r"the model has 2 classes, but labels go up to 2"):
        accuracy(lambda x: x[:, :2], SPLIT)


def test_no_samples_are_refused():
    with pytest.raises(DataError, match=r"got no samples"):
        predict(nn.Identity(), np.zeros((0, 3), np.float32))


class _TwoHeads(nn.Module):
    def forward(self, x):
        return x, x


def test_model_with_several_outputs_is_refused():
    with pytest.raises(ConfigError, match=r"_TwoHeads returns a tuple of 2, expected one tensor of logits"):
        accuracy(_TwoHeads(), SPLIT)
