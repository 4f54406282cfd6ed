"""Whether the native parts are here: `dyadiq._native`, built from native/ by `pip install` where there is a compiler.

Used by `allocation.knapsack` and `quant.fused_rounding` (which work without, more slowly), `engine.runtime` (which does
not) and `dyadiq doctor`.
A module built from other sources than these counts as missing, since its answers could differ; nothing falls back in
silence: plans name their solver.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any

__all__ = ["INTERFACE", "NativeState", "native_module", "native_state"]

INTERFACE = 19  # as kInterface in native/bindings/module.cpp


@dataclass(frozen=True, slots=True)
class NativeState:
    """The module if it can be used; otherwise what is wrong, in a few words."""

    module: Any
    found: str


@cache
def native_state() -> NativeState:
    """Return the native module, or why there is none."""
    try:
        module = importlib.import_module("dyadiq._native")
    except ImportError as err:
        return NativeState(None, "not built" if isinstance(err, ModuleNotFoundError) else f"does not load: {err}")
    if module.INTERFACE != INTERFACE:
        return NativeState(None, f"built from other sources (interface {module.INTERFACE}, expected {INTERFACE})")
    return NativeState(module, str(module.__file__))


def native_module() -> Any:
    """Return the native module, or None."""
    return native_state().module
