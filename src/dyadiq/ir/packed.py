"""An IntegerProgram as the parts of a `.dyq` file: a skeleton in JSON, weights and tables; and its size.

Used by `targets.dyq` (files) and by whoever fills `NetworkFacts.fixed_size_bytes`; writes nothing, knows no byte layout
(`core.container`). Normative text: docs/spec/dyq.md.

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
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.container import TensorSpec, container_size_bytes, tensor_payload_bytes, type_flags, type_from_flags
from dyadiq.core.errors import GraphError
from dyadiq.core.packing import MAX_PACKED_BITS
from dyadiq.core.qtype import QType
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.integer import INTEGER_OPS, NARROW_BIAS, WIDE_BIAS, IntegerProgram
from dyadiq.ir.serialize import tuples_from_lists
from dyadiq.ir.shapes import infer_shape

__all__ = ["find_unpackable", "pack_program", "packed_size_parts", "unpack_program"]

_INT32, _UINT32, _UINT8 = QType(32, signed=True), QType(32, signed=False), QType(8, signed=False)
_INT64 = QType(64, signed=True)
_TABLES: Mapping[str, QType | None] = MappingProxyType(  # in the order of the file; None: float64
    {
        "@type": _UINT8,
        "@zero_point": _INT32,
        "@clip": _UINT32,
        "@scale": None,
        "@bias": NARROW_BIAS,
        "@multiplier": _UINT32,
        "@shift": _UINT8,
        "@group_factor": _INT32,
        "@lookup": _INT32,
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
_PARAMS: Mapping[str, tuple[tuple[str, str], ...]] = MappingProxyType(
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
_ATTRIBUTES = MappingProxyType(
    {
        "zero_point": "@zero_point",
        "pad_value": "@zero_point",
        "first": "@zero_point",
        "clip_min": "@clip",
        "clip_max": "@clip",
    }
)
_ONE_SCALE, _CHANNEL_SCALES = 8, 16  # flags of a tensor, besides those of its type


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
        for name, table in _node_params(node):
            if seen.setdefault(name, table) != table:
                problems.append((node, f"parameter {name!r} is used in two roles; give each its own"))
            elif reason := _param_problem(graph, name, table):
                problems.append((node, f"parameter {name!r} {reason}"))
        for name, table in _ATTRIBUTES.items():
            bits = 64 if table == "@clip" else 32
            if not -(1 << bits - 1) <= int(node.attrs.get(name, 0)) < 1 << bits - 1:
                problems.append((node, f"{name} {node.attrs[name]} does not fit {bits} bits; narrow the tensor"))
        for tensor in (*(name for name in graph.inputs if name in node.inputs), node.output):
            if reason := _tensor_problem(graph, tensor):
                problems.append((node, f"tensor {tensor!r} {reason}"))
    return problems


def _node_params(node: Node) -> list[tuple[str, str]]:
    """Return the parameters of a node, each with its table or "weight"."""
    return [(name, table) for name, (table, _) in zip(node.inputs[1:], _PARAMS.get(node.op, ()), strict=False)]


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
    stored = (_INT64 if table == "@clip" else _TABLES.get(table)) if declared is None else declared
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
    if not _INT32.qmin <= info.zero_point <= _INT32.qmax:
        return f"has zero point {info.zero_point}, outside int32; use a smaller one"
    if name in graph.outputs and info.scale is not None and np.shape(info.scale) not in ((), info.shape[:1]):
        return f"has a scale of shape {list(np.shape(info.scale))}, expected [] or [{info.shape[0]}]"
    return ""


def pack_program(program: IntegerProgram) -> tuple[bytes, list[tuple[TensorSpec, NDArray[Any]]]]:
    """Return the structure section and the tensors of a file; the program has no `find_unpackable` problem."""
    graph = program.graph
    tables: dict[str, list[Any]] = {name: [] for name in _TABLES}
    weights = dict.fromkeys(name for node in graph.nodes for name, table in _node_params(node) if table == "weight")
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
        table, usual = _PARAMS[node.op][i - 1]
        values = np.asarray(graph.params[name])
        tables[table].extend(values.ravel().tolist())
        is_usual = name == _param_name(usual, node.name, node.inputs)
        inputs.append([*values.shape] if is_usual else [*values.shape, name])
    for name in INTEGER_OPS[node.op]:
        if name in _ATTRIBUTES:
            tables[_ATTRIBUTES[name]].append(int(node.attrs[name]))
    _put_tensor(tables, graph, node.output)
    makers[node.output] = node.name
    node_name = None if node.name == _usual_node_name(node.op, node.inputs, makers) else node.name
    output = None if node.output == _usual_output(node_name, node.inputs) else node.output
    fixed = [node.attrs[name] for name in INTEGER_OPS[node.op] if name not in _ATTRIBUTES]
    return [node.op, node_name, output, inputs, *fixed]


def _put_tensor(tables: dict[str, list[Any]], graph: Graph, name: str) -> None:
    """Append type, zero point and, where it is kept, the scale of a tensor to the tables."""
    info = graph.tensors[name]
    bits, flags = (0, 0) if info.qtype is None else (info.qtype.bits, type_flags(info.qtype))
    if info.scale is not None and (np.ndim(info.scale) == 0 or name in graph.outputs):
        flags |= _CHANNEL_SCALES if np.ndim(info.scale) else _ONE_SCALE
        tables["@scale"].extend(np.ravel(info.scale).tolist())
    tables["@type"].extend((bits, flags))
    tables["@zero_point"].append(info.zero_point)


def _table(name: str, values: list[Any], *, paired: bool) -> tuple[TensorSpec, NDArray[Any]]:
    qtype = _TABLES[name]
    array: NDArray[Any] = np.array(values, dtype=np.float64 if qtype is None else np.int64)
    if paired:  # int64 as two uint32, low word first
        qtype, array = _UINT32, array.astype("<i8").view("<u4").reshape(-1, 2)
    return TensorSpec(name, array.shape, qtype), array


def _usual_node_name(op: str, inputs: Sequence[str], makers: Mapping[str, str]) -> str:
    """Return the name of a node that is not stored: its weight's module, else that of the node it reads, and its op."""
    return inputs[1].rpartition(".")[0] if _PARAMS.get(op) is _DOT else f"{makers[inputs[0]]}:{op}"


