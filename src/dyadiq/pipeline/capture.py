"""Stage ``capture``: the float model as a graph, batch norms and all; an ONNX file is one already."""

from __future__ import annotations

from dyadiq.pipeline.sources import dataset, float_model
from dyadiq.pipeline.stage import Stage, StageContext

__all__ = ["STAGE"]


def _run(context: StageContext) -> None:
    import torch

    from dyadiq.ir.capture import capture
    from dyadiq.ir.residuals import separate_residuals
    from dyadiq.ir.serialize import save_graph
    from dyadiq.zoo.onnx_model import OnnxModel

    model = float_model(context)
    if isinstance(model, OnnxModel):
        graph = model.graph()
    else:
        graph = capture(model, (torch.from_numpy(dataset(context).train.x[:2]),))
    if context.recipe.quant.residual_bits is not None:
        graph = separate_residuals(graph)
    save_graph(context.folder / "graph.safetensors", graph)


STAGE = Stage(
    "capture", "capture the model as a graph", ("data", "float"), ("data", "model", "quant.residual_bits"), _run
)
