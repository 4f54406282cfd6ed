"""Random changes of training images, by name: a function of (seed, epoch, batch), so that resuming repeats them.

Used by `batches`. A new augmentation is one function here and one line in `AUGMENTATIONS`. It gets a batch of
samples, the value of black for each channel and a generator, and returns a batch of the same shape.
Sources: of ``crop_flip`` Lee et al. 2015 and He et al. 2016, section 4.2, the usual one for CIFAR; of mixing for
distillation Zhang et al. 2018 (mixup), Yun et al. 2019 (CutMix) and Beyer et al. 2022 (a student who sees what the
teacher sees).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor

from dyadiq.core.errors import DataError

__all__ = ["AUGMENTATIONS", "MIXING", "Augmentation", "crop_flip", "crop_flip_cutmix", "crop_flip_mixup"]

Augmentation: TypeAlias = Callable[[Tensor, Tensor, torch.Generator], Tensor]

_PADDING = 4


def crop_flip(x: Tensor, black: Tensor, generator: torch.Generator) -> Tensor:
    """Return every image shifted by up to 4 pixels in each direction, and mirrored left to right half of the time.

    Args:
        x: Images.
        black: What comes in at the borders.
        generator: On the CPU.

    Shapes:
        x ``[N, C, H, W]``, black ``[C]``.

    Raises:
        DataError: These are no images.

    Example:
        >>> crop_flip(torch.ones(2, 3, 8, 8), torch.zeros(3), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 8, 8])
    """
    if x.ndim != 4:
        raise DataError(f"augment: crop_flip takes images [N, C, H, W], got samples of shape {list(x.shape[1:])}.")
    n, _, height, width = x.shape
    shifts = torch.randint(0, 2 * _PADDING + 1, (2, n, 1), generator=generator)
    mirrored = torch.randint(0, 2, (n, 1), generator=generator, dtype=torch.bool)
    columns = torch.arange(width).expand(n, width)
    columns = torch.where(mirrored, columns.flip(1), columns) + shifts[0]
    rows = torch.arange(height) + shifts[1]
    border = black.reshape(-1, 1, 1)
    padded = torch.nn.functional.pad(x - border, (_PADDING,) * 4) + border
    index = torch.arange(n).reshape(-1, 1, 1)
    rows, columns = rows.to(x.device)[:, :, None], columns.to(x.device)[:, None, :]
    result: Tensor = padded.movedim(1, -1)[index.to(x.device), rows, columns].movedim(-1, 1)
    return result


def crop_flip_mixup(x: Tensor, black: Tensor, generator: torch.Generator) -> Tensor:
    """Return ``t x_i + (1 - t) x_j`` of images changed by `crop_flip`, one ``t`` in [0, 1] and one other image each.

    The result has no label, so that it is for distillation only (``distill_weight = 1``): the student learns what the
    teacher makes of images that neither has seen.

    Args:
        x: Images.
        black: What comes in at the borders.
        generator: On the CPU.

    Shapes:
        x ``[N, C, H, W]``, black ``[C]``.

    Raises:
        DataError: These are no images.

    Example:
        >>> crop_flip_mixup(torch.ones(2, 3, 8, 8), torch.ones(3), torch.Generator().manual_seed(0)).unique()
        tensor([1.])
    """
    x = crop_flip(x, black, generator)
    share = torch.rand((len(x), 1, 1, 1), generator=generator).to(x)
    other = torch.randperm(len(x), generator=generator).to(x.device)
    return torch.lerp(x[other], x, share)


def crop_flip_cutmix(x: Tensor, black: Tensor, generator: torch.Generator) -> Tensor:
    """Return images changed by `crop_flip`, a rectangle of each replaced by the same place of one other image.

    The rectangle has the image's proportions and a share of its area that is uniform in [0, 1], sides rounded,
    and lies anywhere in it. Unlike a mean of two images, it looks like a photograph nearly everywhere. The result
    has no label, so that it is for distillation only (``distill_weight = 1``).

    Args:
        x: Images.
        black: What comes in at the borders.
        generator: On the CPU.

    Shapes:
        x ``[N, C, H, W]``, black ``[C]``.

    Raises:
        DataError: These are no images.

    Example:
        >>> crop_flip_cutmix(torch.ones(2, 3, 8, 8), torch.ones(3), torch.Generator().manual_seed(0)).unique()
        tensor([1.])
    """
    x = crop_flip(x, black, generator)
    side = torch.rand(len(x), generator=generator).sqrt()
    inside = torch.ones((len(x), 1, 1, 1), dtype=torch.bool)
    for dim in (2, 3):
        length = (side * x.shape[dim]).round().long()
        start = (torch.rand(len(x), generator=generator) * (x.shape[dim] - length + 1)).long()
        distance = torch.arange(x.shape[dim]) - start[:, None]
        cut = (distance >= 0) & (distance < length[:, None])
        inside = inside & cut.reshape(len(x), 1, *((-1, 1) if dim == 2 else (1, -1)))
    other = torch.randperm(len(x), generator=generator).to(x.device)
    return torch.where(inside.to(x.device), x[other], x)


AUGMENTATIONS: Mapping[str, Augmentation] = MappingProxyType(
    {"crop_flip": crop_flip, "crop_flip_mixup": crop_flip_mixup, "crop_flip_cutmix": crop_flip_cutmix}
)
MIXING = frozenset({"crop_flip_mixup", "crop_flip_cutmix"})  # Augmentations whose samples have no label.
