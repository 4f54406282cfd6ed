"""What stages read from outside and from earlier stages: data set, float model, graph, samples for calibration.

Used by the stage files. Loads; decides nothing. Choices see training and validation data only;
the test split is read by `evaluate` and `verify` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.artifact import read_artifact, write_artifact
from dyadiq.core.errors import ConfigError
from dyadiq.pipeline.stage import StageContext, read_json
from dyadiq.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from dyadiq.ir.graph import Graph
    from dyadiq.zoo.data import Dataset

__all__ = [
    "DISTILLED",
    "STATE_SCHEMA",
    "calibration_batches",
    "dataset",
    "float_model",
    "fresh_model",
    "graph",
    "load_state",
    "save_state",
    "weights_file",
    "weights_sha256",
]

STATE_SCHEMA = "dyadiq.state/1"
DISTILLED = "distilled.safetensors"
_BATCH = 256


def dataset(context: StageContext) -> Dataset:
    """Return the recipe's data set, loaded once per process."""
    from dyadiq.zoo import load_dataset

    section = context.recipe.data
    if "dataset" not in context.memory:
        context.memory["dataset"] = load_dataset(section.name, **{"seed": context.recipe.seed, **section.options})
    loaded: Dataset = context.memory["dataset"]
    return loaded


def fresh_model(recipe: Recipe) -> nn.Module:
    """Return the recipe's model with seeded initial weights.

    Raises:
        ConfigError: The model's arguments are wrong.
    """
    from dyadiq.zoo import build_model

    section = recipe.model
    arguments = dict(section.args)
    seed = arguments.pop("seed", recipe.seed)
    if not isinstance(seed, int):
        raise ConfigError(f"model.args.seed: got {seed!r}, expected an integer.")
    return build_model(section.name, seed=seed, **arguments)


def weights_sha256(recipe: Recipe) -> str | None:
    """Return a hash of the trained weights that the recipe starts from; None if it trains.

    Of an ONNX file: of its network, wherever its constants lie.
    """
    from dyadiq.core.artifact import sha256_file
    from dyadiq.ir.serialize import graph_sha256
    from dyadiq.zoo.onnx_model import OnnxModel, is_onnx_name

    if is_onnx_name(recipe.model.name):
        model = fresh_model(recipe)
        assert isinstance(model, OnnxModel)
        return graph_sha256(model.graph())
    file = weights_file(recipe)
    return None if file is None else sha256_file(file)


def weights_file(recipe: Recipe) -> Path | None:
    """Return the file of trained weights that the recipe starts from; None if it trains.

    Raises:
        UnknownNameError: The zoo has no trained weights of this model.
    """
    from pathlib import Path

    from dyadiq.zoo import pretrained_file

    if recipe.model.pretrained:
        return pretrained_file(recipe.model.name, recipe.data.options.get("data_dir"))
    return None if recipe.model.weights is None else Path(recipe.model.weights)


def float_model(context: StageContext) -> nn.Module:
    """Return the float model with the weights that the float stage left."""
    model = fresh_model(context.recipe)
    load_state(context.path("float", "weights.safetensors"), model)
    return model.eval()


def graph(context: StageContext) -> Graph:
    """Return the captured float graph."""
    from dyadiq.ir.serialize import load_graph

    return load_graph(context.path("capture", "graph.safetensors"))


def calibration_batches(context: StageContext, n_samples: int) -> Sequence[NDArray[np.float32]]:
    """Return ``n_samples`` training inputs in batches, fewer if the split has fewer; or all distilled ones instead.

    Stages that call this read the stage ``distill``.
    """
    if read_json(context.path("distill", "distilled.json")) is not None:
        from dyadiq.zero_shot.store import load_distilled

        return load_distilled(context.path("distill", DISTILLED))
    x = dataset(context).train.x[:n_samples]
    return [x[start : start + _BATCH] for start in range(0, len(x), _BATCH)]


def save_state(path: Path, model: nn.Module) -> None:
    """Store a module's state under its own names."""
    write_artifact(path, STATE_SCHEMA, {}, {n: t.detach().cpu().numpy() for n, t in model.state_dict().items()})


def load_state(path: Path, model: nn.Module) -> None:
    """Load a stored state, all names and shapes strictly as the module's own."""
    import torch

    _, arrays = read_artifact(path, STATE_SCHEMA)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=True)
