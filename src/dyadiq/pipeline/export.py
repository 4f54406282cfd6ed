"""Stage ``export``: the program as files of the targets in the recipe; the packed file is always among them."""

from __future__ import annotations

from dyadiq.pipeline.stage import Stage, StageContext, write_json
from dyadiq.pipeline.targets import CIRCUIT, recipe_target

__all__ = ["STAGE"]


def _run(context: StageContext) -> None:
    from dyadiq.ir.serialize import load_program

    program = load_program(context.path("lower", "program.safetensors"))
    targets = [recipe_target(context.recipe, name) for name in dict.fromkeys(("dyq", *context.recipe.export.to))]
    notes = {target.name: target.check(program) for target in targets}
    written = {}
    context.progress.start("export", len(targets))
    for target in targets:
        files = target.write(program, context.folder / target.name)
        written[target.name] = [str(path.relative_to(context.folder)) for path in files]
        context.progress.advance(note=target.name)
    context.progress.finish()
    write_json(context.folder / "export.json", {"files": written, "notes": notes})


STAGE = Stage("export", "write the targets", ("lower",), ("export", *CIRCUIT), _run)
