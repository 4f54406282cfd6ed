"""JetTagger: the 16-64-32-32-5 fully connected classifier of high-level jet features.

Used by ``recipes/jets.toml`` through the registry in `zoo`. An ordinary `nn.Module`.
Source: Duarte et al. 2018, arXiv:1804.06913, section 2 (the network that hls4ml uses as its example); the variant
with batch norm puts it between each hidden layer and its ReLU.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["JetTagger", "jet_tagger"]


class JetTagger(nn.Module):
    """Three hidden layers of 64, 32 and 32 units with ReLU, five classes.

    Shapes:
        x ``[N, 16]`` to logits ``[N, 5]``.
    """

    def __init__(self, *, batch_norm: bool = False) -> None:
        """Build the network, with or without batch norm after the hidden layers."""
        super().__init__()
        self.fc1 = nn.Linear(16, 64)
        self.bn1 = nn.BatchNorm1d(64) if batch_norm else nn.Identity()
        self.relu1 = nn.ReLU()
        self.fc2 = nn.Linear(64, 32)
        self.bn2 = nn.BatchNorm1d(32) if batch_norm else nn.Identity()
        self.relu2 = nn.ReLU()
        self.fc3 = nn.Linear(32, 32)
        self.bn3 = nn.BatchNorm1d(32) if batch_norm else nn.Identity()
        self.relu3 = nn.ReLU()
        self.fc4 = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.relu1(self.bn1(self.fc1(x)))
        x = self.relu2(self.bn2(self.fc2(x)))
        x = self.relu3(self.bn3(self.fc3(x)))
        logits: Tensor = self.fc4(x)
        return logits


def jet_tagger(*, batch_norm: bool = False) -> JetTagger:
    """Return a `JetTagger`.

    Example:
        >>> sum(p.numel() for p in jet_tagger().parameters())
        4389
    """
    return JetTagger(batch_norm=batch_norm)
