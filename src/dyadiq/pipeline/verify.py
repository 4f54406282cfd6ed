"""Stage ``verify``: every executor of the recipe against the reference, on the test split, integer for integer.

A difference does not stop the run: it is written down with the first place it occurs, and the summary refuses.
"""

from __future__ import annotations

from dyadiq.pipeline.sources import dataset
from dyadiq.pipeline.stage import Stage, StageContext, write_json

__all__ = ["STAGE"]


def _run(context: StageContext) -> None:
    from dyadiq.ir.serialize import load_program
    from dyadiq.targets.verify import verify

    section = context.recipe.verify
    results = verify(
        load_program(context.path("lower", "program.safetensors")),
        dataset(context).test.x[: section.n_samples],
        section.against,
        raise_on_mismatch=False,
        progress=context.progress,
    )
    write_json(context.folder / "verify.json", {name: result.to_json() for name, result in results.items()})


STAGE = Stage("verify", "compare executors", ("data", "lower"), ("data", "verify"), _run)
