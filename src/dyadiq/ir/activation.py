"""Which values an activation function lets through, and the functions that become tables. No torch.

Used by checks, sites, execution and lowering, so that all of them mean the same. Two kinds of activation functions:

- limits: ``relu`` and ``clamp`` keep values between a lower and an upper limit. They are nodes, or fused into the node
  before (attribute ``activation``, and ``limits`` for a clamp), and become clip bounds of codes.
- functions: `FUNCTIONS`, attribute ``function`` of a ``lookup`` node, become tables from codes to codes.
  To add one: a line here, a line in `ir.execute`, its operator in `ir.capture_ops`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dyadiq.ir.graph import Node

__all__ = ["ACTIVATIONS", "FUNCTIONS", "Limits", "find_limits", "is_nonnegative_activation"]

Limits: TypeAlias = tuple[float | None, float | None]

ACTIVATIONS = ("relu", "clamp")
"""Operators of the float dialect that keep values between limits."""

_Reals: TypeAlias = NDArray[np.float64]


def _sigmoid(x: _Reals) -> _Reals:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))


def _gelu(x: _Reals) -> _Reals:
    return np.asarray(0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0))))


def _hardsigmoid(x: _Reals) -> _Reals:
    return np.clip(x + 3.0, 0.0, 6.0) / 6.0


FUNCTIONS: Mapping[str, Callable[[_Reals], _Reals]] = MappingProxyType(
    {
        "gelu": _gelu,
        "hardsigmoid": _hardsigmoid,
        "hardswish": lambda x: x * _hardsigmoid(x),
        "leaky_relu": lambda x: np.where(x >= 0, x, 0.01 * x),
        "sigmoid": _sigmoid,
        "silu": lambda x: x * _sigmoid(x),
        "tanh": lambda x: np.asarray(np.tanh(x)),
    }
)

_NONNEGATIVE_FUNCTIONS = ("hardsigmoid", "sigmoid")


def find_limits(node: Node) -> Limits | None:
    """Return the limits of a node's values that its activation sets; None if it has none.

    Example:
        >>> find_limits(Node("a", "add", ("x", "y"), "a", {"activation": "relu"}))
        (0.0, None)
        >>> find_limits(Node("c", "clamp", ("x",), "c", {"limits": [0.0, 6.0]}))
        (0.0, 6.0)
    """
    kind: Any = node.op if node.op in ACTIVATIONS else node.attrs.get("activation")
    if kind is None:
        return None
    if kind == "relu":
        return (0.0, None)
    low, high = node.attrs["limits"]
    return (low, high)


def is_nonnegative_activation(node: Node) -> bool:
    """Whether a node's values are >= 0 because of its activation."""
    limits = find_limits(node)
    if limits is not None:
        return limits[0] is not None and limits[0] >= 0
    return node.op == "lookup" and node.attrs["function"] in _NONNEGATIVE_FUNCTIONS
