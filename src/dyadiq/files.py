"""`save` and `load`: any of the nouns to one file and back, hashed, versioned, without pickle.

Used through the public face. The formats themselves live with their nouns (`core.store`, `ir.serialize`,
`quant.store`, `zero_shot.store`); here they are found by type when saving and by schema when loading.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from dyadiq.core.artifact import peek_schema
from dyadiq.core.errors import ArtifactError, ConfigError

__all__ = ["load", "save"]

# noun in the schema: class, its module, module of the two functions, saver, loader
_NOUNS: Mapping[str, tuple[str, str, str, str, str]] = MappingProxyType(
    {
        "graph": ("Graph", "ir.graph", "ir.serialize", "save_graph", "load_graph"),
        "program": ("IntegerProgram", "ir.integer", "ir.serialize", "save_program", "load_program"),
        "plan": ("BitPlan", "core.plan", "core.store", "save_plan", "load_plan"),
        "sensitivity": ("SensitivityTable", "core.tables", "core.store", "save_table", "load_table"),
        "cost": ("CostTable", "core.tables", "core.store", "save_cost", "load_cost"),
        "facts": ("NetworkFacts", "core.facts", "core.store", "save_facts", "load_facts"),
        "distilled": ("Distilled", "zero_shot.distilled", "zero_shot.store", "save_distilled", "load_distilled"),
        "quant-module": ("QuantModule", "quant.module", "quant.store", "save_quant_module", "load_quant_module"),
    }
)


def save(noun: Any, path: str | os.PathLike[str]) -> str:
    """Write a Graph, table, BitPlan, Distilled, QuantModule or IntegerProgram to one file; return its SHA-256.

    The write is atomic: the file is the old one or the new one, never half of either.

    Raises:
        ConfigError: Not one of the nouns.
        StorageError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> from dyadiq.core.format import Format
        >>> from dyadiq.core.plan import BitPlan
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save(BitPlan({"fc.weight": Format(4)}), f"{folder}/plan.json")
        ...     load(f"{folder}/plan.json").bits
        {'fc.weight': 4}
    """
    for name, module, home, saver, _ in _NOUNS.values():
        if type(noun).__name__ == name and type(noun).__module__ == f"dyadiq.{module}":
            digest: str = getattr(importlib.import_module(f"dyadiq.{home}"), saver)(path, noun)
            return digest
    known = ", ".join(entry[0] for entry in _NOUNS.values())
    raise ConfigError(f"save: got a {type(noun).__name__}, expected one of {known}. Programs also go to `export`.")


def load(path: str | os.PathLike[str]) -> Any:
    """Read back what `save` (or a run) wrote; versions and hashes are checked.

    Raises:
        ArtifactError: Missing, damaged, from a newer version, with a wrong hash, or not one of the nouns.
    """
    noun = peek_schema(path).removeprefix("dyadiq.").split("/")[0]
    if noun not in _NOUNS:
        raise ArtifactError(f"{path}: holds a {noun}; load reads {', '.join(_NOUNS)}.")
    _, _, home, _, loader = _NOUNS[noun]
    return getattr(importlib.import_module(f"dyadiq.{home}"), loader)(path)
