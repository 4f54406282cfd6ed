"""Whether a run folder's summary and files are the result of its recipe as it stands, and what is left to do if not.

Used by `pipeline.run`, the report and the command line, so that what an earlier recipe left is never shown as the
result of a later one that failed or was interrupted. Reads records; runs nothing and changes nothing.
"""

from __future__ import annotations

import json
from typing import Any

from dyadiq.core.errors import ConfigError
from dyadiq.pipeline.runner import stage_key
from dyadiq.pipeline.stages import STAGES
from dyadiq.pipeline.store import RunFolder, StageRecord
from dyadiq.pipeline.summary import SUMMARY_SCHEMA
from dyadiq.recipe import Recipe

__all__ = ["check_done", "current_records", "current_summary"]


def current_summary(folder: RunFolder, recipe: Recipe) -> dict[str, Any] | None:
    """Return the summary if it was made from this recipe and from the stages that are there now; None otherwise.

    A summary that another version of Dyadiq wrote still counts: the stages beside it are those it tells of.
    """
    try:
        document = json.loads((folder.path / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(document, dict) or document.get("schema") != SUMMARY_SCHEMA:
        return None
    keys = document.get("stages")
    if document.get("recipe_sha256") != recipe.sha256 or not isinstance(keys, dict):
        return None
    records = {name: folder.record(name) for name in keys}
    return document if keys == {name: r.key for name, r in records.items() if r is not None} else None


def current_records(folder: RunFolder, recipe: Recipe) -> dict[str, StageRecord]:
    """Return the records of the leading stages that the recipe would not run again; files are not looked at."""
    records: dict[str, StageRecord] = {}
    for stage in STAGES:
        record = folder.record(stage.name)
        if record is None or record.key != stage_key(stage, recipe, records):
            break
        records[stage.name] = record
    return records


def check_done(folder: RunFolder, recipe: Recipe, until: str = STAGES[-1].name) -> None:
    """Check that a run is finished, or at least its stages up to one.

    Raises:
        ConfigError: The recipe would run a stage again; names the first such stage.
    """
    if current_summary(folder, recipe) is not None:
        return
    done = current_records(folder, recipe)
    if until in done and until != STAGES[-1].name:
        return
    left = next((stage.name for stage in STAGES if stage.name not in done), None)
    what = f"stage {left!r} has not finished for its recipe" if left else "its summary was not written"
    earlier = folder.path / "previous"
    hint = f" What an earlier recipe gave is in {earlier}." if earlier.is_dir() else ""
    raise ConfigError(
        f"{folder.path}: the run is unfinished: {what}. Run the same command again; finished stages are kept.{hint}"
    )
