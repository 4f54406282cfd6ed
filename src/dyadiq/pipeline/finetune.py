"""Stage ``finetune``: the quantized network trained on, resumable inside the stage."""

from __future__ import annotations

from dyadiq.pipeline.quantized import finetune_
from dyadiq.pipeline.stage import Stage, StageContext, write_json

__all__ = ["STAGE"]


def _run(context: StageContext) -> None:
    from dyadiq.quant.store import load_quant_module, save_quant_module

    qmod = load_quant_module(context.path("reconstruct", "module.safetensors"))
    history = finetune_(context, qmod, context.scratch / "training.safetensors")
    save_quant_module(context.folder / "module.safetensors", qmod)
    write_json(context.folder / "training.json", history)


STAGE = Stage("finetune", "fine-tune", ("data", "float", "analyze", "reconstruct"), ("data", "model", "finetune"), _run)
