"""`SparsifyConfig`: how far weights are pruned while training, and how the circuit is finished afterwards.

Used by `sparsify`, `finetune` and recipes; part of the fingerprint of checkpoints. Holds no paths and no data.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from dyadiq.core.errors import ConfigError

__all__ = ["SparsifyConfig"]


@dataclass(frozen=True, slots=True)
class SparsifyConfig:
    """What to reach, and how.

    Attributes:
        lut: LUTs of the whole circuit to end with; exactly one of this and the next.
        digits_per_weight: Mean nonzero digits of a weight to end with.
        saliency: What an error of a weight costs: ``fisher`` or ``magnitude``.
        max_digits: Most digits of any weight.
        start_frac: When limits begin, as a fraction of all epochs.
        end_frac: When they are final.
        n_updates: How often they are chosen in between.
        n_samples: Training samples for the Fisher diagonal.
        input_grids: Whether channels of network inputs get grids of their own (`core.channel_grid`), as few bits as
            pay; needs ``lut``, and inputs whose format is symmetric.
        polish_samples: Training samples by which codes and biases are chosen once more after training (`polish`);
            0: they stay as trained.
        exchanges: How often digits are then exchanged between weights, by the loss as well; each on other samples.
        trims: Passes after that, over all codes, by the loss and the LUTs that the circuit is counted to
            take (`train.circuit`); limits before are those of a larger circuit, which these passes bring to ``lut``.
        trim_epochs: Epochs of training between these passes, at a third of the learning rate.

    Raises:
        ConfigError: A value out of range.

    Example:
        >>> SparsifyConfig(lut=8000).saliency
        'fisher'
    """

    lut: int | None = None
    digits_per_weight: float | None = None
    saliency: Literal["fisher", "magnitude"] = "fisher"
    max_digits: int = 3
    start_frac: float = 0.05
    end_frac: float = 0.7
    n_updates: int = 20
    n_samples: int = 8192
    input_grids: bool = False
    polish_samples: int = 0
    exchanges: int = 0
    trims: int = 0
    trim_epochs: int = 0

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: A value out of range.
        """
        if (self.lut is None) == (self.digits_per_weight is None):
            raise ConfigError("sparsify: exactly one of lut and digits_per_weight, for example lut = 8000.")
        for name in ("polish_samples", "exchanges", "trims", "trim_epochs"):
            if getattr(self, name) < 0:
                raise ConfigError(f"sparsify: {name} must not be negative, got {getattr(self, name)}.")
        for name in ("exchanges", "trims"):
            if getattr(self, name) and not self.polish_samples:
                raise ConfigError(f"sparsify: {name} are chosen by samples, so they need polish_samples.")
        if self.trim_epochs and self.trims < 2:
            raise ConfigError("sparsify: trim_epochs are between trims, so they need at least 2 of them.")
        if self.trims and self.lut is None:
            raise ConfigError("sparsify: trims count the circuit's LUTs, so they need lut, not digits.")
        if self.input_grids and self.lut is None:
            raise ConfigError("sparsify: input_grids narrows channels for their LUTs, so it needs lut, not digits.")
        target = self.lut if self.digits_per_weight is None else self.digits_per_weight
        if target is not None and not target > 0:
            raise ConfigError(f"sparsify: the target must be positive, got {target}.")
        if self.saliency not in ("fisher", "magnitude"):
            raise ConfigError(f"sparsify: saliency must be fisher or magnitude, got {self.saliency!r}.")
        if not 0 <= self.start_frac <= self.end_frac < 1:
            raise ConfigError(
                f"sparsify: 0 <= start_frac <= end_frac < 1 must hold, got {self.start_frac} and {self.end_frac}."
            )
        for name in ("max_digits", "n_updates", "n_samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"sparsify: {name} must be at least 1, got {getattr(self, name)}.")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)
