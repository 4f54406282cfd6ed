"""``dyadiq list``: everything that has a name, with the file it comes from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from dyadiq.cli.guard import command
from dyadiq.cli.output import print_json, print_table

__all__ = ["list_"]


def _methods() -> Mapping[str, Any]:
    from dyadiq.curvature import METHODS

    return METHODS


def _reconstructions() -> Mapping[str, Any]:
    from dyadiq.quant.reconstruct import METHODS

    return METHODS


def _costs() -> Mapping[str, Any]:
    from dyadiq.cost import COSTS
    from dyadiq.engine.costs import ENGINE_COSTS
    from dyadiq.fpga.costs import HARDWARE_COSTS

    return {**COSTS, **HARDWARE_COSTS, **ENGINE_COSTS}


def _targets() -> Mapping[str, Any]:
    from dyadiq.targets import TARGETS

    return TARGETS


def _models() -> Mapping[str, Any]:
    from dyadiq.zoo import MODELS

    return MODELS


def _datasets() -> Mapping[str, Any]:
    from dyadiq.zoo import DATASETS

    return DATASETS


def _stages() -> Mapping[str, Any]:
    from dyadiq.pipeline.stages import STAGES

    return {stage.name: stage.run for stage in STAGES}


def _devices() -> Mapping[str, Any]:
    from dyadiq.fpga.devices import DEVICES

    return DEVICES


def _estimators() -> Mapping[str, Any]:
    from dyadiq.quant.estimators import ESTIMATORS

    return ESTIMATORS


_KINDS: Mapping[str, Callable[[], Mapping[str, Any]]] = {
    "targets": _targets,
    "methods": _methods,
    "reconstructions": _reconstructions,
    "costs": _costs,
    "models": _models,
    "datasets": _datasets,
    "stages": _stages,
    "devices": _devices,
    "estimators": _estimators,
}


@command("list", "List everything that has a name.")
@click.argument("kind", type=click.Choice(tuple(_KINDS)), required=False)
def list_(kind: str | None, as_json: bool) -> None:
    """List targets, methods, costs, models, data sets, stages, devices, ... (or one KIND of them)."""
    kinds = tuple(_KINDS) if kind is None else (kind,)
    rows = [(k, name, *_about(entry)) for k in kinds for name, entry in _KINDS[k]().items()]
    if as_json:
        entries = [dict(zip(("kind", "name", "about", "file"), row, strict=True)) for row in rows]
        print_json({"schema": "dyadiq.list/1", "entries": entries})
    else:
        print_table(("kind", "name", "about", "file"), rows)


def _about(entry: Any) -> tuple[str, str]:
    """Return an entry's ``about`` or the first line of its (or its module's) docstring, and its file."""
    thing = entry if inspect.isroutine(entry) or inspect.isclass(entry) else type(entry)
    module = inspect.getmodule(thing)
    text = getattr(entry, "about", None) or inspect.getdoc(thing) or inspect.getdoc(module) or ""
    file = Path(inspect.getfile(inspect.unwrap(thing)))  # decorators lie elsewhere
    inside = file.parts[file.parts.index("dyadiq") :] if "dyadiq" in file.parts else file.parts[-1:]
    return text.partition("\n")[0], "/".join(inside)
