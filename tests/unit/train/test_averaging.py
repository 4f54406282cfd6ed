"""Averages of weights: the formula, kept instead of the weights, resumed to the same bytes."""

import copy

import pytest
import torch
from torch import nn

from dyadiq.train import TrainConfig, evaluate, train
from dyadiq.train.averaging import Average
from learners import Killed, Net, blobs, same

CONFIG = TrainConfig(epochs=4, batch_size=16, learning_rate=0.05, average_decay=0.9)


def test_average_follows_the_formula():
    model = nn.Linear(2, 1)
    average = Average(model, 0.5)
    expected = model.weight.detach().clone()
    for step, decay in ((0, 0.1), (1, 2 / 11), (2, 0.25), (20, 0.5)):
        with torch.no_grad():
            model.weight.add_(step + 1.0)
        average.update(step)
        expected = decay * expected + (1 - decay) * model.weight.detach()
        assert torch.allclose(average.state()["weight"], expected)


def test_counters_are_not_averaged():
    assert "num_batches_tracked" not in Average(nn.BatchNorm1d(2), 0.5).state()
    assert "running_mean" in Average(nn.BatchNorm1d(2), 0.5).state()


def test_weights_come_back_after_averages_were_applied():
    model = nn.Linear(2, 1)
    average, before = Average(model, 0.5), model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    with average.applied():
        assert torch.equal(model.weight, before)
    assert torch.equal(model.weight, before + 1)


def test_model_ends_with_averages_when_they_are_kept():
    plain, averaged, last = Net(), Net(), Net()
    train(plain, blobs(), TrainConfig(epochs=4, batch_size=16, learning_rate=0.05))
    train(averaged, blobs(), CONFIG)
    assert not same(plain, averaged)
    result = train(last, blobs(), CONFIG, validation=blobs(30, seed=1))
    assert evaluate(last, blobs(30, seed=1)).accuracy == result.validation_accuracy


@pytest.mark.parametrize("n_done", [1, 3])
def test_resumed_training_ends_with_the_same_bytes_when_averaged(tmp_path, n_done):
    whole, parts = Net(), Net()
    start = copy.deepcopy(parts.state_dict())
    train(whole, blobs(), CONFIG, validation=blobs(30, seed=1))

    def kill(record):
        if record["epoch"] + 1 == n_done:
            raise Killed

    with pytest.raises(Killed):
        train(parts, blobs(), CONFIG, validation=blobs(30, seed=1), checkpoint=tmp_path / "c", on_epoch=kill)
    parts.load_state_dict(start)
    train(parts, blobs(), CONFIG, validation=blobs(30, seed=1), checkpoint=tmp_path / "c")
    assert same(whole, parts)
