"""Supervised training of any classifier: deterministic, and resumable at any moment to the same bytes.

Used by the pipeline and by `finetune`. Knows nothing of quantization (`finetune` passes what differs).

Everything random comes from ``(config.seed, epoch)``: order and augmentation of samples from their own generators
(`batches`), dropout and the like from the global generator, which is forked for the epoch and left as it was. The
learning rate is a function of the step. So the state after an epoch is weights, their average, optimizer moments and
history, and a checkpoint holds just these.
Same bytes means: same machine, same versions, same number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor, nn

from dyadiq.core.errors import DataError
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.train.averaging import Average
from dyadiq.train.batches import Batches, Step, seed_of
from dyadiq.train.checkpoint import Best, TrainState, fingerprint, model_hash, read_checkpoint, write_checkpoint
from dyadiq.train.config import TrainConfig
from dyadiq.train.distillation import distillation_loss
from dyadiq.train.distributed import World
from dyadiq.train.evaluate import evaluate, single_output
from dyadiq.train.optimizer import NamedOptimizer, make_optimizer
from dyadiq.train.precision import autocast
from dyadiq.train.schedule import learning_rate_factor
from dyadiq.zoo.data import Split, split_hash

__all__ = ["EpochCallback", "TrainResult", "freeze_batchnorm_", "train"]

_VALIDATION_BATCH = 512  # bounds the memory that images take

EpochCallback = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainResult:
    """What training did; the weights are in the model itself.

    Attributes:
        history: One record per epoch: ``epoch``, ``loss``, ``learning_rate``, and with a validation split
            ``validation_accuracy`` and ``validation_loss``.
        best_epoch: Epoch whose weights the model ended with; None: the last one.
        validation_accuracy: On the validation split, of these weights; None without one.
        n_resumed_epochs: Epochs that came from a checkpoint.
        polished: What choosing codes once more gained (`polish.PolishResult`); None: it was not asked for.
    """

    history: tuple[dict[str, Any], ...]
    best_epoch: int | None = None
    validation_accuracy: float | None = None
    n_resumed_epochs: int = field(default=0, compare=False)
    polished: Mapping[str, Any] | None = None


def train(
    model: nn.Module,
    split: Split,
    config: TrainConfig,
    *,
    validation: Split | None = None,
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    progress: Progress = NO_PROGRESS,
    on_epoch: EpochCallback | None = None,
    freeze: Callable[[], object] | None = None,
    before_epoch: Callable[[int], Mapping[str, Any]] | None = None,
    keep_from: int = 0,
    also: Mapping[str, Any] | None = None,
    penalty: Callable[[], Tensor] | None = None,
) -> TrainResult:
    """Train a classifier in place: cross entropy, with distillation from a teacher if one is given.

    ``loss = (1 - d) * CE + d * T^2 KL(teacher || student) + l1 * sum |w|``, with d = ``distill_weight`` (0 without
    a teacher). The teacher is asked in eval mode, once for all samples or, with augmentation, for each batch. With a
    validation split, the model ends with the weights of its best epoch (accuracy, then loss), unless
    ``config.keep_best`` is off; with ``average_decay``, averages take the place of weights in both.

    Args:
        model: Takes ``[N, ...]`` float32, returns logits ``[N, C]``; trained where its parameters are.
        split: What to learn from.
        config: All settings.
        validation: What to choose the best epoch by. Never the test split.
        teacher: Model whose outputs to imitate as well.
        checkpoint: File to write after every epoch and to resume from. Interrupted at any moment, the same call
            ends with the same weights as an uninterrupted one.
        progress: Receives one step per epoch.
        on_epoch: Called with the record of each new epoch, after the checkpoint was written.
        freeze: What ``freeze_bn_epoch`` does after ``model.train()``; stops batch norm statistics if not given.
        before_epoch: Called with the number of each new epoch; may change buffers, as a function of the model's state
            and the number only. What it returns goes into the epoch's record.
        keep_from: First epoch whose weights may be kept as the best.
        penalty: What to add to the loss of every step; its settings belong into ``also``.
        also: Settings of ``before_epoch``; a checkpoint made with others is refused.

    Returns:
        The history, and which epoch was kept.

    Raises:
        DataError: NaN or infinity in the samples, the weights or the loss; labels beyond the model's classes.
        ConfigError: The checkpoint belongs to another training, or the model has nothing to train or returns something
            else than one tensor.
        ArtifactError: The checkpoint is damaged.
        StorageError: The checkpoint cannot be written; the one before it is intact.

    Example:
        >>> from dyadiq.zoo import build_model
        >>> split = Split(np.eye(16, dtype=np.float32), np.arange(16) % 5)
        >>> result = train(build_model("jet_tagger"), split, TrainConfig(epochs=2, batch_size=8))
        >>> [record["epoch"] for record in result.history]
        [0, 1]
    """
    _check_finite_inputs(model, split)
    if freeze is None:
        freeze = partial(freeze_batchnorm_, model)
    named = make_optimizer(model, config)
    identity = "" if checkpoint is None else _identity(model, split, config, validation, teacher, also)
    state = TrainState(0, (), {}, {})
    if checkpoint is not None and checkpoint.exists():
        state = read_checkpoint(checkpoint, identity)
        if config.freeze_bn_epoch is not None and state.n_epochs > config.freeze_bn_epoch:
            freeze()
        model.load_state_dict(state.model)
        named.load_state(state.optimizer)
    n_resumed = state.n_epochs
    average = Average(model, config.average_decay, state.average) if config.average_decay else None
    world = World.current()
    batches = Batches(model, split, config, teacher, world)
    trainee = _Trainee(model, world.wrap(model), named, average, penalty, world)
    progress.start("train", config.epochs)
    try:
        if n_resumed:
            progress.advance(n_resumed, "resumed")
        for epoch in range(n_resumed, config.epochs):
            model.train()
            if config.freeze_bn_epoch is not None and epoch >= config.freeze_bn_epoch:
                freeze()
            noted = {} if before_epoch is None else before_epoch(epoch)
            record = {**noted, **_train_epoch(trainee, batches, config, epoch)}
            best = state.best
            if validation is not None:
                with nullcontext() if average is None else average.applied():
                    record, best = _validate(model, validation, record, best, keep_from)
            averages = {} if average is None else average.state()
            state = TrainState(epoch + 1, (*state.history, record), model.state_dict(), named.state(), best, averages)
            if checkpoint is not None and world.rank == 0:
                write_checkpoint(checkpoint, state, identity)
            world.wait()
            progress.advance(1, _note(record))
            if on_epoch is not None:
                on_epoch(dict(record))
    finally:
        progress.finish()
    model.eval()
    if average is not None:
        average.apply_()
    return _finish(model, state, config, n_resumed)


def freeze_batchnorm_(model: nn.Module) -> None:
    """Make every batch norm use and keep its running statistics, until the next ``model.train()``."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


