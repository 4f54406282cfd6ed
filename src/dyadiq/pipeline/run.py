"""`run_recipe`: a recipe to a finished run folder, in one call.

Used by the command line and by `dyadiq.run`. Holds the folder's lock from the first stage to the summary.
As soon as a stage has to run again, or the recipe is another one, the summary and report that are there are set
aside: they come back when the run is finished, so that they never pass for the result of a recipe that failed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dyadiq.core.errors import DyadiqError, RunInterruptedError, StorageError, UnknownNameError
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.pipeline.crew import dismiss_others, follow, is_follower
from dyadiq.pipeline.current import current_summary
from dyadiq.pipeline.names import check_finetuning, check_names
from dyadiq.pipeline.runner import StageEvent, run_stages
from dyadiq.pipeline.stages import STAGES
from dyadiq.pipeline.store import RunFolder
from dyadiq.pipeline.summary import build_summary
from dyadiq.recipe import Recipe, load_recipe

__all__ = ["RunResult", "open_run", "run_recipe"]


@dataclass(frozen=True)
class RunResult:
    """What a run left.

    Attributes:
        folder: The run folder.
        summary: The document of schema ``dyadiq.run/1``; None when only some stages were asked for, or in a process
            that helped another one.
        kept: Stages that were not run again.
    """

    folder: Path
    summary: dict[str, Any] | None
    kept: tuple[str, ...]


def run_recipe(
    recipe: Recipe,
    *,
    until: str | None = None,
    progress: Progress = NO_PROGRESS,
    listener: Callable[[StageEvent], None] = lambda event: None,
) -> RunResult:
    """Run every stage that needs it, and write ``summary.json``.

    Under `torch.distributed` all processes call this alike: the first runs the stages, the others share the work of
    ``analyze`` (`pipeline.crew`); the numbers are those of a single process.

    Args:
        recipe: What to do and where.
        until: Stop after this stage; None runs all and writes the summary.
        progress: Draws bars.
        listener: Told of every stage.

    Raises:
        UnknownNameError: No stage is named like ``until``.
        ConfigError: A name in the recipe that no registry has, a folder that is not ours, or fine-tuning on training
            samples beside ``[distill]`` that was not asked for.
        RunInterruptedError: Ctrl-C; finished stages are kept.
        DyadiqError: Whatever a stage refuses; finished stages are kept.
    """
    import torch

    names = [stage.name for stage in STAGES]
    if until is not None and until not in names:
        raise UnknownNameError("stage", until, names)
    check_names(recipe)
    stages = STAGES if until is None else STAGES[: names.index(until) + 1]
    if any(stage.name == "finetune" for stage in stages):
        check_finetuning(recipe)
    folder = RunFolder(recipe.folder)
    kept: list[str] = []
    always = {stage.name for stage in stages if stage.always}
    where = "before the first stage"

    def listen(event: StageEvent) -> None:
        nonlocal where
        where = f"after stage {event.stage!r}"
        if event.status == "kept":
            kept.append(event.stage)
        if event.status == "started" and event.stage not in always:
            folder.set_aside("report")
        listener(event)

    threads = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    try:
        if is_follower():
            follow(stages, recipe, folder.path)
            return RunResult(folder.path, None, ())
        with folder.locked():
            if current_summary(folder, recipe) is None:
                folder.set_aside("report")
            folder.write_recipe(recipe.model_dump(mode="json"))
            try:
                records = run_stages(stages, recipe, folder, progress=progress, listener=listen)
            except DyadiqError:
                with contextlib.suppress(StorageError):  # the first error is the one to tell
                    folder.set_aside("report")
                raise
            summary = None
            if until is None:
                summary = build_summary(recipe, folder, records)
                folder.write_summary(summary)
            folder.tidy()
            dismiss_others()
    except KeyboardInterrupt as err:  # inside a stage, the runner says so
        raise RunInterruptedError(
            f"interrupted {where}; finished stages are kept in {folder.path}. The same command continues from here."
        ) from err
    finally:
        torch.set_num_threads(threads)
    return RunResult(folder.path, summary, tuple(kept))


def open_run(path: Path) -> tuple[RunFolder, Recipe]:
    """Return an existing run folder and the recipe it was made from.

    Raises:
        ConfigError: Not a run folder.
    """
    folder = RunFolder(path)
    folder.check()
    recipe = load_recipe(path / "recipe.json")
    return folder, recipe.model_copy(update={"out": str(path)})
