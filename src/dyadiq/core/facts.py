"""What allocation needs to know of a network: its decisions and the shapes of its layers. Numbers only.

Made by `cost.facts.network_facts` from a Graph; read by curvature, cost, allocate and report.
Imports errors and format; knows no graph and no torch, so that allocation is testable with ten-line inputs.

A *decision* is one named tensor whose format is chosen: a weight, or an activation tensor with all its consumers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from dyadiq.core.errors import ConfigError
from dyadiq.core.format import Format

__all__ = ["MAX_TABLE_BITS", "Decision", "DecisionKind", "LayerFacts", "NetworkFacts", "QuantConfig"]

DecisionKind = Literal["weight", "activation"]

MAX_TABLE_BITS = 8
"""Width of the codes that lookup tables read; tables have 256 entries."""


@dataclass(frozen=True, slots=True)
class QuantConfig:
    """Everything about quantization except the bits.

    Attributes:
        weight: Format of weights; its ``bits`` is only a default.
        activation: Format of activations; its ``bits`` is only a default.
        input_bits: Width of the network inputs, fixed (None: chosen like any activation).
        output_bits: Width of the network outputs, fixed.
        residual_bits: Width of what adds read, fixed, in a graph where layers read copies of their own
            (`ir.residuals`); None: chosen like any activation.
        multiplier_bits: Largest width of a dyadic multiplier, 1 to 31.
        product_bits: If given, every ``|accumulator * multiplier| + rounding`` stays below
            ``2**product_bits``: multipliers are narrowed, per channel, until the proof holds
            (24 makes float32 executors exact).
    """

    weight: Format = field(default_factory=lambda: Format(8, signed=True, narrow=True, granularity="channel"))
    activation: Format = field(default_factory=lambda: Format(8))
    input_bits: int | None = 8
    output_bits: int = 16
    residual_bits: int | None = None
    multiplier_bits: int = 16
    product_bits: int | None = None

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: A width out of range, or activations per channel or group.
        """
        if self.activation.granularity != "tensor":
            raise ConfigError(
                "activations have one scale per tensor (a consumer sums over channels); "
                f"got granularity {self.activation.granularity!r}. Use 'tensor'."
            )
        if not 1 <= self.multiplier_bits <= 31:
            raise ConfigError(f"multiplier_bits must be in [1, 31], got {self.multiplier_bits}.")
        if self.product_bits is not None and not 8 <= self.product_bits <= 62:
            raise ConfigError(f"product_bits must be in [8, 62], got {self.product_bits}.")
        for name in ("input_bits", "output_bits", "residual_bits"):
            bits = getattr(self, name)
            if bits is not None and not 1 <= bits <= 16:
                raise ConfigError(f"{name} must be in [1, 16], got {bits}.")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> QuantConfig:
        """Read a JSON object back.

        Raises:
            ConfigError: Unknown key or illegal value.
        """
        unknown = sorted(set(data) - set(cls.__slots__))
        if unknown:
            raise ConfigError(f"QuantConfig: unknown key {unknown[0]!r}.")
        fields = dict(data)
        for name in ("weight", "activation"):
            if name in fields:
                fields[name] = Format.from_json(fields[name])
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Decision:
    """One tensor whose bits are chosen.

    Attributes:
        name: Parameter name (``conv1.weight``) or activation tensor name (``layer1.0.relu``).
        kind: ``weight`` or ``activation``.
        shape: Weight shape, or activation shape without the batch dimension.
        fixed_bits: The only allowed width (network inputs and outputs, residual streams), or None.
        nonnegative: Whether its real values are >= 0 by construction (after a relu).
        clipped: Whether a relu acts on its codes, all or some of them: then they must include zero.
        looked_up: Whether a lookup table reads its codes: then they have at most `MAX_TABLE_BITS`.
    """

    name: str
    kind: DecisionKind
    shape: tuple[int, ...]
    fixed_bits: int | None = None
    nonnegative: bool = False
    clipped: bool = False
    looked_up: bool = False

    def allows(self, fmt: Format) -> bool:
        """Return whether a format can hold this tensor; see `why_not`.

        Example:
            >>> concat = Decision("concat", "activation", (8, 4, 4), clipped=True)
            >>> concat.allows(Format(1)), concat.allows(Format(1, signed=False)), concat.allows(Format(2))
            (False, True, True)
        """
        return not self.why_not(fmt)

    def why_not(self, fmt: Format) -> str:
        """Return why a format cannot hold this tensor, as a sentence with what to do; empty if it can.

        Example:
            >>> Decision("x", "activation", (4,), looked_up=True).why_not(Format(9))
            'a lookup table reads its codes, and has 256 entries. Use at most 8 bits.'
        """
        if self.looked_up and fmt.bits > MAX_TABLE_BITS:
            return (
                f"a lookup table reads its codes, and has {2**MAX_TABLE_BITS} entries. Use at most "
                f"{MAX_TABLE_BITS} bits."
            )
        if self.clipped and fmt.qtype(nonnegative=self.nonnegative).bipolar:
            return (
                "1 bit of both signs means the codes -1 and +1, but a relu acts on this tensor and needs a zero. Use "
                "at least 2 bits."
            )
        return ""

    @property
    def n_elements(self) -> int:
        """Number of elements (per sample for activations)."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """Shapes of one multiply-accumulate layer, in the letters of the BOPs formula.

    Attributes:
        name: Node name, the module path of the layer.
        op: ``conv2d`` or ``linear``.
        weight: Decision name of the weight.
        input: Decision name of the activation it reads.
        output: Decision name of the activation it ends in.
        n: Inputs of one dot product, ``(C_in / groups) * KH * KW``.
        m: Output channels.
        n_positions: Output positions, ``H_out * W_out`` (1 for linear).
        n_zero_weights: Exact zeros among the float weights (pruned; for ``f_p``).
    """

    name: str
    op: str
    weight: str
    input: str
    output: str
    n: int
    m: int
    n_positions: int
    n_zero_weights: int = 0

    @property
    def n_macs(self) -> int:
        """Multiply-accumulates per sample."""
        return self.n * self.m * self.n_positions

    @property
    def n_weights(self) -> int:
        """Number of weights."""
        return self.n * self.m


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """All decisions and layers of one network.

    Attributes:
        decisions: In the order of execution; names are unique.
        layers: In the order of execution.
        fixed_size_bytes: Bytes of the packed file that do not depend on any bits.
        float_size_bytes: 4 bytes for each float parameter (BN statistics not counted).
        config: Formats without bits.
    """

    decisions: tuple[Decision, ...]
    layers: tuple[LayerFacts, ...]
    fixed_size_bytes: int = 0
    float_size_bytes: int = 0
    config: QuantConfig = field(default_factory=QuantConfig)

    def __post_init__(self) -> None:
        """Check that names are unique and layers refer to decisions.

        Raises:
            ConfigError: A name appears twice, or a layer names an unknown decision.
        """
        names = [d.name for d in self.decisions]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ConfigError(f"decision name {twice[0]!r} appears twice.")
        for layer in self.layers:
            for name in (layer.weight, layer.input, layer.output):
                if name not in names:
                    raise ConfigError(f"layer {layer.name!r} refers to unknown decision {name!r}.")

    def decision(self, name: str) -> Decision:
        """Return a decision by name.

        Raises:
            ConfigError: No such decision.
        """
        for decision in self.decisions:
            if decision.name == name:
                return decision
        raise ConfigError(f"no decision named {name!r}.")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> NetworkFacts:
        """Read a JSON object back."""
        return cls(
            decisions=tuple(Decision(**{**d, "shape": tuple(d["shape"])}) for d in data["decisions"]),
            layers=tuple(LayerFacts(**layer) for layer in data["layers"]),
            fixed_size_bytes=data["fixed_size_bytes"],
            float_size_bytes=data["float_size_bytes"],
            config=QuantConfig.from_json(data["config"]),
        )
