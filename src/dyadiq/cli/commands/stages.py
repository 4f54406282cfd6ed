"""``dyadiq capture | analyze | allocate | quantize``: the pipeline up to one stage, and that stage's result."""

from __future__ import annotations

from pathlib import Path

import click

from dyadiq.cli.commands.run import execute, resolve_recipe
from dyadiq.cli.commands.show import show_file
from dyadiq.cli.guard import command

__all__ = ["allocate", "analyze", "capture", "quantize"]

_RECIPE = click.argument("recipe", type=click.Path(path_type=Path))
_SET = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a recipe value; repeatable.")


def _until(stage: str, file: str, recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    result = execute(resolve_recipe(recipe, overrides), until=stage)
    show_file(result.folder / stage / file, as_json=as_json)


@command("capture", "Capture the model as a graph.")
@_RECIPE
@_SET
def capture(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Train or load the model of RECIPE (or a run folder) and show its graph."""
    _until("capture", "graph.safetensors", recipe, overrides, as_json)


@command("analyze", "Measure what fewer bits cost each tensor.")
@_RECIPE
@_SET
def analyze(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Measure what fewer bits cost each tensor, and show the sensitivities."""
    _until("analyze", "sensitivity.safetensors", recipe, overrides, as_json)


@command("allocate", "Choose the bits under the budget.")
@_RECIPE
@_SET
def allocate(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Choose the bits under the budget, and show the plan with its certificate."""
    _until("allocate", "plan.json", recipe, overrides, as_json)


@command("quantize", "Calibrate, fine-tune and lower to integers.")
@_RECIPE
@_SET
def quantize(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Calibrate and fine-tune, and show the integer program."""
    _until("lower", "program.safetensors", recipe, overrides, as_json)
