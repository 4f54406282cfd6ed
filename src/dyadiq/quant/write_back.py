"""Folded weights and biases written back into the model's own parameters, through the batch norms.

Used by the reconstruction methods. A QuantModule keeps the model's unfolded parameters, so that state dicts stay the
model's own and training goes on: a folded weight V becomes the own weight V / s, with s the scales of the layer's
batch norms, and a shift of the folded bias goes to the last batch norm's beta (its running mean where the model has
no beta) or to the layer's own bias. Codes held this way sit in the middle of their steps: nearest rounding gives
them back, and `check_codes` says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dyadiq.core.affine import AffineParams
from dyadiq.core.errors import QuantError
from dyadiq.ir.graph import Node
from dyadiq.quant.fake_quant import Quantizer
from dyadiq.quant.fold import Layer, fold, scale_and_shift
from dyadiq.quant.module import QuantModule

__all__ = ["check_codes", "has_bias", "own_layers", "set_params_", "shift_bias_", "write_weight_"]


def own_layers(module: QuantModule) -> tuple[dict[str, Layer], dict[str, str]]:
    """Return the layers whose weights may be rewritten, by node name, and why the others may not.

    Left out are weights and batch norms that several layers share (rewriting for one would change the other), and
    batch norms that stand alone as depthwise convolutions of one weight a channel.
    """
    uses: Counter[str] = Counter()
    for layer in module.layers.values():
        uses.update({layer.source.inputs[1], *(n for norm in _norms(layer) for n in norm.inputs[1:])})
    found, left = {}, {}
    for name, layer in module.layers.items():
        names = [layer.source.inputs[1], *(n for norm in _norms(layer) for n in norm.inputs[1:])]
        shared = [n for n in names if uses[n] > 1]
        if layer.source.op == "batch_norm":
            left[name] = "a batch norm alone: one weight a channel, its scale is its value"
        elif shared:
            left[name] = f"{shared[0]} is shared with another layer"
        else:
            found[name] = layer
    return found, left


def has_bias(layer: Layer) -> bool:
    """Return whether the folded bias can be shifted: there is a batch norm on the result, or a bias of its own."""
    return bool(layer.norms) or len(layer.source.inputs) > 2


@torch.no_grad()
def write_weight_(module: QuantModule, layer: Layer, folded: NDArray[np.float64] | Tensor) -> None:
    """Set a layer's own weight so that folding gives ``folded``; channels that a batch norm switches off stay.

    Raises:
        QuantError: The layer is a batch norm alone.
    """
    if layer.source.op == "batch_norm":
        raise QuantError(f"{layer.weight}: is made of a batch norm and has no weight of its own to write to.")
    tensors = module.model_tensors()
    own = tensors[layer.source.inputs[1]]
    value = torch.as_tensor(folded, dtype=torch.float64, device=own.device)
    factor = torch.ones_like(value)
    for norm in layer.norms:
        factor *= scale_and_shift(norm, tensors)[0].reshape(-1, *([1] * (own.ndim - 1)))
    for norm in layer.input_norms:
        factor *= scale_and_shift(norm, tensors)[0]
    own.copy_(torch.where(factor == 0, own.double(), value / torch.where(factor == 0, 1.0, factor)))


@torch.no_grad()
def shift_bias_(module: QuantModule, layer: Layer, shift: NDArray[np.float64] | Tensor) -> None:
    """Add to a layer's folded bias.

    Raises:
        QuantError: The layer has no bias and no batch norm.

    Shapes:
        shift ``[O]``.
    """
    if not has_bias(layer):
        raise QuantError(f"{layer.weight}: the layer has no bias and no batch norm; there is nothing to shift.")
    tensors = module.model_tensors()
    if not layer.norms:
        bias = tensors[layer.source.inputs[2]]
        bias += torch.as_tensor(shift, dtype=bias.dtype, device=bias.device)
        return
    norm = layer.norms[-1]
    beta = tensors[norm.inputs[2]]
    delta = torch.as_tensor(shift, dtype=torch.float64, device=beta.device)
    if norm.inputs[2] not in norm.attrs.get("neutral", ()):
        beta += delta.to(beta.dtype)
        return
    mean = tensors[norm.inputs[3]]
    mean -= (delta / scale_and_shift(norm, tensors)[0]).to(mean.dtype)


@torch.no_grad()
def set_params_(quantizer: Quantizer, params: AffineParams) -> None:
    """Give a quantizer other scales; a learned gain starts again at 1. Zero points and group factors stay."""
    quantizer.scale.copy_(torch.as_tensor(params.scale, dtype=quantizer.scale.dtype))
    if quantizer.log2_gain is not None:
        quantizer.log2_gain.zero_()


def check_codes(module: QuantModule, layer: Layer, codes: NDArray[np.int64]) -> int:
    """Return how many codes of a layer are not those wanted, now that weight and scale are written."""
    tensors: Mapping[str, Tensor] = {n: t.detach() for n, t in module.model_tensors().items()}
    weight, bias = fold(layer, tensors)
    quantizers = module.quantizers_by_name()
    scale = module.weight_scale(layer, weight, bias, quantizers).detach().cpu().numpy()
    got = module.weight_quantizers()[layer.weight].codes(weight.double().cpu().numpy(), name=layer.weight, scale=scale)
    live = np.ones(len(codes), dtype=bool)
    for norm in layer.norms:
        live &= scale_and_shift(norm, tensors)[0].cpu().numpy() != 0
    return int(np.count_nonzero((got != codes)[live]))


def _norms(layer: Layer) -> tuple[Node, ...]:
    return (*layer.norms, *layer.input_norms)
