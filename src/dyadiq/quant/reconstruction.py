"""One post-training reconstruction: what every method receives, and where it leaves what it has to say.

Made by `quant.reconstruct`; read by the methods. Holds data, does nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from dyadiq.core.errors import ConfigError
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.quant.module import QuantModule
from dyadiq.rounding import RoundingConfig

__all__ = ["ReconstructConfig", "Reconstruction"]


@dataclass(frozen=True, slots=True)
class ReconstructConfig:
    """Settings of the methods.

    Attributes:
        rounding: Of ``gptq``.
        iterations: Steps of gradient descent a block, of ``adaround``, ``brecq`` and ``qdrop``.
        batch_size: Samples of a step.
        learning_rate: Of the rounding variables (Adam).
        rounding_weight: Weight of the term that drives rounding variables to 0 or 1, in units of the error before.

    Raises:
        ConfigError: A value out of range.
    """

    rounding: RoundingConfig = field(default_factory=RoundingConfig)
    iterations: int = 500
    batch_size: int = 32
    learning_rate: float = 1e-2
    rounding_weight: float = 1.0

    def __post_init__(self) -> None:
        """Check values.

        Raises:
            ConfigError: A value out of range.
        """
        for name in ("iterations", "batch_size", "learning_rate", "rounding_weight"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"reconstruct: {name} must be positive, got {getattr(self, name)}.")


@dataclass
class Reconstruction:
    """What a method works on.

    Attributes:
        module: Changed in place; in mode ``fake``, not training.
        inputs: Samples in chunks, network inputs in order.
        reference: The float network's parameters and statistics by name, as they were before the first method.
        config: Settings.
        seed: Of everything random.
        progress: Told of each step.
        notes: What a method left undone, one sentence each.
        errors: Weight to the mean squared error of its layer's outputs: nearest rounding, and after the last method.
    """

    module: QuantModule
    inputs: list[tuple[Tensor, ...]]
    reference: Mapping[str, Tensor]
    config: ReconstructConfig = field(default_factory=ReconstructConfig)
    seed: int = 0
    progress: Progress = NO_PROGRESS
    notes: list[str] = field(default_factory=list)
    errors: dict[str, tuple[float, float]] = field(default_factory=dict)
