"""An ONNX file that is quantized already: its program, compared, measured and exported; nothing is left to choose.

Used by ``dyadiq run net.onnx``. The program is that of `ir.qonnx_import` with near roundings allowed, which are told.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dyadiq.core.errors import ConfigError
from dyadiq.core.progress import NO_PROGRESS, Progress
from dyadiq.pipeline.evaluate import evaluate_program
from dyadiq.pipeline.stage import write_json
from dyadiq.pipeline.targets import recipe_target
from dyadiq.pipeline.verify import compare_executors
from dyadiq.recipe import Recipe

__all__ = ["run_imported"]


def run_imported(recipe: Recipe, *, progress: Progress = NO_PROGRESS) -> dict[str, Any]:
    """Return, and write as ``imported.json``, what a quantized ONNX file is worth on a data set.

    Args:
        recipe: From `recipe.onnx_recipe`; of its sections ``data``, ``model``, ``verify`` and ``export`` count.
        progress: Draws bars.

    Raises:
        CaptureError: What has no integer form, all of it.
        ConfigError: Data of another shape than the network's input, or a folder of another run.
        DyadiqError: Whatever a target refuses.
    """
    from dyadiq.cost.bops import program_bops
    from dyadiq.ir.qonnx_import import import_qonnx
    from dyadiq.ir.serialize import save_program
    from dyadiq.zoo import load_dataset

    folder = Path(recipe.folder)
    if (folder / "recipe.json").exists():
        raise ConfigError(f"{folder} holds another run. Say where: --set out=FOLDER.")
    output = recipe.model.args.get("output")
    program = import_qonnx(recipe.model.name, outputs=() if output is None else (str(output),), nearest=True)
    data = load_dataset(recipe.data.name, **{"seed": recipe.seed, **recipe.data.options})
    (name,) = program.graph.inputs
    if tuple(data.input_shape) != program.graph.tensors[name].shape:
        raise ConfigError(
            f"data {recipe.data.name!r}: samples of shape {list(data.input_shape)}, but {recipe.model.name} takes "
            f"{list(program.graph.tensors[name].shape)}. Give the data that the network was made for."
        )
    folder.mkdir(parents=True, exist_ok=True)
    save_program(folder / "program.safetensors", program)
    artifacts = {"program": str(folder / "program.safetensors")}
    for target in dict.fromkeys(("dyq", *recipe.export.to)):
        made = recipe_target(recipe, target).write(program, folder / "export" / target)
        artifacts[target] = str(made[0])
    found = compare_executors(recipe, program, data.test.x, folder / "verify", progress)
    refusals = [result.refusal for result in found.values() if result.refusal]
    document = {
        "schema": "dyadiq.imported/1",
        "name": recipe.name,
        "accuracy": {"integer": evaluate_program(program, data.test)},
        "n_eval": len(data.test),
        "size_bytes": Path(artifacts["dyq"]).stat().st_size,
        "bops": program_bops(program),
        "verify": {key: result.to_json() for key, result in found.items()},
        "notes": list(program.provenance["notes"]),
        "artifacts": artifacts,
        "refusals": refusals,
        "accepted": not refusals,
    }
    write_json(folder / "imported.json", document)
    return document
