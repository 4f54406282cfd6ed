"""``dyadiq capture | distill | analyze | allocate | quantize``: the pipeline up to a stage, and its result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dyadiq.cli.commands.run import execute, resolve_recipe, with_budget
from dyadiq.cli.commands.show import show_file
from dyadiq.cli.guard import command

if TYPE_CHECKING:
    from dyadiq.recipe import Recipe

__all__ = ["allocate", "analyze", "capture", "distill", "quantize"]

_RECIPE = click.argument("recipe", type=click.Path(path_type=Path))
_SET = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a recipe value; repeatable.")


def _until(stage: str, file: str, recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    _run_until(stage, file, resolve_recipe(recipe, overrides), as_json)


def _run_until(stage: str, file: str, recipe: Recipe, as_json: bool) -> None:
    result = execute(recipe, until=stage)
    show_file(result.folder / stage / file, as_json=as_json)


@command("capture", "Capture the model as a graph.")
@_RECIPE
@_SET
def capture(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Train or load the model of RECIPE (or a run folder) and show its graph."""
    _until("capture", "graph.safetensors", recipe, overrides, as_json)


@command("distill", "Make calibration inputs from batch norms.")
@_RECIPE
@_SET
def distill(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Make the inputs of [distill] from what batch norms remember, with its defaults if RECIPE has no such section."""
    resolved = resolve_recipe(recipe, overrides)
    if resolved.distill is None:
        resolved = resolve_recipe(recipe, (*overrides, "distill={}"))
    _run_until("distill", "distilled.safetensors", resolved, as_json)


@command("analyze", "Measure what fewer bits cost each tensor.")
@_RECIPE
@_SET
def analyze(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Measure what fewer bits cost each tensor, and show the sensitivities."""
    _until("analyze", "sensitivity.safetensors", recipe, overrides, as_json)


@command("allocate", "Choose the bits under the budget.")
@_RECIPE
@_SET
@click.option(
    "--budget", "budgets", multiple=True, metavar="METRIC=AMOUNT", help="Instead of the recipe's; repeatable."
)
@click.option("--device", help="Part of the budgets lut, ff and latency_ns (see: dyadiq list devices).")
@click.option("--clock", "clock_mhz", type=float, metavar="MHZ", help="Clock that latency_ns is modelled with.")
@click.option("--refine", is_flag=True, help="Then improve the plan by measuring plans, with [allocate.refine].")
def allocate(
    recipe: Path,
    overrides: tuple[str, ...],
    budgets: tuple[str, ...],
    device: str | None,
    clock_mhz: float | None,
    refine: bool,
    as_json: bool,
) -> None:
    """Choose the bits under the budget, and show the plan with its certificate.

    For example --budget size=25%, --budget lut=8000, --budget latency_ns=90 --device xc7z020, --budget bits=3 --refine,
    or --budget latency_us=500: at most 500 microseconds on this machine's engine, measured.
    """
    if device is not None:
        overrides += (f'hardware.devices=["{device}"]',)
    if clock_mhz is not None:
        overrides += (f"allocate.clock_mhz={clock_mhz!r}",)
    resolved = resolve_recipe(recipe, overrides)
    if budgets:
        resolved = with_budget(resolved, budgets)
    if refine:
        resolved = _refined(resolved)
    _run_until("allocate", "plan.json", resolved, as_json)


def _refined(recipe: Recipe) -> Recipe:
    """Return the recipe with its [allocate.refine], or the defaults of that section.

    Raises:
        ConfigError: Bits that are uniform: nothing is chosen.
    """
    from dyadiq.recipe import parse_recipe

    data = recipe.model_dump(mode="json")
    data["allocate"]["refine"] = data["allocate"]["refine"] or {}
    return parse_recipe(data, where="--refine")


@command("quantize", "Calibrate, fine-tune and lower to integers.")
@_RECIPE
@_SET
def quantize(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Calibrate and fine-tune, and show the integer program."""
    _until("lower", "program.safetensors", recipe, overrides, as_json)
