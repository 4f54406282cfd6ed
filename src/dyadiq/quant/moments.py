"""The second moments of what a layer sees in the quantized network and in the float one.

Used by the reconstruction methods; fills `rounding.Moments`. Rows are the patches of a convolution (padding included)
or the inputs of a linear layer. Products in float32, sums over chunks in float64. Of large maps some patches are
taken, spread over all samples, the same in both networks: `ROWS_PER_INPUT` for each of the K inputs of a dot product,
at least `MIN_ROWS`. Neighbouring patches say much the same; more of them change nothing that can be measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor

from dyadiq.ir.graph import Node
from dyadiq.rounding import Moments

__all__ = ["MIN_ROWS", "ROWS_PER_INPUT", "layer_moments", "layer_rows"]

MIN_ROWS = 1 << 14
ROWS_PER_INPUT = 40


def layer_rows(node: Node, x: Tensor, kernel: Sequence[int], chosen: Tensor | None = None) -> Tensor:
    """Return what a layer's dot products see, ``[G, rows, K]``, in the order of ``weight[o].reshape(-1)``.

    Args:
        node: A conv2d or linear.
        x: Its input, ``[N, I]`` or ``[N, C, H, W]``.
        kernel: Height and width of its kernel; empty for linear.
        chosen: Which rows, counted over samples, then positions; None: all.

    Example:
        >>> attrs = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 2}
        >>> node = Node("dw", "conv2d", ("x", "w"), "dw", attrs)
        >>> layer_rows(node, torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]]), (1, 1)).tolist()
        [[[1.0], [2.0]], [[3.0], [4.0]]]
    """
    if node.op == "linear":
        rows = x if chosen is None else x[chosen]
        return rows.reshape(1, -1, x.shape[-1])
    (top, left), (dy, dx), (sy, sx) = node.attrs["padding"], node.attrs["dilation"], node.attrs["stride"]
    x = F.pad(x, (left, left, top, top)).contiguous()
    n, channels, height, width = x.shape
    out_y = (height - dy * (kernel[0] - 1) - 1) // sy + 1
    out_x = (width - dx * (kernel[1] - 1) - 1) // sx + 1
    of_sample, of_channel, of_row, of_column = x.stride()
    patches = x.as_strided(
        (n, out_y, out_x, channels, *kernel),
        (of_sample, sy * of_row, sx * of_column, of_channel, dy * of_row, dx * of_column),
    )
    if chosen is None:
        chosen = torch.arange(n * out_y * out_x, device=x.device)
    rows = patches[chosen // (out_y * out_x), chosen // out_x % out_y, chosen % out_x]
    groups = node.attrs["groups"]
    return rows.reshape(len(chosen), groups, -1).transpose(0, 1)


def layer_moments(
    node: Node,
    kernel: Sequence[int],
    positions: int,
    quantized: Sequence[Tensor],
    reference: Sequence[Tensor],
    *,
    seed: int = 0,
) -> Moments:
    """Return the moments of a layer's inputs.

    Args:
        node: A conv2d or linear.
        kernel: Height and width of its kernel; empty for linear.
        positions: Output positions of one sample.
        quantized: Its inputs in the quantized network, in chunks.
        reference: The same in the float network.
        seed: Of the choice of rows.
    """
    generator = torch.Generator().manual_seed(seed)
    n_samples = sum(len(x) for x in quantized)
    totals: list[Tensor] = []
    n_rows, wanted = 0, 0
    for x, u in zip(quantized, reference, strict=True):
        every = len(x) * positions
        if not totals:
            wanted = max(MIN_ROWS, ROWS_PER_INPUT * layer_rows(node, x[:1], kernel).shape[2])
        share = -(-wanted * len(x) // n_samples)
        chosen = None
        if every > share:
            chosen = torch.randperm(every, generator=generator)[:share].to(x.device)
        rows, float_rows = layer_rows(node, x, kernel, chosen), layer_rows(node, u, kernel, chosen)
        n_rows += rows.shape[1]
        parts = (
            rows.transpose(1, 2) @ rows,
            float_rows.transpose(1, 2) @ rows,
            rows.double().sum(1),
            float_rows.double().sum(1),
        )
        totals = [t + p.double() for t, p in zip(totals, parts, strict=True)] if totals else [p.double() for p in parts]
    second, cross, total, float_total = (np.asarray(t.cpu().numpy(), dtype=np.float64) for t in totals)
    second = (second + np.swapaxes(second, 1, 2)) / 2
    return Moments(n_rows, second, cross, total / n_rows, float_total / n_rows)
