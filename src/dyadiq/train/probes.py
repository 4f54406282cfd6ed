"""Gradients by quantized weights as they are used, pruned ones included. Used by `sparsify` and `descent`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from dyadiq.quant.module import QuantModule

__all__ = ["weight_probes"]


@contextmanager
def weight_probes(module: QuantModule) -> Iterator[dict[str, Tensor]]:
    """Yield zeros added to every quantized weight, by name: a gradient by them is one by the weight as it is used."""
    probes, handles = {}, []
    shapes = {name: quant.codes.shape for name, quant in module.weight_quants().items()}
    for name, quantizer in module.weight_quantizers().items():
        probe = torch.zeros(shapes[name], device=quantizer.scale.device, requires_grad=True)
        probes[name] = probe
        handles.append(quantizer.register_forward_hook(lambda _m, _i, output, probe=probe: output + probe))
    try:
        yield probes
    finally:
        for handle in handles:
            handle.remove()
