"""The integer program of a module, lowered again whenever a tensor of the module changed.

Used by `module` in mode ``exact``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dyadiq.quant.exact import ExactExecutor
from dyadiq.quant.lower import lower

if TYPE_CHECKING:
    from dyadiq.quant.module import QuantModule

__all__ = ["ExactCache"]


class ExactCache:
    """Holds the executor of the latest program, and the values it was made from."""

    def __init__(self) -> None:
        """Start with none."""
        self._known: tuple[list[Tensor], list[bool], ExactExecutor] | None = None

    def executor(self, module: QuantModule) -> ExactExecutor:
        """Return the executor of the module as it is now.

        Raises:
            QuantError: A tensor has no usable scale, or its quantizer is disabled.
            ProofError: An accumulator or product leaves the width it must fit.
        """
        # Values are compared: versions and identities of tensors miss edits through ``.data`` and numpy.
        state = [*module.parameters(), *module.buffers()]
        enabled = [quantizer.enabled for quantizer in module.quantizers_by_name().values()]
        if self._known is None or self._known[1] != enabled or not _all_equal(self._known[0], state):
            self._known = [tensor.detach().clone() for tensor in state], enabled, ExactExecutor(lower(module))
        return self._known[2]


def _all_equal(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    """Return whether two lists hold the same values, dtypes and devices."""
    return len(left) == len(right) and all(
        a.dtype == b.dtype and a.device == b.device and torch.equal(a, b) for a, b in zip(left, right, strict=True)
    )
