"""Stage ``float``: train the float model, or load the weights that the recipe names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dyadiq.core.errors import ArtifactError, ConfigError
from dyadiq.pipeline.sources import dataset, fresh_model, save_state
from dyadiq.pipeline.stage import Stage, StageContext, write_json

__all__ = ["STAGE"]


def _run(context: StageContext) -> None:
    from dyadiq.train import TrainConfig, evaluate, train

    data = dataset(context)
    model = fresh_model(context.recipe)
    weights = context.recipe.model.weights
    if weights is not None:
        _load_weights(Path(weights), model)
        history: dict[str, object] = {"weights": weights}
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


def _load_weights(path: Path, model: object) -> None:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    assert isinstance(model, torch.nn.Module)
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
