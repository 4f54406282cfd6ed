"""An IntegerProgram as the parts of a `.dyq` file: a skeleton in JSON and tensors of fixed types; and its size.

Used by `targets.dyq` (files) and by whoever fills `NetworkFacts.fixed_size_bytes`; writes nothing, knows no byte layout
(`core.container`). Normative text: docs/spec/dyq.md.

The skeleton holds what the structure fixes: names, shapes, operators, strides. Everything that calibration or a bit
plan can change lives in tensors whose length the structure fixes too, so that only weights change size with bits:

    @types        uint32 [T + P, 3]  of every tensor, then parameter: bits (0: none), flags, zero point (as int32)
    @attributes   uint32 [A, 2]      zero points, clip bounds and pad values in node order: int64, low word first
    @scales       float64 [S]        scales of all tensors that have one
    parameters    weights at their type; biases, zero points, group factors int32; multipliers uint32; shifts uint8;
                  input scales float64

Sources of nodes, ``meta`` and ``provenance`` are left out: they are facts about a program, not the program.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.container import TensorSpec, container_size_bytes, tensor_payload_bytes, type_flags, type_from_flags
from dyadiq.core.packing import MAX_PACKED_BITS
from dyadiq.core.qtype import QType
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.integer import INTEGER_OPS, IntegerProgram
from dyadiq.ir.serialize import tuples_from_lists

__all__ = ["find_unpackable", "pack_program", "packed_size_parts", "unpack_program"]

_INT32, _UINT32, _UINT8 = QType(32, signed=True), QType(32, signed=False), QType(8, signed=False)
_Stored = QType | Literal["float64", "weight"]
_DOT: tuple[_Stored, ...] = ("weight", _INT32, _INT32, _INT32)  # weight, bias, weight zero point, group factor
_PARAM_TYPES: Mapping[str, tuple[_Stored, ...]] = MappingProxyType(
    {
        "quantize": ("float64", _INT32),
        "conv2d": _DOT,
        "linear": _DOT,
        "requantize": (_UINT32, _UINT8),
        "sum_pool2d": (_INT32,),
    }
)
_VALUE_ATTRIBUTES = ("zero_point", "clip_min", "clip_max", "pad_value")


def find_unpackable(program: IntegerProgram) -> list[tuple[Node, str]]:
    """Return what the file format cannot hold: node, and why with what to do. Empty for a program that can be packed.

    The graph must have passed `ir.check.check_graph`.
    """
    graph = program.graph
    problems: list[tuple[Node, str]] = []
    seen: dict[str, _Stored] = {}
    for node in graph.nodes:
        extra = sorted(set(node.attrs) - set(INTEGER_OPS[node.op]))
        if extra:
            problems.append((node, f"attribute {extra[0]!r} is not part of the operator; leave it out"))
        for name, stored in _node_params(node):
            if seen.setdefault(name, stored) != stored:
                problems.append((node, f"parameter {name!r} is used in two roles; give each its own"))
            elif reason := _param_problem(graph, name, stored):
                problems.append((node, f"parameter {name!r} {reason}"))
        for name in _VALUE_ATTRIBUTES:
            if not -(1 << 63) <= int(node.attrs.get(name, 0)) < 1 << 63:
                problems.append((node, f"{name} {node.attrs[name]} does not fit 64 bits; narrow the tensor"))
        zero_point = graph.tensors[node.output].zero_point
        if not _INT32.qmin <= zero_point <= _INT32.qmax:
            problems.append((node, f"its output has zero point {zero_point}, outside int32; use a smaller one"))
    return problems


def _node_params(node: Node) -> list[tuple[str, _Stored]]:
    """Return the parameters of a node with the type each is stored at."""
    return list(zip(node.inputs[1:], _PARAM_TYPES.get(node.op, ()), strict=False))


def _param_problem(graph: Graph, name: str, stored: _Stored) -> str:
    """Return why a parameter cannot be stored; empty if it can."""
    values = np.asarray(graph.params[name])
    if name.startswith("@"):
        return "begins with '@', which is kept for the file's own tables; rename it"
    if stored == "float64":
        return "" if values.dtype == np.float64 else f"has dtype {values.dtype}, expected float64"
    if stored == "weight":
        if name not in graph.param_types:
            return "has no code type; add it to param_types"
        stored = graph.param_types[name]
        if stored.bits > MAX_PACKED_BITS:
            return f"has type {stored}, at most {MAX_PACKED_BITS} bits can be packed"
    if values.dtype.kind not in "iu":
        return f"has dtype {values.dtype}, expected integers"
    low, high = (int(values.min()), int(values.max())) if values.size else (stored.qmax, stored.qmax)
    if low < stored.qmin or high > stored.qmax:
        return f"has values from {low} to {high}, it is stored as {stored} ({stored.qmin} to {stored.qmax})"
    return ""


def _param_specs(graph: Graph) -> dict[str, TensorSpec]:
    """Return the record of every parameter, in the order of the graph."""
    stored = {name: kind for node in graph.nodes for name, kind in _node_params(node)}
    specs = {}
    for name, values in graph.params.items():
        kind = stored[name]
        qtype = graph.param_types[name] if kind == "weight" else None if kind == "float64" else kind
        specs[name] = TensorSpec(name, tuple(np.shape(values)), qtype)
    return specs


def pack_program(program: IntegerProgram) -> tuple[bytes, list[tuple[TensorSpec, NDArray[Any]]]]:
    """Return the structure section and the tensors of a file; the program has no `find_unpackable` problem."""
    graph = program.graph
    types = [_type_row(info.qtype, info.zero_point) for info in graph.tensors.values()]
    types += [_type_row(graph.param_types.get(name), 0) for name in graph.params]
    attributes = [int(node.attrs[name]) for node in graph.nodes for name in _value_attributes(node.op)]
    scales = [np.ravel(info.scale) for info in graph.tensors.values() if info.scale is not None]
    arrays: list[tuple[str, QType | None, NDArray[Any]]] = [
        ("@types", _UINT32, np.array(types, dtype=np.int64).reshape(-1, 3)),
        ("@attributes", _UINT32, np.array(attributes, dtype="<i8").view("<u4").reshape(-1, 2)),
        ("@scales", None, np.concatenate([np.empty(0), *scales])),
    ]
    tensors = [(TensorSpec(name, values.shape, qtype), values) for name, qtype, values in arrays]
    params = [(spec, np.asarray(graph.params[name])) for name, spec in _param_specs(graph).items()]
    return _structure(program), tensors + params


def _structure(program: IntegerProgram) -> bytes:
    """Return the skeleton as JSON; tensors are referred to by position, parameters after them."""
    graph = program.graph
    index = {name: i for i, name in enumerate([*graph.tensors, *graph.params])}
    document = {
        "spec": program.spec_version,
        "inputs": [index[name] for name in graph.inputs],
        "outputs": [index[name] for name in graph.outputs],
        "tensors": [
            [name, list(info.shape), None if info.scale is None else list(np.shape(info.scale))]
            for name, info in graph.tensors.items()
        ],
        "nodes": [
            [
                None if node.name == node.output else node.name,
                node.op,
                [index[name] for name in node.inputs],
                index[node.output],
                [node.attrs[name] for name in INTEGER_OPS[node.op] if name not in _VALUE_ATTRIBUTES],
            ]
            for node in graph.nodes
        ],
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _value_attributes(op: str) -> list[str]:
    return [name for name in INTEGER_OPS[op] if name in _VALUE_ATTRIBUTES]


def _type_row(qtype: QType | None, zero_point: int) -> tuple[int, int, int]:
    bits = 0 if qtype is None else qtype.bits
    flags = 0 if qtype is None else type_flags(qtype)
    return bits, flags, zero_point % (1 << 32)


def packed_size_parts(program: IntegerProgram) -> tuple[int, dict[str, int]]:
    """Return the bytes of a file that no weight width changes, and the bytes of every weight; their sum is the file.

    The fixed part depends on the structure of the program only, not on any width or value.
    """
    structure, tensors = pack_program(program)
    weights = {name for node in program.graph.nodes for name, kind in _node_params(node) if kind == "weight"}
    parts = {
        spec.name: tensor_payload_bytes(spec.count, spec.qtype.bits)
        for spec, _ in tensors
        if spec.name in weights and spec.qtype is not None
    }
    total = container_size_bytes(len(structure), [spec for spec, _ in tensors])
    return total - sum(parts.values()), parts


def unpack_program(
    structure: bytes, specs: Mapping[str, TensorSpec], array: Callable[[str], NDArray[Any]]
) -> IntegerProgram:
    """Return the program of `pack_program`; parameters come back as int64, input scales as float64.

    Args:
        structure: The structure section.
        specs: Records by name, in the order of the file.
        array: Values by name, in any integer dtype that holds them.

    Raises:
        ValueError: The parts do not fit each other (also KeyError, TypeError, IndexError, ConfigError, GraphError);
            the caller names the file.
    """
    document = json.loads(structure)
    params = {name: array(name) for name in specs if not name.startswith("@")}
    params = {name: v.astype(np.float64 if specs[name].qtype is None else np.int64) for name, v in params.items()}
    types = array("@types").tolist()
    names = [name for name, _, _ in document["tensors"]] + list(params)
    if len(types) != len(names) or len(set(names)) != len(names):
        raise ValueError(f"{len(set(names))} names for {len(types)} types")
    tensors, scales = {}, array("@scales")
    for (name, shape, scale_shape), row in zip(document["tensors"], types, strict=False):
        scale = None
        if scale_shape is not None:
            count = math.prod(scale_shape)
            scale, scales = scales[:count].reshape(scale_shape), scales[count:]
        tensors[name] = TensorInfo(tuple(shape), _read_type(row), scale, row[2] - (row[2] >> 31 << 32))
    attributes = iter(np.ascontiguousarray(array("@attributes"), dtype="<u4").view("<i8").ravel().tolist())
    nodes = [_read_node(entry, names, attributes) for entry in document["nodes"]]
    if scales.size or next(attributes, None) is not None:
        raise ValueError("scales or attributes are left over")
    param_types = {name: _read_type(row) for name, row in zip(params, types[len(tensors) :], strict=True)}
    graph = Graph(
        dialect="integer",
        inputs=tuple(_name(names, i) for i in document["inputs"]),
        outputs=tuple(_name(names, i) for i in document["outputs"]),
        nodes=tuple(nodes),
        tensors=tensors,
        params=params,
        param_types={name: qtype for name, qtype in param_types.items() if qtype is not None},
    )
    return IntegerProgram(graph, document["spec"])


def _name(names: list[str], index: int) -> str:
    """Return the name at a position.

    Raises:
        ValueError: There is none.
    """
    if not 0 <= index < len(names):
        raise ValueError(f"reference {index} among {len(names)} names")
    return names[index]


def _read_type(row: list[int]) -> QType | None:
    bits, flags, _ = row
    return None if bits == 0 else type_from_flags(bits, flags)


def _read_node(entry: list[Any], names: list[str], attributes: Any) -> Node:
    """Return a node, taking its values from the stream of attributes.

    Raises:
        ValueError: Unknown operator, or attributes that do not fit it.
    """
    name, op, inputs, output, fixed = entry
    if op not in INTEGER_OPS:
        raise ValueError(f"unknown operator {op!r}")
    fixed_names = [a for a in INTEGER_OPS[op] if a not in _VALUE_ATTRIBUTES]
    attrs = dict(zip(fixed_names, tuples_from_lists(fixed), strict=True))
    attrs |= {a: next(attributes) for a in _value_attributes(op)}
    made = _name(names, output)
    return Node(name or made, op, tuple(_name(names, i) for i in inputs), made, attrs)
