"""Stage ``float``: train the float model, or load the weights that the recipe names; an ONNX file has its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dyadiq.core.errors import ArtifactError, ConfigError
from dyadiq.pipeline.sources import dataset, fresh_model, save_state, weights_file
from dyadiq.pipeline.stage import Stage, StageContext, write_json

if TYPE_CHECKING:
    from torch import nn

__all__ = ["STAGE"]


def _run(context: StageContext) -> None:
    from dyadiq.train import TrainConfig, evaluate, train
    from dyadiq.zoo import load_pretrained_
    from dyadiq.zoo.onnx_model import is_onnx_name

    data = dataset(context)
    model = fresh_model(context.recipe)
    weights = weights_file(context.recipe)
    if weights is not None:
        section = context.recipe.model
        if section.pretrained:
            load_pretrained_(model, section.name, context.recipe.data.options.get("data_dir"))
        else:
            _load_weights(weights, model)
        history: dict[str, object] = {"weights": section.name if section.pretrained else str(weights)}
    elif is_onnx_name(context.recipe.model.name):
        history = {"weights": context.recipe.model.name}
    else:
        config = TrainConfig(**context.recipe.train.model_dump(), seed=context.recipe.seed)
        result = train(
            model,
            data.train,
            config,
            validation=data.validation,
            checkpoint=context.scratch / "training.safetensors",
            progress=context.progress,
        )
        history = {"history": list(result.history), "best_epoch": result.best_epoch}
    save_state(context.folder / "weights.safetensors", model)
    history["validation_accuracy"] = evaluate(model, data.validation).accuracy
    write_json(context.folder / "training.json", history)


def _load_weights(path: Path, model: nn.Module) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except FileNotFoundError as err:
        raise ConfigError(f"model.weights: no such file: {path}. Expected a safetensors file.") from err
    except (OSError, SafetensorError) as err:
        raise ArtifactError(f"model.weights: {path} cannot be read: {err}. Expected a safetensors file.") from err
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as err:
        raise ConfigError(f"model.weights: {path} does not fit the model: {err}") from err
    bad = [n for n, t in state.items() if t.is_floating_point() and not bool(np.isfinite(t.numpy()).all())]
    if bad:
        raise ArtifactError(
            f"model.weights: {path}: {', '.join(map(repr, bad))} hold NaN or infinity. Train or fetch the model again."
        )


STAGE = Stage("float", "train the float model", ("data",), ("data", "model", "train"), _run)
