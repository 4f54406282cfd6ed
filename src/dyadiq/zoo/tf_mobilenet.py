"""MobileNetV1 and V2 as TensorFlow's quantization-aware training left them: SAME padding, no batch norm, 1001 classes.

Used through the registry in `zoo`. Ordinary `nn.Module`; layers are called ``l00``, ``l01``, ... in order of execution,
as in files made from the ``.tflite`` networks, which `read_tf_quantized` takes: weights become real values, biases are.
Strided convolutions pad more at the bottom and right (`layers.pad_same`). Input: RGB ``(x - 128) / 128``.
Sources: Howard et al. 2017, arXiv:1704.04861; Sandler et al. 2018; Jacob et al. 2018 (the training).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor, nn

from dyadiq.zoo.layers import initialize_, pad_same, scaled_width
from dyadiq.zoo.mobilenet_v2 import MOBILENET_V2_STAGES
from dyadiq.zoo.npz_data import read_npz

__all__ = ["TfMobileNet", "read_tf_quantized", "tf_mobilenet_v1", "tf_mobilenet_v2"]

# channels and stride of each depthwise-separable pair of MobileNetV1
_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


@dataclass(frozen=True, slots=True)
class _Layer:
    """One convolution: after ``shortcut``, its result is added to what came out so many layers before."""

    n_in: int
    n_out: int
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False
    relu6: bool = True
    shortcut: int = 0


class TfMobileNet(nn.Module):
    """Convolutions one after the other, some with a shortcut, then mean over positions and a 1x1 convolution.

    Shapes:
        x ``[N, 3, H, W]`` to logits ``[N, n_classes]``; class 0 is the background.
    """

    def __init__(self, layers: list[_Layer], n_classes: int) -> None:
        """Build the network."""
        super().__init__()
        self.layers = layers
        for i, layer in enumerate(layers):
            groups = layer.n_in if layer.depthwise else 1
            conv = nn.Conv2d(layer.n_in, layer.n_out, layer.kernel, stride=layer.stride, groups=groups)
            self.add_module(f"l{i:02d}", conv)
        self.add_module(f"l{len(layers):02d}", nn.Conv2d(layers[-1].n_out, n_classes, 1))
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        made = [x]
        for i, layer in enumerate(self.layers):
            x = self.get_submodule(f"l{i:02d}")(pad_same(made[-1], layer.kernel, layer.stride))
            x = F.relu6(x) if layer.relu6 else x
            made.append(x + made[-layer.shortcut] if layer.shortcut else x)
        pooled = F.adaptive_avg_pool2d(made[-1], 1)
        return torch.flatten(self.get_submodule(f"l{len(self.layers):02d}")(pooled), 1)


def tf_mobilenet_v1(*, width: float = 0.5, n_classes: int = 1001) -> TfMobileNet:
    """Return MobileNetV1, by default of half width, for images of 160 x 160.

    Example:
        >>> sum(p.numel() for p in tf_mobilenet_v1().parameters())
        1326633
    """
    n_in = scaled_width(32, width)
    layers = [_Layer(3, n_in, 3, 2)]
    for channels, stride in _V1:
        n_out = scaled_width(channels, width)
        layers += [_Layer(n_in, n_in, 3, stride, depthwise=True), _Layer(n_in, n_out)]
        n_in = n_out
    return TfMobileNet(layers, n_classes)


def tf_mobilenet_v2(*, width: float = 1.0, n_classes: int = 1001) -> TfMobileNet:
    """Return MobileNetV2, for images of 224 x 224.

    Example:
        >>> sum(p.numel() for p in tf_mobilenet_v2().parameters())
        3489097
    """
    n_in = scaled_width(32, width)
    layers = [_Layer(3, n_in, 3, 2)]
    for expansion, channels, count, first_stride in MOBILENET_V2_STAGES:
        n_out = scaled_width(channels, width)
        for i in range(count):
            stride, n_mid = (first_stride if i == 0 else 1), n_in * expansion
            layers += [] if expansion == 1 else [_Layer(n_in, n_mid)]
            n_back = 2 if expansion == 1 else 3  # layers of the block
            shortcut = n_back if stride == 1 and n_in == n_out else 0
            layers += [
                _Layer(n_mid, n_mid, 3, stride, depthwise=True),
                _Layer(n_mid, n_out, relu6=False, shortcut=shortcut),
            ]
            n_in = n_out
    layers.append(_Layer(n_in, scaled_width(1280, width)))
    return TfMobileNet(layers, n_classes)


def read_tf_quantized(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict from 8-bit weights: ``(weight_q - weight_zero) * weight_scale``, one scale a tensor.

    Raises:
        DataError: No such file, or an array is missing.
        ArtifactError: The file is damaged.
    """
    layers = dict.fromkeys(name.partition(".")[0] for name in wanted)
    arrays = read_npz(
        path, [f"{layer}.{part}" for layer in layers for part in ("weight_q", "weight_scale", "weight_zero", "bias")]
    )
    state = {}
    for layer in layers:
        codes, scale, zero_point = (arrays[f"{layer}.weight_{part}"] for part in ("q", "scale", "zero"))
        weight = (codes.astype(np.float64) - float(zero_point[0])) * float(scale[0])
        state[f"{layer}.weight"] = torch.tensor(weight, dtype=torch.float32)
        state[f"{layer}.bias"] = torch.tensor(arrays[f"{layer}.bias"], dtype=torch.float32)
    return state
