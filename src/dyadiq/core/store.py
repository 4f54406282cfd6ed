"""Files of the nouns that are plain numbers: plans, tables, facts.

Used by the pipeline, the CLI and people's own scripts; imports core only. Graphs and programs: `ir.serialize`.
All four are JSON files (`core.artifact`), so that they can be read, compared and, for plans, written by hand;
a sensitivity table with interactions, losses of samples or spectra is a safetensors file, these being large.
Numbers come back exactly; infinities and NaN of a sensitivity table are kept as text.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.artifact import read_artifact, write_artifact
from dyadiq.core.errors import ArtifactError, ConfigError
from dyadiq.core.facts import NetworkFacts
from dyadiq.core.plan import BitPlan
from dyadiq.core.tables import CostTable, Interactions, SampleLosses, Sensitivity, SensitivityTable, Spectrum

__all__ = [
    "load_cost",
    "load_facts",
    "load_plan",
    "load_table",
    "save_cost",
    "save_facts",
    "save_plan",
    "save_table",
]

PLAN_SCHEMA = "dyadiq.plan/1"
COST_SCHEMA = "dyadiq.cost/1"
FACTS_SCHEMA = "dyadiq.facts/1"
SENSITIVITY_SCHEMA = "dyadiq.sensitivity/1"

_Path = str | os.PathLike[str]
_T = TypeVar("_T")


def save_plan(path: _Path, plan: BitPlan) -> str:
    """Store a plan as JSON; return its hash.

    Raises:
        ArtifactError: The plan holds something JSON cannot say.
        StorageError: The disk is full or not writable.
    """
    return write_artifact(path, PLAN_SCHEMA, plan.to_json())


def load_plan(path: _Path, require_hash: bool = False) -> BitPlan:
    """Read a plan, also one written by hand (without a hash).

    Raises:
        ArtifactError: Damaged file, wrong hash, or not a valid plan.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "plan.json")
        >>> text = '{"schema": "dyadiq.plan/1", "payload": {"formats": {"fc.weight": {"bits": 3}}}}'
        >>> with open(path, "w") as file: _ = file.write(text)
        >>> load_plan(path).bits
        {'fc.weight': 3}
    """
    payload, _ = read_artifact(path, PLAN_SCHEMA, require_hash)
    return _decode(path, "plan", BitPlan.from_json, payload)


def save_cost(path: _Path, table: CostTable) -> str:
    """Store a cost table as JSON; return its hash.

    Raises:
        ArtifactError: The table holds something JSON cannot say.
        StorageError: The disk is full or not writable.
    """
    return write_artifact(path, COST_SCHEMA, table.to_json())


def load_cost(path: _Path) -> CostTable:
    """Read a cost table.

    Raises:
        ArtifactError: Damaged file, wrong hash, or not a cost table.
    """
    return _decode(path, "cost table", CostTable.from_json, read_artifact(path, COST_SCHEMA)[0])


def save_facts(path: _Path, facts: NetworkFacts) -> str:
    """Store network facts as JSON; return their hash.

    Raises:
        ArtifactError: The facts hold something JSON cannot say.
        StorageError: The disk is full or not writable.
    """
    return write_artifact(path, FACTS_SCHEMA, facts.to_json())


def load_facts(path: _Path) -> NetworkFacts:
    """Read network facts.

    Raises:
        ArtifactError: Damaged file, wrong hash, or not network facts.
    """
    return _decode(path, "network facts", NetworkFacts.from_json, read_artifact(path, FACTS_SCHEMA)[0])


def save_table(path: _Path, table: SensitivityTable) -> str:
    """Store a sensitivity table; return its hash.

    Raises:
        ArtifactError: The table holds something that cannot be stored.
        StorageError: The disk is full or not writable.
    """
    payload = {
        "method": table.method,
        "unit": table.unit,
        "n_samples": table.n_samples,
        "seed": table.seed,
        "notes": list(table.notes),
        "entries": {
            name: {str(bits): _pair(value) for bits, value in row.items()} for name, row in table.entries.items()
        },
        "curvature": {name: _pair(value) for name, value in table.curvature.items()},
        "interactions": None,
        "facts": table.facts.to_json(),
    }
    arrays = {}
    if table.interactions is not None:
        payload["interactions"] = [list(entry) for entry in table.interactions.index]
        arrays["interactions"] = np.asarray(table.interactions.matrix, dtype=np.float64)
    if table.samples is not None:
        payload["samples"] = [list(entry) for entry in table.samples.index]
        arrays["samples"] = np.asarray(table.samples.losses, dtype=np.float64)
    if table.spectra:
        payload["spectra"] = {name: found.n for name, found in table.spectra.items()}
        for name, found in table.spectra.items():
            arrays[f"spectrum points {name}"], arrays[f"spectrum weights {name}"] = found.points, found.weights
    return write_artifact(path, SENSITIVITY_SCHEMA, payload, arrays)


def load_table(path: _Path) -> SensitivityTable:
    """Read a sensitivity table.

    Raises:
        ArtifactError: Damaged file, wrong hash, or not a sensitivity table.
    """
    return _decode(path, "sensitivity table", _table_from_parts, read_artifact(path, SENSITIVITY_SCHEMA))


def _table_from_parts(parts: tuple[Mapping[str, Any], Mapping[str, NDArray[Any]]]) -> SensitivityTable:
    data, arrays = parts
    cross = data["interactions"]
    if cross is not None:
        cross = Interactions(tuple((str(name), int(bits)) for name, bits in cross), arrays["interactions"])
    samples = data.get("samples")
    if samples is not None:
        samples = SampleLosses(tuple((str(name), int(bits)) for name, bits in samples), arrays["samples"])
    return SensitivityTable(
        method=data["method"],
        unit=data["unit"],
        entries={
            name: {int(bits): Sensitivity(float(v), float(e)) for bits, (v, e) in row.items()}
            for name, row in data["entries"].items()
        },
        facts=NetworkFacts.from_json(data["facts"]),
        n_samples=data["n_samples"],
        seed=data["seed"],
        curvature={name: Sensitivity(float(v), float(e)) for name, (v, e) in data["curvature"].items()},
        interactions=cross,
        samples=samples,
        spectra={
            name: Spectrum(arrays[f"spectrum points {name}"], arrays[f"spectrum weights {name}"], n)
            for name, n in data.get("spectra", {}).items()
        },
        notes=tuple(data["notes"]),
    )


def _pair(value: Sensitivity) -> list[float | str]:
    return [_number(value.value), _number(value.stderr)]


def _number(value: float) -> float | str:
    """Return a finite number as it is, others as the text that ``float`` reads back."""
    return float(value) if math.isfinite(value) else str(float(value))


def _decode(path: _Path, noun: str, decode: Callable[[Any], _T], payload: Any) -> _T:
    """Turn a payload into its noun, naming the file where that fails.

    Raises:
        ArtifactError: A key is missing, or a value has no meaning.
    """
    try:
        return decode(payload)
    except KeyError as err:
        raise ArtifactError(f"{path}: not a valid {noun}: the key {err} is missing. Add it, or make it again.") from err
    except (ConfigError, TypeError, ValueError, AttributeError, IndexError) as err:
        raise ArtifactError(f"{path}: not a valid {noun}: {err} Correct it, or make the file again.") from err
