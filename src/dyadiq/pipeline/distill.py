"""Stage ``distill``: calibration inputs from the network's batch norms, where the recipe has ``[distill]``.

Then no training sample is read by the stages that measure sensitivities and ranges. Without the section nothing is
made, and those stages read training samples (`sources.calibration_batches`).
"""

from __future__ import annotations

from dyadiq.pipeline.sources import DISTILLED, graph
from dyadiq.pipeline.stage import Stage, StageContext, write_json

__all__ = ["STAGE"]


def _run(context: StageContext) -> None:
    from dyadiq.zero_shot import distill
    from dyadiq.zero_shot.store import save_distilled

    section = context.recipe.distill
    if section is None:
        write_json(context.folder / "distilled.json", None)
        return
    made = distill(graph(context), **section.model_dump(), seed=context.recipe.seed, progress=context.progress)
    save_distilled(context.folder / DISTILLED, made)
    write_json(
        context.folder / "distilled.json",
        {
            "n": len(made.images),
            "seed": made.seed,
            "mismatch": made.total_mismatch,
            "mismatch_at_start": made.history[0],
            "summary": made.summary,
            "notes": list(made.notes),
        },
    )


STAGE = Stage("distill", "distill calibration inputs", ("capture",), ("distill",), _run)
