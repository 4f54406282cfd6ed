"""Stage ``data``: load and check the data set, and write down what it is (hash, sizes, preprocessing).

Runs each time, because files outside the run folder may have changed (also the weights that a recipe names);
later stages depend on the hashes it writes.
"""

from __future__ import annotations

import numpy as np

from dyadiq.pipeline.sources import dataset, weights_sha256
from dyadiq.pipeline.stage import Stage, StageContext, write_json

__all__ = ["STAGE"]


def _run(context: StageContext) -> None:
    data = dataset(context)
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    write_json(
        context.folder / "data.json",
        {
            "name": data.name,
            "weights_sha256": weights_sha256(context.recipe),
            "sha256": data.sha256,
            "input_shape": list(data.input_shape),
            "classes": list(data.classes),
            "feature_names": list(data.feature_names),
            "preprocessing": dict(data.preprocessing),
            "n": {name: len(split) for name, split in splits.items()},
            "n_per_class": {
                name: np.bincount(split.y, minlength=len(data.classes)).tolist() for name, split in splits.items()
            },
        },
    )


STAGE = Stage("data", "load and check the data", (), ("data", "model"), _run, always=True)
