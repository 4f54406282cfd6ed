"""InceptionV3 for ImageNet, under the state-dict names that torchvision made usual.

Used through the registry in `zoo`; torchvision need not be installed. Ordinary `nn.Module`. The auxiliary classifier is
there, so that checkpoints load as they are; it plays no part in what the network computes.
Source: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision"; average pools count padding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor, nn

from dyadiq.zoo.layers import initialize_

__all__ = ["InceptionV3", "inception_v3"]


class BasicConv2d(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        """Build the block."""
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(n_out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Branches(nn.Module):
    """Chains of blocks side by side, by name, and a pooled branch; their results are concatenated."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation."""
        return torch.cat(self.branches(x), 1)

    def branches(self, x: Tensor) -> list[Tensor]:
        """Return the results of the branches, in order."""
        raise NotImplementedError

    def chain(self, x: Tensor, *names: str) -> Tensor:
        """Apply blocks of these names one after the other."""
        for name in names:
            x = self.get_submodule(name)(x)
        return x


class InceptionA(Branches):
    """35x35: 1x1; 5x5; two 3x3; pooled."""

    def __init__(self, n_in: int, n_pool: int, w: float) -> None:
        """Build the module."""
        super().__init__()
        self.branch1x1 = BasicConv2d(n_in, _n(64, w))
        self.branch5x5_1 = BasicConv2d(n_in, _n(48, w))
        self.branch5x5_2 = BasicConv2d(_n(48, w), _n(64, w), 5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(n_in, _n(64, w))
        self.branch3x3dbl_2 = BasicConv2d(_n(64, w), _n(96, w), 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(_n(96, w), _n(96, w), 3, padding=1)
        self.branch_pool = BasicConv2d(n_in, n_pool)
        self.n_out = 2 * _n(64, w) + _n(96, w) + n_pool

    def branches(self, x: Tensor) -> list[Tensor]:
        """Return the results of the branches, in order."""
        return [
            self.branch1x1(x),
            self.chain(x, "branch5x5_1", "branch5x5_2"),
            self.chain(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
            self.branch_pool(F.avg_pool2d(x, 3, stride=1, padding=1)),
        ]


class InceptionB(Branches):
    """35x35 to 17x17: 3x3 with stride; two 3x3, the second with stride; max pool."""

    def __init__(self, n_in: int, w: float) -> None:
        """Build the module."""
        super().__init__()
        self.branch3x3 = BasicConv2d(n_in, _n(384, w), 3, stride=2)
        self.branch3x3dbl_1 = BasicConv2d(n_in, _n(64, w))
        self.branch3x3dbl_2 = BasicConv2d(_n(64, w), _n(96, w), 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(_n(96, w), _n(96, w), 3, stride=2)
        self.n_out = _n(384, w) + _n(96, w) + n_in

    def branches(self, x: Tensor) -> list[Tensor]:
        """Return the results of the branches, in order."""
        return [
            self.branch3x3(x),
            self.chain(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
            F.max_pool2d(x, 3, stride=2),
        ]


class InceptionC(Branches):
    """17x17: 1x1; 1x7 and 7x1; the same twice; pooled."""

    def __init__(self, n_in: int, n_mid: int, w: float) -> None:
        """Build the module."""
        super().__init__()
        n, c = _n(192, w), n_mid
        row, column = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}
        self.branch1x1 = BasicConv2d(n_in, n)
        self.branch7x7_1 = BasicConv2d(n_in, c)
        self.branch7x7_2 = BasicConv2d(c, c, **row)  # type: ignore[arg-type]
        self.branch7x7_3 = BasicConv2d(c, n, **column)  # type: ignore[arg-type]
        self.branch7x7dbl_1 = BasicConv2d(n_in, c)
        self.branch7x7dbl_2 = BasicConv2d(c, c, **column)  # type: ignore[arg-type]
        self.branch7x7dbl_3 = BasicConv2d(c, c, **row)  # type: ignore[arg-type]
        self.branch7x7dbl_4 = BasicConv2d(c, c, **column)  # type: ignore[arg-type]
        self.branch7x7dbl_5 = BasicConv2d(c, n, **row)  # type: ignore[arg-type]
        self.branch_pool = BasicConv2d(n_in, n)
        self.n_out = 4 * n

    def branches(self, x: Tensor) -> list[Tensor]:
        """Return the results of the branches, in order."""
        return [
            self.branch1x1(x),
            self.chain(x, *(f"branch7x7_{i}" for i in range(1, 4))),
            self.chain(x, *(f"branch7x7dbl_{i}" for i in range(1, 6))),
            self.branch_pool(F.avg_pool2d(x, 3, stride=1, padding=1)),
        ]


class InceptionD(Branches):
    """17x17 to 8x8: 3x3 with stride; 1x7, 7x1 and 3x3 with stride; max pool."""

    def __init__(self, n_in: int, w: float) -> None:
        """Build the module."""
        super().__init__()
        n = _n(192, w)
        self.branch3x3_1 = BasicConv2d(n_in, n)
        self.branch3x3_2 = BasicConv2d(n, _n(320, w), 3, stride=2)
        self.branch7x7x3_1 = BasicConv2d(n_in, n)
        self.branch7x7x3_2 = BasicConv2d(n, n, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = BasicConv2d(n, n, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = BasicConv2d(n, n, 3, stride=2)
        self.n_out = _n(320, w) + n + n_in

    def branches(self, x: Tensor) -> list[Tensor]:
        """Return the results of the branches, in order."""
        return [
            self.chain(x, "branch3x3_1", "branch3x3_2"),
            self.chain(x, *(f"branch7x7x3_{i}" for i in range(1, 5))),
            F.max_pool2d(x, 3, stride=2),
        ]


class InceptionE(Branches):
    """8x8: 1x1; 1x3 beside 3x1, twice; pooled."""

    def __init__(self, n_in: int, w: float) -> None:
        """Build the module."""
        super().__init__()
        n = _n(384, w)
        self.branch1x1 = BasicConv2d(n_in, _n(320, w))
        self.branch3x3_1 = BasicConv2d(n_in, n)
        self.branch3x3_2a = BasicConv2d(n, n, (1, 3), padding=(0, 1))
        self.branch3x3_2b = BasicConv2d(n, n, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = BasicConv2d(n_in, _n(448, w))
        self.branch3x3dbl_2 = BasicConv2d(_n(448, w), n, 3, padding=1)
        self.branch3x3dbl_3a = BasicConv2d(n, n, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = BasicConv2d(n, n, (3, 1), padding=(1, 0))
        self.branch_pool = BasicConv2d(n_in, _n(192, w))
        self.n_out = _n(320, w) + 4 * n + _n(192, w)

    def branches(self, x: Tensor) -> list[Tensor]:
        """Return the results of the branches, in order."""
        single = self.branch3x3_1(x)
        double = self.chain(x, "branch3x3dbl_1", "branch3x3dbl_2")
        return [
            self.branch1x1(x),
            torch.cat([self.branch3x3_2a(single), self.branch3x3_2b(single)], 1),
            torch.cat([self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)], 1),
            self.branch_pool(F.avg_pool2d(x, 3, stride=1, padding=1)),
        ]


class InceptionAux(nn.Module):
    """Parameters of the auxiliary classifier, which training uses and this network does not."""

    def __init__(self, n_in: int, n_classes: int, w: float) -> None:
        """Build the parameters."""
        super().__init__()
        self.conv0 = BasicConv2d(n_in, _n(128, w))
        self.conv1 = BasicConv2d(_n(128, w), _n(768, w), 5)
        self.fc = nn.Linear(_n(768, w), n_classes)


class InceptionV3(nn.Module):
    """Stem, inception modules at 35x35, 17x17 and 8x8, mean over positions, linear.

    Shapes:
        x ``[N, 3, H, W]``, usually 299 x 299, at least 75 x 75, to logits ``[N, n_classes]``.
    """

    def __init__(self, *, width: float = 1.0, n_classes: int = 1000) -> None:
        """Build the network; ``width`` multiplies its channels."""
        super().__init__()
        w = width
        self.Conv2d_1a_3x3 = BasicConv2d(3, _n(32, w), 3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(_n(32, w), _n(32, w), 3)
        self.Conv2d_2b_3x3 = BasicConv2d(_n(32, w), _n(64, w), 3, padding=1)
        self.Conv2d_3b_1x1 = BasicConv2d(_n(64, w), _n(80, w))
        self.Conv2d_4a_3x3 = BasicConv2d(_n(80, w), _n(192, w), 3)
        self.Mixed_5b = InceptionA(_n(192, w), _n(32, w), w)
        self.Mixed_5c = InceptionA(self.Mixed_5b.n_out, _n(64, w), w)
        self.Mixed_5d = InceptionA(self.Mixed_5c.n_out, _n(64, w), w)
        self.Mixed_6a = InceptionB(self.Mixed_5d.n_out, w)
        n = self.Mixed_6a.n_out
        for name, n_mid in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
            module = InceptionC(n, _n(n_mid, w), w)
            self.add_module(f"Mixed_6{name}", module)
            n = module.n_out
        self.AuxLogits = InceptionAux(n, n_classes, w)
        self.Mixed_7a = InceptionD(n, w)
        self.Mixed_7b = InceptionE(self.Mixed_7a.n_out, w)
        self.Mixed_7c = InceptionE(self.Mixed_7b.n_out, w)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(self.Mixed_7c.n_out, n_classes)
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = F.max_pool2d(x, 3, stride=2)
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = self.get_submodule(f"Mixed_{name}")(x)
        x = self.dropout(F.adaptive_avg_pool2d(x, 1))
        logits: Tensor = self.fc(torch.flatten(x, 1))
        return logits


def _n(n_channels: int, width: float) -> int:
    return max(2, round(n_channels * width))


def inception_v3(*, width: float = 1.0, n_classes: int = 1000) -> InceptionV3:
    """Return InceptionV3 with its auxiliary classifier: 27.2 million parameters, 23.8 of them in use."""
    return InceptionV3(width=width, n_classes=n_classes)
