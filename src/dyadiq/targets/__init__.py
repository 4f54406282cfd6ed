"""Targets: where integer programs go, each with `check`, `write` and `emulate`; and `verify`, which compares them.

How to add one: see `targets.base`. The order here is the order in which they are listed to users.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dyadiq.core.errors import UnknownNameError
from dyadiq.targets.base import Target
from dyadiq.targets.onnx_integer import OnnxTarget

__all__ = ["TARGETS", "Target", "get_target"]

TARGETS: Mapping[str, Target] = MappingProxyType({target.name: target for target in (OnnxTarget(),)})


def get_target(name: str) -> Target:
    """Return a target by name.

    Raises:
        UnknownNameError: No such target; lists the known ones.

    Example:
        >>> get_target("onnx").exact
        True
    """
    if name not in TARGETS:
        raise UnknownNameError("target", name, TARGETS)
    return TARGETS[name]
