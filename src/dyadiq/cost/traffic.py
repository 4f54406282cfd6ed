"""Arithmetic intensity and energy of every layer: how much it computes for what it moves.

Used by the summary of a run and the report. Reads facts and bits only. Kind: estimated, by formulas.

Elements moved: every weight, input and output element of the layer once, ``I + M N D_K^2 / g + O``; intensity is
``MACs / elements`` (or per byte, at the chosen bits). At D_F = 14, M = N = 512, D_K = 3 (Iandola and Keutzer's table):
spatial 180, pointwise 110, in four groups 146, depthwise 4.3 MACs per element. Joins, pools and biases are not counted.
Energy is that of `energy`: its MACs, and one SRAM access for each bit moved. Summed over layers it lacks the writing of
the network's input and the reading of its output, and counts an activation as often as layers read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dyadiq.core.facts import LayerFacts, NetworkFacts
from dyadiq.cost.energy import access_energy_fj, mac_energy_fj

__all__ = ["LayerTraffic", "layer_traffic"]


@dataclass(frozen=True, slots=True)
class LayerTraffic:
    """What one inference computes and moves in one layer.

    Attributes:
        name: Node of the layer.
        n_macs: Multiply-accumulates.
        n_elements: Weights, inputs and outputs, each once.
        bits: Their bits.
        mac_energy_fj: Of the multiplications and additions.
        sram_energy_fj: Of moving the bits once.
    """

    name: str
    n_macs: int
    n_elements: int
    bits: int
    mac_energy_fj: int
    sram_energy_fj: int

    @property
    def n_bytes(self) -> float:
        """Bytes moved, densely packed."""
        return self.bits / 8

    @property
    def macs_per_element(self) -> float:
        """Arithmetic intensity, whatever the bits."""
        return self.n_macs / self.n_elements

    @property
    def macs_per_byte(self) -> float:
        """Arithmetic intensity at the chosen bits."""
        return self.n_macs / self.n_bytes

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        ratios = {
            "bytes": self.n_bytes,
            "macs_per_element": round(self.macs_per_element, 3),
            "macs_per_byte": round(self.macs_per_byte, 3),
            "energy_fj": self.mac_energy_fj + self.sram_energy_fj,
            "kind": "estimated",
        }
        return asdict(self) | ratios


def layer_traffic(facts: NetworkFacts, bits: Mapping[str, int]) -> tuple[LayerTraffic, ...]:
    """Return every layer's arithmetic, traffic and energy, in order of execution.

    Args:
        facts: The network.
        bits: Width by decision name.

    Example:
        >>> from dyadiq.core.facts import Decision
        >>> facts = NetworkFacts(
        ...     (Decision("x", "activation", (512, 14, 14)), Decision("w", "weight", (512, 512, 3, 3)),
        ...      Decision("y", "activation", (512, 14, 14))),
        ...     (LayerFacts("conv", "conv2d", "w", "x", "y", n=512 * 9, m=512, n_positions=196),),
        ... )
        >>> (layer,) = layer_traffic(facts, {"x": 8, "w": 8, "y": 8})
        >>> layer.n_macs, layer.n_elements, layer.n_bytes, round(layer.macs_per_element, 1)
        (462422016, 2560000, 2560000.0, 180.6)
    """
    return tuple(_layer(facts, layer, bits) for layer in facts.layers)


def _layer(facts: NetworkFacts, layer: LayerFacts, bits: Mapping[str, int]) -> LayerTraffic:
    counts = (
        (layer.n_weights, bits[layer.weight]),
        (facts.decision(layer.input).n_elements, bits[layer.input]),
        (layer.m * layer.n_positions, bits[layer.output]),
    )
    moved = sum(count * width for count, width in counts)
    return LayerTraffic(
        layer.name,
        layer.n_macs,
        sum(count for count, _ in counts),
        moved,
        round(layer.n_macs * mac_energy_fj(bits[layer.weight], bits[layer.input])),
        round(access_energy_fj(moved)),
    )
