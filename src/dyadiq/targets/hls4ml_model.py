"""A network as hls4ml is given it: layer dictionaries with their configuration, and how to read its answers.

Made by `hls4ml_layers`; written by `hls4ml_project`. Imports no hls4ml.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Layers"]


@dataclass
class Layers:
    """What hls4ml is given, and what reading its answers needs.

    Attributes:
        layers: Layer dictionaries in topological order.
        config: ``Precision``, ``Strategy`` and ``ReuseFactor`` by layer name.
        inputs: hls4ml layer name of every program input, in the program's order.
        outputs: hls4ml layer name of every program output, in the program's order.
        exponents: Exponent of every program input's and output's values.
        orders: For flat outputs that hls4ml holds in another order: position in hls4ml to index in the program.
        accumulators: Bits of the accumulator of every layer that has one.
    """

    layers: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, dict[str, Any]] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    exponents: dict[str, int] = field(default_factory=dict)
    orders: dict[str, list[int]] = field(default_factory=dict)
    accumulators: dict[str, int] = field(default_factory=dict)
