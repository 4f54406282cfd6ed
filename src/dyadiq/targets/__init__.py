"""Targets: where integer programs go, each with `check`, `write` and `emulate`; and `verify`, which compares them.

How to add one: see `targets.base`. The order here is the order in which they are listed to users.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dyadiq.core.errors import UnknownNameError
from dyadiq.targets.base import Target
from dyadiq.targets.c import CTarget
from dyadiq.targets.dyq import DyqTarget
from dyadiq.targets.engine import EngineTarget
from dyadiq.targets.exact import ExactTarget
from dyadiq.targets.hls4ml import Hls4mlTarget
from dyadiq.targets.onnx_integer import OnnxTarget
from dyadiq.targets.qdq import QdqTarget
from dyadiq.targets.qonnx import QonnxTarget
from dyadiq.targets.reference import ReferenceTarget
from dyadiq.targets.verilog import VerilogTarget
from dyadiq.targets.verilog_stream import VerilogStreamTarget

__all__ = ["TARGETS", "Target", "get_target"]

TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        target.name: target
        for target in (
            ReferenceTarget(),
            ExactTarget(),
            OnnxTarget(),
            QonnxTarget(),
            QdqTarget(),
            DyqTarget(),
            EngineTarget(),
            CTarget(),
            Hls4mlTarget(),
            VerilogTarget(),
            VerilogStreamTarget(),
        )
    }
)


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
