"""Stage ``verify``: every executor of the recipe against the reference, on the test split, integer for integer.

Slow executors may get fewer samples, the first ones, by ``verify.limits``. Those of ``verify.if_available`` that this
machine cannot run are written down with the reason, compared with nothing.
A difference does not stop the run: it is written down with the first place it occurs, and the summary refuses.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from dyadiq.core.errors import MissingDependencyError, MissingToolError
from dyadiq.core.progress import Progress
from dyadiq.pipeline.sources import dataset
from dyadiq.pipeline.stage import Stage, StageContext, write_json
from dyadiq.pipeline.targets import CIRCUIT, recipe_target
from dyadiq.recipe import Recipe, VerifySection

if TYPE_CHECKING:
    from dyadiq.ir.integer import IntegerProgram
    from dyadiq.targets.verify import VerifyResult

__all__ = ["STAGE", "compare_executors"]

_CHUNK = 1024
_COMPILED = {"c": 16_384, "verilog": 16_384}  # every chunk is compiled again: larger ones


def _run(context: StageContext) -> None:
    from dyadiq.ir.serialize import load_program

    program = load_program(context.path("lower", "program.safetensors"))
    results = compare_executors(context.recipe, program, dataset(context).test.x, context.scratch, context.progress)
    write_json(context.folder / "verify.json", {name: result.to_json() for name, result in results.items()})


def compare_executors(
    recipe: Recipe, program: IntegerProgram, x: NDArray[Any], workdir: Path, progress: Progress
) -> dict[str, VerifyResult]:
    """Compare the recipe's executors with the reference on samples, and return what was found, in the recipe's order.

    Args:
        recipe: Its ``[verify]``, and the options of its targets.
        program: The program.
        x: Samples.
        workdir: Where targets write; logs of a tool that crashes are kept there.
        progress: Draws bars.

    Raises:
        DyadiqError: Whatever a target refuses.
    """
    from dyadiq.targets.verify import VerifyResult, verify

    section = recipe.verify
    results: dict[str, VerifyResult] = {}
    for name in section.if_available:
        try:
            verify(program, x[:1], [recipe_target(recipe, name)], raise_on_mismatch=False)
        except (MissingDependencyError, MissingToolError) as err:
            if name not in section.against:
                results[name] = VerifyResult(name, missing=str(err))
    executors = [name for name in dict.fromkeys((*section.against, *section.if_available)) if name not in results]
    for names, n_samples, chunk in _batches(section, executors, len(x)):
        targets = [recipe_target(recipe, name) for name in names]
        results |= verify(
            program, x[:n_samples], targets, raise_on_mismatch=False, chunk=chunk, workdir=workdir, progress=progress
        )
    order = [*section.against, *section.if_available]
    return {key: results[key] for key in sorted(results, key=lambda key: order.index(key.partition(":")[0]))}


def _batches(section: VerifySection, executors: list[str], n_test: int) -> list[tuple[list[str], int, int]]:
    """Return executors that see the same samples in the same chunks, with the numbers of both."""
    batches: dict[tuple[int, int], list[str]] = {}
    for name in executors:
        n_samples = min(n_test, section.limits.get(name, n_test), section.n_samples or n_test)
        batches.setdefault((n_samples, _COMPILED.get(name, _CHUNK)), []).append(name)
    return [(names, *numbers) for numbers, names in batches.items()]


STAGE = Stage("verify", "compare executors", ("data", "lower"), ("data", "verify", "export.options", *CIRCUIT), _run)
