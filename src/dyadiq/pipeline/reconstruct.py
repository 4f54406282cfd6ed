"""Stage ``reconstruct``: weights, scales and biases chosen again by what they do to outputs, without training."""

from __future__ import annotations

from dyadiq.pipeline.quantized import reconstruct
from dyadiq.pipeline.stage import Stage, StageContext, write_json

__all__ = ["STAGE"]


def _run(context: StageContext) -> None:
    from dyadiq.quant.store import load_quant_module, save_quant_module

    qmod = load_quant_module(context.path("quantize", "module.safetensors"))
    done = reconstruct(context, qmod)
    save_quant_module(context.folder / "module.safetensors", qmod)
    write_json(context.folder / "reconstruct.json", done)


STAGE = Stage("reconstruct", "reconstruct the outputs", ("data", "distill", "quantize"), ("data", "reconstruct"), _run)