def _usual_output(name: str | None, inputs: Sequence[str]) -> str:
    """Return the name of an output that is not stored: a node's stored name, else its input's up to the last colon."""
    return inputs[0].rpartition(":")[0] if name is None else name


def _param_name(usual: str, node: str, inputs: Sequence[str]) -> str:
    return usual.format(node=node, x=inputs[0], weight=inputs[1] if len(inputs) > 1 else "")


def packed_size_parts(program: IntegerProgram) -> tuple[int, dict[str, int]]:
    """Return the bytes of a file that no weight width changes, and the bytes of every weight; their sum is the file.

    The fixed part depends on the structure of the program only, not on any width or value.
    """
    structure, tensors = pack_program(program)
    parts = {
        spec.name: tensor_payload_bytes(spec.count, spec.qtype.bits)
        for spec, _ in tensors
        if spec.name not in _TABLES and spec.qtype is not None
    }
    total = container_size_bytes(len(structure), [spec for spec, _ in tensors])
    return total - sum(parts.values()), parts


def unpack_program(
    structure: bytes, specs: Mapping[str, TensorSpec], array: Callable[[str], NDArray[Any]]
) -> IntegerProgram:
    """Return the program of `pack_program`, but for what is not stored; parameters are int64, input scales float64.

    Tensors and parameters are listed in the order in which nodes make and read them.

    Args:
        structure: The structure section.
        specs: Records by name, in the order of the file.
        array: Values by name, in any integer dtype that holds them.

    Raises:
        ValueError: The parts do not fit each other (also KeyError, TypeError, IndexError, ArithmeticError,
            ConfigError, GraphError); the caller names the file.
    """
    document = json.loads(structure)
    reader = _Reader(document, specs, array)
    for name, *shape in document["inputs"]:
        reader.read_input(name, tuple(shape))
    nodes = tuple(reader.read_node(*entry) for entry in document["nodes"])
    graph = Graph(
        dialect="integer",
        inputs=tuple(name for name, *_ in document["inputs"]),
        outputs=tuple(reader.name_at(position) for position in document["outputs"]),
        nodes=nodes,
        tensors=reader.tensors,
        params=reader.params,
        param_types={name: reader.types[name] for name in reader.params if name in reader.types},
    )
    program = IntegerProgram(graph, document["spec"])
    # One comparison for references, counts, flags and left-over values: there is one way to write a program.
    again, tensors = pack_program(program)
    same = again == structure and [spec for spec, _ in tensors] == list(specs.values())
    if not same or any(not np.array_equal(array(s.name), v, equal_nan=True) for s, v in tensors if s.name in _TABLES):
        raise ValueError("its structure and tables are not those that its program asks for")
    return program


