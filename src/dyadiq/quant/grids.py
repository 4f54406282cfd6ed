"""Grids of single input channels, chosen by what they do to the outputs against what their bits cost.

Used by `train.sparsify`. Coordinate descent: for every channel in turn a step finer or coarser and a bit more or fewer;
kept is what minimises

    KL(softmax with inputs on the type's own grid || softmax with their channels' grids) + sum_c price_c bits_c

for logits (squared error otherwise), the rest of the network quantized as it is. Where a channel's few codes lie is
decided by the squared error of its values. Source: as `quant.refine`; prices are those of `allocation.digits`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from numpy.typing import NDArray
from torch import Tensor

from dyadiq.core.channel_grid import ChannelGrid
from dyadiq.core.qtype import QType
from dyadiq.quant.fake_quant import ActivationQuantizer
from dyadiq.quant.module import QuantModule

__all__ = ["refine_grids_"]

_MOVES = ((1, -1), (0, -1), (1, 0), (-1, 0), (-1, 1), (0, 1), (2, -2), (1, -2))  # of shift and bits


@torch.no_grad()
def refine_grids_(
    module: QuantModule, x: Tensor, prices: Mapping[str, NDArray[np.float64]], *, sweeps: int = 1
) -> dict[str, ChannelGrid]:
    """Choose the grids of network inputs in place, and return them.

    Args:
        module: With one output; its mode is left as it was.
        x: Samples of its only input.
        prices: By input: of one bit of every channel, in units of the divergence.
        sweeps: Most rounds over all channels; fewer if one changes nothing.
    """
    mode, training = module.mode, module.training
    module.eval()
    module.set_mode_("fake")
    try:
        found = {}
        for name, price in prices.items():
            quantizer = module.quantizers_by_name()[name]
            assert isinstance(quantizer, ActivationQuantizer)
            found[name] = _descend(module, quantizer, x, price, sweeps)
        return found
    finally:
        module.set_mode_(mode).train(training)


def _descend(
    module: QuantModule, quantizer: ActivationQuantizer, x: Tensor, price: NDArray[np.float64], sweeps: int
) -> ChannelGrid:
    before = quantizer.channel_grid()
    quantizer.set_grid_(None)
    wanted = module(x)
    n_channels = x.shape[1]
    grid = ChannelGrid.of_type(quantizer.qtype, n_channels) if before is None else before
    quantizer.set_grid_(grid)
    values = x.double().numpy()
    scale = float(quantizer.affine_params().scale[0])
    now = _divergence(module, x, wanted)
    for _ in range(sweeps):
        changed = False
        for c in range(n_channels):
            shift, bits = int(grid.shift[c]), int(grid.bits()[c])
            best = (now + price[c] * bits, now, grid)
            for by, more in _MOVES:
                if shift + by < 0 or bits + more < 1:
                    continue
                ends = _window(values[:, c], scale, shift + by, bits + more, quantizer.qtype)
                if ends is None:
                    continue
                tried = grid.with_channel(c, shift + by, *ends)
                quantizer.set_grid_(tried)
                divergence = _divergence(module, x, wanted)
                best = min(best, (divergence + price[c] * (bits + more), divergence, tried), key=lambda t: t[0])
            changed |= best[2] is not grid
            _, now, grid = best
            quantizer.set_grid_(grid)
        if not changed:
            break
    return grid


def _window(x: NDArray[np.float64], scale: float, shift: int, bits: int, qtype: QType) -> tuple[int, int] | None:
    """Return the ends of ``2^bits`` steps with the least squared error, within a type; None: more than it has."""
    least, most = -(-qtype.qmin >> shift), qtype.qmax >> shift
    count = 1 << bits
    if count > most - least + 1:
        return None
    ratio = x.ravel() / np.ldexp(scale, shift)
    steps, counts = np.unique(np.clip(np.floor(ratio + 0.5), least, most).astype(np.int64), return_counts=True)
    lows = np.arange(max(least, int(steps[0]) - count + 1), min(most - count + 1, int(steps[-1])) + 1)
    clipped = np.clip(steps[None], lows[:, None], lows[:, None] + count - 1)
    errors = ((clipped - steps[None]) ** 2 * counts).sum(1)
    low = int(lows[errors.argmin()])
    return low, low + count - 1


def _divergence(module: QuantModule, x: Tensor, wanted: Tensor) -> float:
    got = module(x)
    if got.ndim == 2 and got.shape[1] > 1:
        total = F.kl_div(got.log_softmax(1), wanted.log_softmax(1), reduction="sum", log_target=True)
    else:
        total = (got - wanted).double().square().sum()
    return float(total) / len(x)
