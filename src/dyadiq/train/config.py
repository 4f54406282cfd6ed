"""`TrainConfig`: every number that decides the outcome of training, frozen.

Used by `loop`, `finetune`, `schedule`, `optimizer` and recipes (``TrainConfig(**section)``); part of the fingerprint
of checkpoints. Holds no paths and no data.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from dyadiq.core.errors import ConfigError
from dyadiq.train.precision import PrecisionName

__all__ = ["AugmentName", "OptimizerName", "ScheduleName", "TrainConfig", "ViewsName"]

OptimizerName = Literal["adam", "adamw", "sgd"]
ScheduleName = Literal["cosine", "onecycle", "constant"]
AugmentName = Literal["none", "crop_flip", "crop_flip_mixup", "crop_flip_cutmix"]
ViewsName = Literal["one", "mirror"]


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Settings of `train` and `finetune`.

    Attributes:
        epochs: Passes over the training split.
        batch_size: Samples of one step; a last, smaller batch of a shuffled epoch is left out.
        learning_rate: Peak learning rate.
        optimizer: ``adam``, ``adamw`` or ``sgd`` (Nesterov).
        schedule: ``cosine`` to zero, ``onecycle`` (up for 30 %, then cosine down), or ``constant``.
        weight_decay: For weights of two or more dimensions; biases, batch norm and quantizers have none.
        momentum: Of ``sgd``; others do not read it.
        label_smoothing: Share of the target spread over all classes, in [0, 1).
        l1: Factor of ``sum |w|`` over weights of two or more dimensions.
        seed: Decides the order of samples and any dropout.
        distill_weight: Share of the distillation loss, in [0, 1]; read only with a teacher.
        temperature: Of the distillation loss.
        teacher_views: What the teacher is shown of a sample, a name in `views.VIEWS`; its logits are averaged.
        freeze_bn_epoch: From this epoch on (0: from the start) batch norm keeps its statistics; None: never.
        scale_rate_frac: Learning rate of quantizer scales (their log2), as a fraction of ``learning_rate``.
        estimator: How gradients pass quantizers, a name in `quant.estimators.ESTIMATORS`; read by `finetune`.
        range_decay: Factor of the penalty that the estimator ``pact`` puts on the squares of its clipping values.
        augment: Random changes of the samples, a name in `augment.AUGMENTATIONS`, or ``none``.
        average_decay: Decay of a moving average of the weights, in [0, 1), validated and kept instead of them; 0: none.
        precision: Of dot products in training: ``float32``, or ``bfloat16``, which is faster where processors have it.
        keep_best: With a validation split, end with the weights of the best epoch on it instead of the last.

    Raises:
        ConfigError: A value out of its range.

    Example:
        >>> TrainConfig(epochs=3).optimizer
        'adam'
        >>> TrainConfig(epochs=0)
        Traceback (most recent call last):
        dyadiq.core.errors.ConfigError: training: epochs must be at least 1, got 0.
    """

    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-3
    optimizer: OptimizerName = "adam"
    schedule: ScheduleName = "cosine"
    weight_decay: float = 0.0
    momentum: float = 0.9
    label_smoothing: float = 0.0
    l1: float = 0.0
    seed: int = 0
    distill_weight: float = 0.5
    temperature: float = 2.0
    teacher_views: ViewsName = "one"
    freeze_bn_epoch: int | None = None
    scale_rate_frac: float = 1.0
    estimator: str = "log_lsq"
    range_decay: float = 1e-4
    augment: AugmentName = "none"
    average_decay: float = 0.0
    precision: PrecisionName = "float32"
    keep_best: bool = True

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: A value out of its range.
        """
        for name in ("epochs", "batch_size"):
            _require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("learning_rate", "temperature"):
            value = getattr(self, name)
            _require(name, value, math.isfinite(value) and value > 0, "positive and finite")
        for name in ("weight_decay", "l1", "scale_rate_frac", "range_decay"):
            value = getattr(self, name)
            _require(name, value, math.isfinite(value) and value >= 0, "finite and not negative")
        for name in ("momentum", "label_smoothing", "average_decay"):
            _require(name, getattr(self, name), 0 <= getattr(self, name) < 1, "in [0, 1)")
        _require("distill_weight", self.distill_weight, 0 <= self.distill_weight <= 1, "in [0, 1]")
        _require("seed", self.seed, self.seed >= 0, "not negative")
        if self.freeze_bn_epoch is not None:
            _require("freeze_bn_epoch", self.freeze_bn_epoch, self.freeze_bn_epoch >= 0, "not negative")
        for name, literal in (
            ("optimizer", OptimizerName),
            ("schedule", ScheduleName),
            ("augment", AugmentName),
            ("teacher_views", ViewsName),
            ("precision", PrecisionName),
        ):
            known = get_args(literal)
            _require(name, getattr(self, name), getattr(self, name) in known, f"one of {', '.join(known)}")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def _require(name: str, value: object, fine: bool, expected: str) -> None:
    if not fine:
        raise ConfigError(f"training: {name} must be {expected}, got {value}.")
