"""GELU as exporters write it out: ``x * (1 + erf(x / sqrt(2))) * 0.5``. Used by `onnx_import` only.

The factors may come in any order, in products of two; what is found becomes one node ``Gelu``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["with_gelus"]

_ROOT, _NEAR = math.sqrt(2.0), 1e-3  # constants may have been float16


def with_gelus(nodes: Sequence[Any], constants: Mapping[str, NDArray[Any]], wanted: Iterable[str]) -> list[Any]:
    """Return the nodes of a file with every GELU that is written out as one node.

    Args:
        nodes: In the file's order.
        constants: Numbers by name.
        wanted: Outputs, which stay.
    """
    if not any(node.op_type == "Erf" for node in nodes):
        return list(nodes)
    network = _Network(nodes, constants, wanted)
    replaced: dict[str, Any] = {}
    gone: set[str] = set()
    for node in nodes:
        if node.op_type == "Erf" and (found := network.gelu(node)) is not None:
            x, parts = found
            replaced[parts[-1].output[0]] = _gelu_node(parts[-1], x)
            gone.update(part.output[0] for part in parts[:-1])
    kept = (node for node in nodes if not node.output or node.output[0] not in gone)
    return [replaced.get(node.output[0], node) if node.output else node for node in kept]


def _gelu_node(last: Any, x: str) -> Any:
    from onnx import helper

    return helper.make_node("Gelu", [x], [last.output[0]], name=last.name)


class _Network:
    """Who makes and who reads each tensor."""

    def __init__(self, nodes: Sequence[Any], constants: Mapping[str, NDArray[Any]], wanted: Iterable[str]) -> None:
        self.makers = {name: node for node in nodes for name in node.output}
        self.readers: dict[str, list[Any]] = {}
        for node in nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.constants, self.wanted = constants, set(wanted)

    def is_number(self, name: str, wanted: float) -> bool:
        """Whether a tensor is a constant of one number, about as large as that."""
        from dyadiq.ir.onnx_file import DamagedError, attributes, constant_node

        values, maker = self.constants.get(name), self.makers.get(name)
        if values is None and maker is not None and maker.op_type == "Constant":
            try:
                values = constant_node(attributes(maker))
            except (DamagedError, ValueError, TypeError, KeyError):
                return False
        if values is None or values.size != 1 or values.dtype.kind != "f":
            return False
        return abs(float(np.ravel(values)[0]) - wanted) < _NEAR

    def reader(self, name: str) -> Any | None:
        """Return the one node that reads a tensor; None if there are others, or it is an output."""
        found = self.readers.get(name, [])
        return found[0] if len(found) == 1 and name not in self.wanted else None

    def other(self, node: Any, name: str) -> str:
        """Return the other input of a node of two; empty if there is none."""
        inputs = list(node.input)
        return inputs[1 - inputs.index(name)] if len(inputs) == 2 else ""

    def argument(self, erf: Any) -> str | None:
        """Return x where erf reads ``x / sqrt(2)``, and nobody else does."""
        node = self.makers.get(erf.input[0])
        if node is None or self.reader(erf.input[0]) is not erf or len(node.input) != 2:
            return None
        x, factor = node.input
        if node.op_type == "Div":
            return str(x) if self.is_number(factor, _ROOT) else None
        if node.op_type != "Mul":
            return None
        return str(x) if self.is_number(factor, 1 / _ROOT) else str(factor) if self.is_number(x, 1 / _ROOT) else None

    def gelu(self, erf: Any) -> tuple[str, list[Any]] | None:
        """Return x and all nodes of a GELU, its last one last; None if it is none."""
        if not erf.input or not erf.output:
            return None
        x, add = self.argument(erf), self.reader(erf.output[0])
        if x is None or add is None or add.op_type != "Add" or not self.is_number(self.other(add, erf.output[0]), 1.0):
            return None
        parts, last, missing = [self.makers[erf.input[0]], erf, add], add, {"x", "half"}
        while missing:
            node = self.reader(last.output[0])
            if node is None or node.op_type not in ("Mul", "Div") or len(node.input) != 2:
                return None
            name = self.other(node, last.output[0])
            if node.op_type == "Div":
                found = {"half"} if node.input[0] == last.output[0] and self.is_number(name, 2.0) else set()
            elif name == x:
                found = {"x"}
            elif self.is_number(name, 0.5):
                found = {"half"}
            else:
                found = self.half_of(name, x, node, parts)
            if not found or not found <= missing:
                return None
            missing -= found
            parts.append(node)
            last = node
        return x, parts

    def half_of(self, name: str, x: str, node: Any, parts: list[Any]) -> set[str]:
        """Return what a factor is that is ``x / 2`` itself, and enter its node; nothing if it is another."""
        maker = self.makers.get(name)
        if (
            maker is None
            or maker.op_type not in ("Mul", "Div")
            or self.reader(name) is not node
            or x not in maker.input
        ):
            return set()
        number = self.other(maker, x)
        if not (self.is_number(number, 0.5) if maker.op_type == "Mul" else self.is_number(number, 2.0)):
            return set()
        parts.append(maker)
        return {"x", "half"}
