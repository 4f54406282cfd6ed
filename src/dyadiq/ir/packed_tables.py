"""The tables of a `.dyq` file: which number of a program lies in which, and the names that are not stored.

Used by `packed`, which writes them, and `unpacked`, which reads them. Normative text: docs/spec/dyq.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from dyadiq.core.qtype import QType
from dyadiq.ir.graph import Node
from dyadiq.ir.integer import NARROW_BIAS

__all__ = [
    "ATTRIBUTES",
    "CHANNEL_SCALES",
    "INT32",
    "INT64",
    "ONE_SCALE",
    "PARAMS",
    "TABLES",
    "UINT32",
    "node_params",
    "param_name",
    "usual_node_name",
    "usual_output",
]

INT32, UINT32, _UINT8 = QType(32, signed=True), QType(32, signed=False), QType(8, signed=False)
INT64 = QType(64, signed=True)
TABLES: Mapping[str, QType | None] = MappingProxyType(  # in the order of the file; None: float64
    {
        "@type": _UINT8,
        "@zero_point": INT32,
        "@clip": UINT32,
        "@scale": None,
        "@bias": NARROW_BIAS,
        "@multiplier": UINT32,
        "@shift": _UINT8,
        "@group_factor": INT32,
        "@lookup": INT32,
    }
)
_WEIGHT = ("weight", "")
_DOT = (
    _WEIGHT,
    ("@bias", "{node}:bias"),
    ("@zero_point", "{weight}.zero_point"),
    ("@group_factor", "{weight}.group_factor"),
)
# Of each operator's parameters: the table, and the usual name, which is not stored.
PARAMS: Mapping[str, tuple[tuple[str, str], ...]] = MappingProxyType(
    {
        "quantize": (
            ("@scale", "{x}.scale"),
            ("@zero_point", "{x}.zero_point"),
            ("@shift", "{x}.shift"),
            ("@clip", "{x}.low"),
            ("@clip", "{x}.high"),
        ),
        "conv2d": _DOT,
        "linear": _DOT,
        "requantize": (("@multiplier", "{node}.multiplier"), ("@shift", "{node}.shift")),
        "sum_pool2d": (("@bias", "{node}:bias"), ("@group_factor", "{node}.factor")),
        "lookup": (("@lookup", "{node}.table"),),
    }
)
ATTRIBUTES = MappingProxyType(
    {
        "zero_point": "@zero_point",
        "pad_value": "@zero_point",
        "first": "@zero_point",
        "clip_min": "@clip",
        "clip_max": "@clip",
    }
)
ONE_SCALE, CHANNEL_SCALES = 8, 16  # flags of a tensor, besides those of its type


def node_params(node: Node) -> list[tuple[str, str]]:
    """Return the parameters of a node, each with its table or "weight"."""
    return [(name, table) for name, (table, _) in zip(node.inputs[1:], PARAMS.get(node.op, ()), strict=False)]


def usual_node_name(op: str, inputs: Sequence[str], makers: Mapping[str, str]) -> str:
    """Return the name of a node that is not stored: its weight's module, else that of the node it reads, and its op."""
    return inputs[1].rpartition(".")[0] if PARAMS.get(op) is _DOT else f"{makers[inputs[0]]}:{op}"


def usual_output(name: str | None, inputs: Sequence[str]) -> str:
    """Return the name of an output that is not stored: a node's stored name, else its input's up to the last colon."""
    return inputs[0].rpartition(":")[0] if name is None else name


def param_name(usual: str, node: str, inputs: Sequence[str]) -> str:
    """Return the usual name of a parameter, which is not stored."""
    return usual.format(node=node, x=inputs[0], weight=inputs[1] if len(inputs) > 1 else "")
