"""Fine-tuning of a `QuantModule`, for those without a training loop of their own.

Used by the public face and the pipeline. The loop is `loop.train`; this file adds what quantized networks need:
a small learning rate, quantizer scales with a rate of their own (`optimizer.make_optimizer`), batch norms frozen by the
module's own switch, and inputs given as batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dyadiq.core.errors import ConfigError, DataError
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.ir.execute import Batch
from dyadiq.quant.estimators import find_estimator
from dyadiq.quant.module import QuantModule
from dyadiq.train.blockwise import BlockSchedule, BlockwiseConfig
from dyadiq.train.config import TrainConfig
from dyadiq.train.evaluate import evaluate
from dyadiq.train.loop import EpochCallback, TrainResult, train
from dyadiq.train.sparsify import DigitSchedule
from dyadiq.train.sparsify_config import SparsifyConfig
from dyadiq.zoo.data import Split

__all__ = ["FINETUNE_CONFIG", "batches_to_split", "finetune"]

_TRIM_RATE = 1 / 3  # of the learning rate, between passes that trim the circuit

FINETUNE_CONFIG = TrainConfig(epochs=5, learning_rate=1e-3, freeze_bn_epoch=0)


def finetune(
    qmod: QuantModule,
    data: Split | Iterable[Batch],
    *,
    epochs: int | None = None,
    config: TrainConfig = FINETUNE_CONFIG,
    validation: Split | None = None,
    teacher: nn.Module | None = None,
    sparsify: SparsifyConfig | None = None,
    blockwise: BlockwiseConfig | None = None,
    checkpoint: Path | None = None,
    progress: Progress = NO_PROGRESS,
    on_epoch: EpochCallback | None = None,
) -> TrainResult:
    """Train a quantized network in place, in mode ``fake``; its own mode is restored afterwards.

    Args:
        qmod: From `quantize`.
        data: A split, or batches ``(inputs, labels)``. Batches are read once and shuffled anew in every epoch, so
            random augmentation in a loader is drawn only once.
        epochs: Stands in for ``config.epochs``.
        config: All other settings.
        validation: What to choose the best epoch by. Never the test split.
        teacher: Usually the float model; its outputs are imitated as well.
        sparsify: Prune weights and limit their signed digits meanwhile, down to a budget; what is trained between
            passes that trim the circuit goes by the default estimator.
        blockwise: Quantize the network block by block meanwhile, in this order.
        checkpoint: File to write after every epoch and to resume from, as in `train`.
        progress: Receives one step per epoch.
        on_epoch: Called with the record of each new epoch.

    Returns:
        The history, and which epoch was kept. Records of epochs with an update of ``sparsify`` have its results too.

    Raises:
        DataError: No or unlabelled batches; NaN or infinity in the samples, the weights or the loss.
        ConfigError: The checkpoint belongs to another training, the network has several inputs or outputs, or
            ``blockwise`` does not fit it or goes with ``sparsify``.
        UnknownNameError: No such estimator.
        InfeasibleError: The budget of ``sparsify`` is missed after its last update, or leaves no weight.
        MissingDependencyError: A budget of LUTs, and da4ml is not installed.
        TooLargeError: A budget of LUTs, and the network is too large to unroll.
        QuantError: Digits cannot be limited in the format of a weight.
        ArtifactError: The checkpoint is damaged.
        StorageError: The checkpoint cannot be written; the one before it is intact.
    """
    if len(qmod.graph.inputs) != 1:
        raise ConfigError(
            f"finetune: the network has {len(qmod.graph.inputs)} inputs {list(qmod.graph.inputs)}, but training data "
            "here are samples of one input with a label each. Train it in your own loop: a QuantModule is an ordinary "
            "nn.Module, called with one tensor per input."
        )
    split = data if isinstance(data, Split) else batches_to_split(data)
    config = config if epochs is None else replace(config, epochs=epochs)
    estimator, before = find_estimator(config.estimator), qmod.estimator
    schedule, also = _schedule(qmod, split, config, sparsify, blockwise)
    mode = qmod.mode
    qmod.set_mode_("fake").set_estimator_(estimator.name)
    ranges = estimator.penalized(qmod.quantizers_by_name().values())
    penalty = (lambda: config.range_decay * torch.cat(ranges).square().sum()) if ranges else None
    try:
        result = train(
            qmod,
            split,
            config,
            validation=validation,
            teacher=teacher,
            checkpoint=checkpoint,
            progress=progress,
            on_epoch=on_epoch,
            freeze=qmod.freeze_batchnorm_,
            before_epoch=schedule,
            keep_from=0 if schedule is None else schedule.final_epoch,
            also=also,
            penalty=penalty,
        )
        if sparsify is None or not sparsify.polish_samples:
            return result
        assert isinstance(schedule, DigitSchedule)  # as sparsify is given

        def train_on(number: int) -> None:
            rate = config.learning_rate * _TRIM_RATE
            further = replace(config, epochs=sparsify.trim_epochs, learning_rate=rate, seed=config.seed + number + 1)
            train(qmod, split, further, validation=validation, teacher=teacher, freeze=qmod.freeze_batchnorm_)

        qmod.set_estimator_(before.name)  # Codes are written into the weights themselves.
        polished = schedule.polish(split, progress, train_on if sparsify.trim_epochs else None)
        accuracy = None if validation is None else evaluate(qmod, validation).accuracy
        return replace(result, validation_accuracy=accuracy, polished=asdict(polished))
    finally:
        qmod.set_mode_(mode).set_estimator_(before.name)
        if isinstance(schedule, BlockSchedule):
            schedule.finish()


def _schedule(
    qmod: QuantModule,
    split: Split,
    config: TrainConfig,
    sparsify: SparsifyConfig | None,
    blockwise: BlockwiseConfig | None,
) -> tuple[DigitSchedule | BlockSchedule | None, dict[str, Any] | None]:
    """Return what happens before epochs, and its settings.

    Raises:
        ConfigError: Both of them.
    """
    if sparsify is not None and blockwise is not None:
        raise ConfigError("finetune: sparsify and blockwise both change the network before epochs. Use one of them.")
    if sparsify is not None:
        return DigitSchedule(qmod, split, sparsify, config.epochs, config.seed), {"sparsify": sparsify.to_json()}
    if blockwise is not None:
        return BlockSchedule(qmod, blockwise, config.epochs), {"blockwise": blockwise.to_json()}
    return None, None


def batches_to_split(batches: Iterable[Batch]) -> Split:
    """Join labelled batches.

    Raises:
        DataError: No batch, a batch without labels, or one whose samples and labels do not pair up.

    Example:
        >>> len(batches_to_split([(torch.zeros(2, 3), torch.tensor([0, 1])), (torch.ones(1, 3), torch.tensor([1]))]))
        3
    """
    parts = []
    for number, batch in enumerate(batches):
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            raise DataError(
                f"batch {number}: got {type(batch).__name__} without labels, expected (inputs, labels). "
                "Fine-tuning needs labels; a Split is taken as well."
            )
        x, y = (t.detach().cpu().numpy() if isinstance(t, torch.Tensor) else np.asarray(t) for t in batch[:2])
        try:
            parts.append(Split(x, y))
        except DataError as err:
            raise DataError(f"batch {number}: {err}") from err
    if not parts:
        raise DataError(
            "no batches: got an empty iterable, expected at least one. "
            "A generator can be read only once; pass a list, a DataLoader or a Split."
        )
    return Split(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))
