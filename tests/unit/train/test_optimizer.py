"""Parameter groups and the flat optimizer state."""

import pytest
import torch
from torch import nn

from dyadiq.core.errors import ConfigError
from dyadiq.train import TrainConfig
from dyadiq.train.optimizer import make_optimizer


class WithQuantizers(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 3)
        self.bn = nn.BatchNorm1d(3)
        self.quantizers = nn.ModuleDict({"fc": nn.Linear(1, 1)})


def test_scales_learn_slower_and_only_weights_decay():
    config = TrainConfig(learning_rate=0.5, weight_decay=0.1, scale_rate_frac=0.25)
    named = make_optimizer(WithQuantizers(), config)
    assert named.names[:2] == ("fc.weight", "fc.bias")
    assert named.names[-2:] == ("quantizers.fc.weight", "quantizers.fc.bias")
    groups = named.optimizer.param_groups
    assert [(g["lr"], g["weight_decay"], len(g["params"])) for g in groups] == [
        (0.5, 0.1, 1),
        (0.5, 0.0, 3),
        (0.125, 0.0, 2),
    ]
    named.set_rate(0.5)
    assert [g["lr"] for g in groups] == [0.25, 0.25, 0.0625]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_state_reads_back(optimizer):
    config = TrainConfig(optimizer=optimizer)
    model = WithQuantizers()
    named = make_optimizer(model, config)
    model.bn(model.fc(torch.ones(4, 2) * torch.arange(4.0)[:, None])).square().sum().backward()
    named.optimizer.step()
    state = named.state()
    other = make_optimizer(model, config)
    other.load_state(state)
    assert state
    assert other.state().keys() == state.keys()
    assert all(torch.equal(other.state()[key], value) for key, value in state.items())


def test_model_without_parameters_is_refused():
    with pytest.raises(ConfigError, match=r"ReLU has no parameter that requires a gradient"):
        make_optimizer(nn.ReLU(), TrainConfig())