@dataclass(frozen=True)
class _Trainee:
    """What a step changes: the model, and what belongs to it; ``network`` is what a step calls."""

    model: nn.Module
    network: nn.Module
    named: NamedOptimizer
    average: Average | None
    penalty: Callable[[], Tensor] | None
    world: World


def _train_epoch(trainee: _Trainee, batches: Batches, config: TrainConfig, epoch: int) -> dict[str, Any]:
    """Run one epoch and return its record.

    Raises:
        DataError: The loss or a weight became NaN or infinite, or a label is beyond the model's classes.
    """
    named, average = trainee.named, trainee.average
    n_steps = config.epochs * batches.count
    total, factor = 0.0, 0.0
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(config.seed, epoch, "modules"))
        for number, step in enumerate(batches.of_epoch(epoch)):
            factor = learning_rate_factor(config.schedule, epoch * batches.count + number, n_steps)
            named.set_rate(factor)
            loss = _loss(trainee, step, config)
            value = loss.item()
            if not math.isfinite(value):
                raise DataError(_divergence(f"the loss is {value} in epoch {epoch}, batch {number}", config))
            named.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            named.optimizer.step()
            if average is not None:
                average.update(epoch * batches.count + number)
            total += value
    for name, parameter in trainee.model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise DataError(_divergence(f"weight {name!r} is not finite after epoch {epoch}", config))
    return {
        "epoch": epoch,
        "loss": trainee.world.mean(total / batches.count),
        "learning_rate": config.learning_rate * factor,
    }


