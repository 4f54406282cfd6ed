"""Where the data pack lies: the folder of data sets and weights that recipes, tests and benchmarks read.

Used by zoo, doctor, tests and benchmarks. Looks at nothing but its argument and the environment.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["DATA_VARIABLE", "data_folder"]

DATA_VARIABLE = "DYADIQ_DATA"
_DEFAULT_FOLDER = "../shared/data"


def data_folder(data_dir: str | Path | None = None) -> Path:
    """Return the folder of the data pack: the argument, else ``$DYADIQ_DATA``, else ``../shared/data``.

    Example:
        >>> data_folder("pack").as_posix()
        'pack'
    """
    return Path(data_dir) if data_dir is not None else Path(os.environ.get(DATA_VARIABLE, _DEFAULT_FOLDER))
