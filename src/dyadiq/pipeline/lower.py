"""Stage ``lower``: the integer program, with every accumulator width proven."""

from __future__ import annotations

from dataclasses import replace

from dyadiq.pipeline.stage import Stage, StageContext, read_json

__all__ = ["STAGE"]


def _run(context: StageContext) -> None:
    from dyadiq.core.store import load_plan
    from dyadiq.ir.serialize import save_program
    from dyadiq.quant.lower import lower
    from dyadiq.quant.store import load_quant_module

    program = lower(load_quant_module(context.path("finetune", "module.safetensors")))
    data = read_json(context.path("data", "data.json"))
    provenance = {
        "recipe": context.recipe.name,
        "seed": context.recipe.seed,
        "data_sha256": data["sha256"],
        "preprocessing": data["preprocessing"],
        "classes": data["classes"],
        "bits": load_plan(context.path("allocate", "plan.json")).bits,
    }
    save_program(context.folder / "program.safetensors", replace(program, provenance=provenance))


STAGE = Stage("lower", "lower to integers", ("data", "allocate", "finetune"), ("name",), _run)
