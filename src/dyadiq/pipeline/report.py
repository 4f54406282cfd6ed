"""Stage ``report``: one offline HTML file of everything the run found."""

from __future__ import annotations

from pathlib import Path

from dyadiq.pipeline.sources import DISTILLED
from dyadiq.pipeline.stage import Stage, StageContext
from dyadiq.pipeline.store import RunFolder
from dyadiq.pipeline.summary import build_summary
from dyadiq.recipe import Recipe, load_recipe

__all__ = ["REPORTED", "STAGE", "write_run_report"]

# Stages that the report tells of.
REPORTED = (
    "data",
    "float",
    "capture",
    "distill",
    "analyze",
    "allocate",
    "quantize",
    "reconstruct",
    "finetune",
    "lower",
    "export",
    "verify",
    "evaluate",
    "compare",
    "hardware",
)
_SECTIONS = tuple(name for name in Recipe.model_fields if name not in ("out", "seed", "threads"))


def _run(context: StageContext) -> None:
    _write(RunFolder(context.run), context.recipe, context.folder / "report.html")


def write_run_report(folder: RunFolder, path: Path) -> Path:
    """Write the report of a finished run.

    Raises:
        ArtifactError: A file of a stage was changed or damaged.
        ConfigError: The run is unfinished; names the stage.
        StorageError: The file cannot be written.
    """
    from dyadiq.pipeline.current import check_done  # it knows all stages, this one among them

    recipe = load_recipe(folder.path / "recipe.json")
    check_done(folder, recipe)
    for name in REPORTED:
        folder.check_files(name)
    return _write(folder, recipe, path)


def _write(folder: RunFolder, recipe: Recipe, path: Path) -> Path:
    from dyadiq.core.store import load_plan, load_table
    from dyadiq.ir.serialize import load_program
    from dyadiq.report import ReportData, write_report
    from dyadiq.zero_shot.store import load_distilled

    records = {name: folder.finished_record(name) for name in REPORTED}
    run = folder.path
    table = load_table(run / "analyze" / "sensitivity.safetensors")
    distilled = run / "distill" / DISTILLED
    data = ReportData(
        summary=build_summary(recipe, folder, records),
        plan=load_plan(run / "allocate" / "plan.json"),
        table=table,
        program=load_program(run / "lower" / "program.safetensors"),
        command=f"dyadiq run {run}",
        notes=table.notes,
        distilled=load_distilled(distilled) if distilled.is_file() else None,
    )
    return write_report(data, path)


STAGE = Stage("report", "write the report", REPORTED, _SECTIONS, _run)
