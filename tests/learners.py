"""A small classifier with state beyond its weights, and data it can learn. Used by the tests of train."""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from dyadiq.zoo import Split

__all__ = ["Killed", "Net", "blobs", "same"]


class Net(nn.Module):
    """Batch norm and dropout: state beyond the weights, and randomness beyond the order of samples."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.fc1 = nn.Linear(4, 12)
            self.bn1 = nn.BatchNorm1d(12)
            self.drop = nn.Dropout(0.2)
            self.fc2 = nn.Linear(12, 3)

    def forward(self, x):
        return self.fc2(self.drop(F.relu(self.bn1(self.fc1(x)))))


def blobs(n=70, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return Split(rng.normal(size=(n, 4)) + 2.0 * np.eye(4)[y], y)


def same(a, b):
    a, b = (m.state_dict() if isinstance(m, nn.Module) else m for m in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Killed(BaseException):
    """Stands for a signal: nothing may catch it."""