def _loss(trainee: _Trainee, step: Step, config: TrainConfig) -> Tensor:
    with autocast(step.x.device, config.precision):
        logits = single_output(trainee.network, step.x)
    labels = step.y
    logits = logits.float() if logits.dtype == torch.bfloat16 else logits
    if logits.ndim != 2 or int(labels.max()) >= logits.shape[1]:
        raise DataError(
            f"training: the model returns shape {list(logits.shape)}, but labels go up to {int(labels.max())}; "
            "expected logits [N, classes]. Build the model with one output per class."
        )
    loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
    if step.teacher is not None:
        soft = distillation_loss(logits, step.teacher, config.temperature)
        loss = (1.0 - config.distill_weight) * loss + config.distill_weight * soft
    if config.l1:
        loss = loss + config.l1 * torch.stack([w.abs().sum() for w in trainee.named.penalized]).sum()
    return loss if trainee.penalty is None else loss + trainee.penalty()


def _validate(
    model: nn.Module, validation: Split, record: dict[str, Any], best: Best | None, keep_from: int
) -> tuple[dict[str, Any], Best | None]:
    """Return the record with validation results, and the better of the best epoch so far and this one."""
    result = evaluate(model, validation, batch_size=_VALIDATION_BATCH)
    record = record | {"validation_accuracy": result.accuracy, "validation_loss": result.loss}
    if record["epoch"] < keep_from:
        return record, best
    if best is None or (result.accuracy, -result.loss) > (best.accuracy, -best.loss):
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        best = Best(record["epoch"], result.accuracy, result.loss, weights)
    return record, best


def _finish(model: nn.Module, state: TrainState, config: TrainConfig, n_resumed: int) -> TrainResult:
    if state.best is None or not config.keep_best:
        last = state.history[-1].get("validation_accuracy")
        return TrainResult(state.history, validation_accuracy=last, n_resumed_epochs=n_resumed)
    model.load_state_dict(state.best.model)
    return TrainResult(state.history, state.best.epoch, state.best.accuracy, n_resumed)


def _identity(
    model: nn.Module,
    split: Split,
    config: TrainConfig,
    validation: Split | None,
    teacher: nn.Module | None,
    also: Mapping[str, Any] | None,
) -> str:
    return fingerprint(
        config=config.to_json() | dict(also or {}),
        data=split_hash(split),
        validation=None if validation is None else split_hash(validation),
        model=model_hash(model),
        teacher=None if teacher is None else model_hash(teacher),
    )


def _check_finite_inputs(model: nn.Module, split: Split) -> None:
    bad = [n for n, t in model.state_dict().items() if t.is_floating_point() and not bool(t.isfinite().all())]
    if bad:
        raise DataError(
            f"training: {', '.join(map(repr, bad))} of {type(model).__name__} holds NaN or infinity before the first "
            "step. Load or initialise the model again."
        )
    if not np.isfinite(split.x).all():
        raise DataError("training: the samples hold NaN or infinity. Clean or drop them first.")


def _divergence(what: str, config: TrainConfig) -> str:
    return (
        f"training diverged: {what}. The learning rate is {config.learning_rate}; try a tenth of it, "
        "or look for outliers in the inputs."
    )


def _note(record: dict[str, Any]) -> str:
    note = f"loss {record['loss']:.4f}"
    if "validation_accuracy" in record:
        note += f", validation {record['validation_accuracy']:.4f}"
    return note
