"""Names in a recipe that registries must know, checked before anything runs: a typo must not cost a training.

Used by `pipeline.run`. The recipe itself knows no registry, so that reading one imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Iterable

from dyadiq.core.errors import ConfigError, UnknownNameError
from dyadiq.recipe import Recipe

__all__ = ["check_names"]


def check_names(recipe: Recipe) -> None:
    """Check every name of a model, data set, method, cost or target.

    Raises:
        ConfigError: Names that no registry has; all of them are listed.
    """
    from dyadiq.cost import COSTS
    from dyadiq.curvature import METHODS
    from dyadiq.targets import TARGETS
    from dyadiq.zoo import DATASETS, MODELS

    asked: list[tuple[str, str, Iterable[str], Iterable[str]]] = [
        ("data.name", "data set", [recipe.data.name], DATASETS),
        ("model.name", "model", [recipe.model.name] if ":" not in recipe.model.name else [], MODELS),
        ("analyze.method", "method", [recipe.analyze.method], METHODS),
        ("allocate.budget", "cost metric", recipe.allocate.budget or (), COSTS),
        ("verify.against", "target", recipe.verify.against, TARGETS),
        ("export.to", "target", recipe.export.to, TARGETS),
    ]
    problems = [
        f"{key}: {UnknownNameError(kind, name, known)}"
        for key, kind, names, known in asked
        for name in names
        if name not in known
    ]
    if problems:
        raise ConfigError("\n  ".join([f"recipe {recipe.name!r} names what does not exist.", *problems]))
