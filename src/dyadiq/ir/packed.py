"""An IntegerProgram as the parts of a `.dyq` file: a skeleton in JSON, weights and tables; and its size.

Read back by `unpacked`. Used by `targets.dyq` (files) and by whoever fills `NetworkFacts.fixed_size_bytes`; writes
nothing, knows no byte layout (`core.container`). Normative text: docs/spec/dyq.md.

The skeleton holds what the structure fixes: operators, strides, shapes, and names where no rule gives them. Weights
have records of their own. All that calibration or a bit plan can change lies in tables, one for each kind of number,
filled in the order of the nodes; their lengths follow from the structure, so that only weights change size with bits:

    @type          uint8    bits (0: none) and flags of every tensor
    @zero_point    int32    of tensors, quantizers, weights and nodes, and pad values
    @clip          uint32   clip bounds, ends of grids: int64, low word first
    @scale         float64  of input quantizers, outputs, and tensors that have a single one
    @bias          int32, or int64 as in @clip where ``param_types`` says so
    @multiplier, @shift, @group_factor, @lookup    uint32, uint8, int32, int32

Not stored: scales per channel of tensors that are no output (no operator reads them), the order in which tensors and
parameters are listed, sources of nodes, ``meta`` and ``provenance``: they are facts about a program, not the program.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.container import TensorSpec, container_size_bytes, tensor_payload_bytes, type_flags
from dyadiq.core.packing import MAX_PACKED_BITS
from dyadiq.ir.graph import Graph, Node
from dyadiq.ir.integer import INTEGER_OPS, WIDE_BIAS, IntegerProgram
from dyadiq.ir.packed_tables import (
    ATTRIBUTES,
    CHANNEL_SCALES,
    INT32,
    INT64,
    ONE_SCALE,
    PARAMS,
    TABLES,
    UINT32,
    node_params,
    param_name,
    usual_node_name,
    usual_output,
)

__all__ = ["find_unpackable", "pack_program", "packed_size_parts"]


def find_unpackable(program: IntegerProgram) -> list[tuple[Node, str]]:
    """Return what the file format cannot hold: node, and why with what to do. Empty for a program that can be packed.

    The graph must have passed `ir.check.check_graph`.
    """
    graph = program.graph
    problems: list[tuple[Node, str]] = []
    seen: dict[str, str] = {}
    for node in graph.nodes:
        extra = sorted(set(node.attrs) - set(INTEGER_OPS[node.op]))
        if extra:
            problems.append((node, f"attribute {extra[0]!r} is not part of the operator; leave it out"))
        for name, table in node_params(node):
            if seen.setdefault(name, table) != table:
                problems.append((node, f"parameter {name!r} is used in two roles; give each its own"))
            elif reason := _param_problem(graph, name, table):
                problems.append((node, f"parameter {name!r} {reason}"))
        for name, table in ATTRIBUTES.items():
            bits = 64 if table == "@clip" else 32
            if not -(1 << bits - 1) <= int(node.attrs.get(name, 0)) < 1 << bits - 1:
                problems.append((node, f"{name} {node.attrs[name]} does not fit {bits} bits; narrow the tensor"))
        for tensor in (*(name for name in graph.inputs if name in node.inputs), node.output):
            if reason := _tensor_problem(graph, tensor):
                problems.append((node, f"tensor {tensor!r} {reason}"))
    return problems


def _param_problem(graph: Graph, name: str, table: str) -> str:
    """Return why a parameter cannot be stored; empty if it can."""
    values = np.asarray(graph.params[name])
    if name.startswith("@"):
        return "begins with '@', which is kept for the file's own tables; rename it"
    declared = graph.param_types.get(name)
    if table == "@bias" and declared != (wanted := WIDE_BIAS if WIDE_BIAS in graph.param_types.values() else None):
        return f"has type {declared}, expected {wanted}: biases are all {WIDE_BIAS}, or none has a type"
    if table != "@bias" and (table == "weight") != (declared is not None):
        return "has no code type; add it to param_types" if table == "weight" else "is no weight, but has a code type"
    stored = (INT64 if table == "@clip" else TABLES.get(table)) if declared is None else declared
    if stored is None:
        return "" if values.dtype == np.float64 else f"has dtype {values.dtype}, expected float64"
    if stored.bits > MAX_PACKED_BITS and table not in ("@bias", "@clip"):
        return f"has type {stored}, at most {MAX_PACKED_BITS} bits can be packed"
    if values.dtype.kind not in "iu":
        return f"has dtype {values.dtype}, expected integers"
    low, high = (int(values.min()), int(values.max())) if values.size else (stored.qmax, stored.qmax)
    if low < stored.qmin or high > stored.qmax:
        return f"has values from {low} to {high}, it is stored as {stored} ({stored.qmin} to {stored.qmax})"
    return ""


def _tensor_problem(graph: Graph, name: str) -> str:
    """Return why what is known of a tensor cannot be stored; empty if it can."""
    info = graph.tensors[name]
    if not INT32.qmin <= info.zero_point <= INT32.qmax:
        return f"has zero point {info.zero_point}, outside int32; use a smaller one"
    if name in graph.outputs and info.scale is not None and np.shape(info.scale) not in ((), info.shape[:1]):
        return f"has a scale of shape {list(np.shape(info.scale))}, expected [] or [{info.shape[0]}]"
    return ""


def pack_program(program: IntegerProgram) -> tuple[bytes, list[tuple[TensorSpec, NDArray[Any]]]]:
    """Return the structure section and the tensors of a file; the program has no `find_unpackable` problem."""
    graph = program.graph
    tables: dict[str, list[Any]] = {name: [] for name in TABLES}
    weights = dict.fromkeys(name for node in graph.nodes for name, table in node_params(node) if table == "weight")
    position = {name: i for i, name in enumerate([*graph.inputs, *(n.output for n in graph.nodes), *weights])}
    makers = {name: name for name in graph.inputs}
    for name in graph.inputs:
        _put_tensor(tables, graph, name)
    entries = [_put_node(tables, graph, node, position, makers) for node in graph.nodes]
    document = {
        "spec": program.spec_version,
        "inputs": [[name, *graph.tensors[name].shape] for name in graph.inputs],
        "outputs": [position[name] for name in graph.outputs],
        "nodes": entries,
    }
    structure = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    paired = {"@clip", "@bias"} if WIDE_BIAS in graph.param_types.values() else {"@clip"}
    tensors = [_table(name, values, paired=name in paired) for name, values in tables.items() if values]
    arrays = {name: np.asarray(graph.params[name]) for name in weights}
    return structure, tensors + [(TensorSpec(n, v.shape, graph.param_types[n]), v) for n, v in arrays.items()]


def _put_node(
    tables: dict[str, list[Any]], graph: Graph, node: Node, position: dict[str, int], makers: dict[str, str]
) -> list[Any]:
    """Append the values of a node and of the tensor it makes to the tables; return its entry of the skeleton."""
    inputs: list[Any] = []
    for i, name in enumerate(node.inputs):
        if name in position:
            inputs.append(position[name])
            continue
        position[name] = len(position)
        table, usual = PARAMS[node.op][i - 1]
        values = np.asarray(graph.params[name])
        tables[table].extend(values.ravel().tolist())
        is_usual = name == param_name(usual, node.name, node.inputs)
        inputs.append([*values.shape] if is_usual else [*values.shape, name])
    for name in INTEGER_OPS[node.op]:
        if name in ATTRIBUTES:
            tables[ATTRIBUTES[name]].append(int(node.attrs[name]))
    _put_tensor(tables, graph, node.output)
    makers[node.output] = node.name
    node_name = None if node.name == usual_node_name(node.op, node.inputs, makers) else node.name
    output = None if node.output == usual_output(node_name, node.inputs) else node.output
    fixed = [node.attrs[name] for name in INTEGER_OPS[node.op] if name not in ATTRIBUTES]
    return [node.op, node_name, output, inputs, *fixed]


def _put_tensor(tables: dict[str, list[Any]], graph: Graph, name: str) -> None:
    """Append type, zero point and, where it is kept, the scale of a tensor to the tables."""
    info = graph.tensors[name]
    bits, flags = (0, 0) if info.qtype is None else (info.qtype.bits, type_flags(info.qtype))
    if info.scale is not None and (np.ndim(info.scale) == 0 or name in graph.outputs):
        flags |= CHANNEL_SCALES if np.ndim(info.scale) else ONE_SCALE
        tables["@scale"].extend(np.ravel(info.scale).tolist())
    tables["@type"].extend((bits, flags))
    tables["@zero_point"].append(info.zero_point)


def _table(name: str, values: list[Any], *, paired: bool) -> tuple[TensorSpec, NDArray[Any]]:
    qtype = TABLES[name]
    array: NDArray[Any] = np.array(values, dtype=np.float64 if qtype is None else np.int64)
    if paired:  # int64 as two uint32, low word first
        qtype, array = UINT32, array.astype("<i8").view("<u4").reshape(-1, 2)
    return TensorSpec(name, array.shape, qtype), array


def packed_size_parts(program: IntegerProgram) -> tuple[int, dict[str, int]]:
    """Return the bytes of a file that no weight width changes, and the bytes of every weight; their sum is the file.

    The fixed part depends on the structure of the program only, not on any width or value.
    """
    structure, tensors = pack_program(program)
    parts = {
        spec.name: tensor_payload_bytes(spec.count, spec.qtype.bits)
        for spec, _ in tensors
        if spec.name not in TABLES and spec.qtype is not None
    }
    total = container_size_bytes(len(structure), [spec for spec, _ in tensors])
    return total - sum(parts.values()), parts
