"""Training of float models and fine-tuning of quantized ones; for those without a loop of their own."""

from __future__ import annotations

from dyadiq.train.config import TrainConfig
from dyadiq.train.evaluate import Evaluation, accuracy, evaluate, predict
from dyadiq.train.finetune import FINETUNE_CONFIG, finetune
from dyadiq.train.loop import TrainResult, train

__all__ = [
    "FINETUNE_CONFIG",
    "Evaluation",
    "TrainConfig",
    "TrainResult",
    "accuracy",
    "evaluate",
    "finetune",
    "predict",
    "train",
]
