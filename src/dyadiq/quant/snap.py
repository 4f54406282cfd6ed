"""Weight scales for which the ratio of a requantization is a dyadic number, so that narrow multipliers cost no gain.

Used by `quant.module`, in training and for lowering, so that both use one scale. A multiplier of b bits changes the
ratio ``s_w s_x / s_y`` of a channel by up to ``2^-b`` of itself, and ``product_bits`` can leave few bits. Here the
weight scale takes that change instead, before weights are rounded to its grid:

    s_w' = (m / 2^e) (s_y / s_x)        m / 2^e as docs/spec/integer-program.md, "Dyadic numbers"

with the widest m whose product provably stays below ``2^product_bits``. The bound on the accumulator is that of
`ir.proof` or looser (codes of the input at their type's ends), so lowering finds ``m / 2^e`` again and keeps it.
Gradients pass as if ``s_w' / s_w`` were a constant. See docs/decisions/0010-weight-scales-absorb-narrow-multipliers.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dyadiq.core.facts import QuantConfig
from dyadiq.ir.dyadic import MAX_SHIFT
from dyadiq.quant.fake_quant import ActivationQuantizer, WeightQuantizer

__all__ = ["needs_snapping", "snapped_scale", "widest_dyadic"]

_PLENTY = 16  # bits of a multiplier whose error is far below that of any weight
_PROOF_BITS = 62


def needs_snapping(config: QuantConfig) -> bool:
    """Return whether multipliers may be so narrow that their rounding matters.

    Example:
        >>> needs_snapping(QuantConfig()), needs_snapping(QuantConfig(product_bits=24))
        (False, True)
    """
    return config.product_bits is not None or config.multiplier_bits < _PLENTY


def snapped_scale(
    quantizer: WeightQuantizer,
    weight: Tensor,
    bias: Tensor | None,
    source: ActivationQuantizer,
    target: ActivationQuantizer,
    config: QuantConfig,
) -> Tensor:
    """Return the scale that stands in for a weight quantizer's own, float64 ``[O]`` or ``[1]``.

    Args:
        quantizer: Of the weight.
        weight: Folded, ``[O, ...]``.
        bias: Folded, ``[O]``, or None.
        source: Quantizer of the layer's input.
        target: Quantizer that its accumulator is rescaled to.
        config: ``multiplier_bits`` and ``product_bits``.
    """
    scale = quantizer.current_scale().double()
    with torch.no_grad():
        source_scale, target_scale = source.current_scale().double(), target.current_scale().double()
        ratio = scale * source_scale / target_scale
        limit = float(2 ** (_PROOF_BITS if config.product_bits is None else config.product_bits))
        partial = _partial_bound(quantizer, weight, bias, source, scale)
        factor = torch.ones_like(scale)
        for _ in range(config.multiplier_bits):
            dyadic, multiplier, rounding = widest_dyadic(ratio, partial, config.multiplier_bits, limit)
            factor = dyadic / ratio
            grown = _partial_bound(quantizer, weight, bias, source, scale * factor)
            if bool(((grown * multiplier + rounding < limit) | (grown <= partial)).all()):
                break
            partial = torch.maximum(partial, grown)
    return scale * factor


def widest_dyadic(ratio: Tensor, partial: Tensor, bits: int, limit: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the nearest dyadic numbers of the most bits for which ``partial * m + 2^(e-1) < limit``, m, and 2^(e-1).

    Where no width fits, the ratio itself comes back, with m = 0.

    Args:
        ratio: Positive, float64 ``[C]``.
        partial: Bound on the accumulator, float64 ``[C]``.
        bits: Most bits of m.
        limit: Bound on the product.

    Example:
        >>> values = [torch.tensor([v], dtype=torch.float64) for v in (0.3, 1000.0)]
        >>> [float(v) for v in widest_dyadic(*values, bits=16, limit=2.0**24)]
        [0.29998779296875, 4915.0, 8192.0]
        >>> widest_dyadic(*values, bits=16, limit=2.0**14)[0]  # 5 / 2^4
        tensor([0.3125], dtype=torch.float64)
    """
    fraction, exponent = torch.frexp(ratio)
    widths = torch.arange(bits, 0, -1, device=ratio.device).reshape(-1, 1)
    shift = widths - exponent
    codes = torch.floor(fraction * _power_of_two(widths) + 0.5).long()
    trailing = (codes & -codes).minimum(_power_of_two(shift.clamp(min=0)).long())  # zeros, removed
    multiplier = (codes // trailing).double() * _power_of_two((-shift).clamp(min=0))
    rounding = torch.floor(_power_of_two(shift - 1) / trailing)  # 1/2 becomes 0
    fits = (partial * multiplier + rounding < limit) & (shift <= MAX_SHIFT)
    first, found = fits.int().argmax(dim=0, keepdim=True), fits.any(dim=0)
    tables = (codes * _power_of_two(-shift), multiplier, rounding)
    dyadic, multiplier, rounding = (table.gather(0, first)[0] for table in tables)
    return torch.where(found, dyadic, ratio), multiplier * found, rounding * found


def _power_of_two(exponent: Tensor) -> Tensor:
    """Return ``2^exponent``, exact in float64, for exponents from -62 to 62; those beyond are taken as these."""
    size = (torch.ones_like(exponent, dtype=torch.int64) << exponent.abs().clamp(max=MAX_SHIFT)).double()
    return torch.where(exponent >= 0, size, 1.0 / size)


def _partial_bound(
    quantizer: WeightQuantizer, weight: Tensor, bias: Tensor | None, source: ActivationQuantizer, scale: Tensor
) -> Tensor:
    """Return a bound on every partial sum, ``[O]``, or ``[1]`` where channels share a scale."""
    codes = quantizer.effective_codes(weight, scale).flatten(1)
    top = 1 if source.qtype.bipolar else max(abs(source.qtype.qmin), abs(source.qtype.qmax))
    offset = -source.current_zero_point() * codes.sum(dim=1)
    if bias is not None:
        offset = offset + torch.floor(bias.double() / (scale * source.current_scale().double()) + 0.5)
    partial = offset.abs() + codes.abs().sum(dim=1) * top
    return partial if scale.numel() > 1 else partial.max().reshape(1)