class _Reader:
    """Builds tensors, parameters and nodes of a file in the order in which `pack_program` took them apart."""

    def __init__(
        self, document: Mapping[str, Any], specs: Mapping[str, TensorSpec], array: Callable[[str], NDArray[Any]]
    ) -> None:
        n_tensors = len(document["inputs"]) + len(document["nodes"])
        weights = [name for name in specs if name not in _TABLES]
        self.array = array
        self.names = {n_tensors + i: name for i, name in enumerate(weights)}
        self.next_constant = n_tensors + len(weights)
        self.tables = {name: array(name) if name in specs else np.empty(0) for name in _TABLES}
        self.wide_biases = self.tables["@bias"].ndim == 2
        for name in ("@clip", "@bias") if self.wide_biases else ("@clip",):
            self.tables[name] = np.ascontiguousarray(self.tables[name], dtype="<u4").view("<i8").ravel()
        self.types = {name: q for name in weights if (q := specs[name].qtype) is not None}
        self.tensors: dict[str, TensorInfo] = {}
        self.params: dict[str, NDArray[Any]] = {}
        self.makers: dict[str, str] = {}

    def name_at(self, position: int) -> str:
        """Return the name of the tensor or parameter at a position.

        Raises:
            ValueError: There is none yet.
        """
        if position not in self.names:
            raise ValueError(f"reference {position} to nothing that comes before it")
        return self.names[position]

    def _take(self, table: str, shape: Sequence[int] = ()) -> NDArray[Any]:
        """Return the next values of a table.

        Raises:
            ValueError: It has fewer, or the shape is none.
        """
        if not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError(f"shape {list(shape)} of values of table {table!r}")
        count, values = math.prod(shape), self.tables[table]
        if count > values.size:
            raise ValueError(f"table {table!r} is too short")
        self.tables[table] = values[count:]
        return values[:count].reshape(shape).astype(np.float64 if _TABLES[table] is None else np.int64)

    def _add_tensor(self, name: str, shape: tuple[int, ...]) -> None:
        """Add a tensor with the next type, scale and zero point.

        Raises:
            ValueError: Its name is none, or a table is too short.
        """
        if not isinstance(name, str):
            raise ValueError(f"name {name!r} of a tensor")
        bits, flags = self._take("@type", (2,)).tolist()
        scale_shape = () if flags & _ONE_SCALE else shape[:1] if flags & _CHANNEL_SCALES else None
        self.names[len(self.tensors)] = name
        self.tensors[name] = TensorInfo(
            shape,
            None if bits == 0 else type_from_flags(bits, flags),
            None if scale_shape is None else self._take("@scale", scale_shape),
            int(self._take("@zero_point")),
        )

    def read_input(self, name: str, shape: tuple[int, ...]) -> None:
        """Read an input of the program.

        Raises:
            ValueError: Its shape is none.
        """
        if not all(type(size) is int for size in shape):
            raise ValueError(f"shape {list(shape)} of input {name!r}")
        self.makers[name] = name
        self._add_tensor(name, shape)

    def read_node(
        self, op: str, name: str | None, output: str | None, inputs: Sequence[int | list[Any]], *fixed: Any
    ) -> Node:
        """Read a node, its parameters and the tensor it makes.

        Raises:
            ValueError: Unknown operator, or attributes or parameters that do not fit it.
            GraphError: Shapes that do not fit the operator.
        """
        if op not in INTEGER_OPS:
            raise ValueError(f"unknown operator {op!r}")
        if not isinstance(name, str | None) or not all(isinstance(value, int | list) for value in fixed):
            raise ValueError(f"name {name!r} or attributes {list(fixed)} of {op!r}")
        # A node's name may come from its first inputs, which are references; names of constants come from the node's.
        first = [self.name_at(i) for i in inputs if isinstance(i, int)]
        node_name = _usual_node_name(op, first, self.makers) if name is None else name
        names = [self._parameter(op, i, item, node_name, first) for i, item in enumerate(inputs)]
        fixed_names = [attr for attr in INTEGER_OPS[op] if attr not in _ATTRIBUTES]
        attrs = dict(zip(fixed_names, tuples_from_lists(list(fixed)), strict=True))
        attrs |= {attr: int(self._take(_ATTRIBUTES[attr])) for attr in INTEGER_OPS[op] if attr in _ATTRIBUTES}
        made = _usual_output(name, names) if output is None else output
        node = Node(node_name, op, tuple(names), made, attrs)
        shapes = {n: self.tensors[n].shape for n in names if n in self.tensors}
        try:
            shape = infer_shape(node, shapes, {n: self.params[n].shape for n in names if n not in shapes})
        except GraphError as err:
            raise GraphError(f"{node_name} ({op}): {err}") from err
        self.makers[made] = node_name
        self._add_tensor(made, shape)
        return node

    def _parameter(self, op: str, i: int, item: int | list[Any], node: str, first: Sequence[str]) -> str:
        """Return the name of an input, reading its values if it is a parameter met for the first time."""
        if isinstance(item, int):
            name = self.name_at(item)
            if name not in self.tensors and name not in self.params:
                self.params[name] = self.array(name).astype(np.int64)
            return name
        table, usual = _PARAMS[op][i - 1]
        named = bool(item) and isinstance(item[-1], str)
        name = item[-1] if named else _param_name(usual, node, first)
        self.names[self.next_constant] = name
        self.next_constant += 1
        self.params[name] = self._take(table, item[:-1] if named else item)
        if table == "@bias" and self.wide_biases:
            self.types[name] = WIDE_BIAS
        return name
