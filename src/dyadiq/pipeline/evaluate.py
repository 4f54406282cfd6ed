"""Stage ``evaluate``: accuracy on the test split, of the float model and of the integer program.

The integer program is run by `quant.exact`, which equals the reference by test and by the verify stage; nothing is
taken from the fake-quantized model. This stage alone looks at test labels, and no choice follows from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.pipeline.sources import dataset, float_model
from dyadiq.pipeline.stage import Stage, StageContext, write_json

if TYPE_CHECKING:
    from dyadiq.ir.integer import IntegerProgram
    from dyadiq.zoo.data import Split

__all__ = ["STAGE", "evaluate_program"]


def _run(context: StageContext) -> None:
    from dyadiq.core.store import load_table
    from dyadiq.cost.bops import bops_cost
    from dyadiq.ir.serialize import load_program
    from dyadiq.train import evaluate

    data = dataset(context)
    program = load_program(context.path("lower", "program.safetensors"))
    model = float_model(context)
    facts = load_table(context.path("analyze", "sensitivity.safetensors")).facts
    metrics = {
        "bops_float": bops_cost(facts, [8], [8]).reference,
        "n_eval": len(data.test),
        "float": {part: evaluate(model, split).accuracy for part, split in _parts(data.validation, data.test)},
        "integer": {part: evaluate_program(program, split) for part, split in _parts(data.validation, data.test)},
    }
    write_json(context.folder / "metrics.json", metrics)


def _parts(validation: Split, test: Split) -> tuple[tuple[str, Split], ...]:
    return ("validation", validation), ("test", test)


def evaluate_program(program: IntegerProgram, split: Split) -> float:
    """Return the accuracy of an integer program: the largest output code (ties: the first class) is its answer."""
    from dyadiq.quant.exact import run_exact
    from dyadiq.train import accuracy

    (output,) = program.graph.outputs

    def codes(x: NDArray[np.float32]) -> NDArray[Any]:
        return run_exact(program, x)[output]

    return accuracy(codes, split)


STAGE = Stage(
    "evaluate", "measure accuracy on the test split", ("data", "float", "analyze", "lower"), ("data", "model"), _run
)
