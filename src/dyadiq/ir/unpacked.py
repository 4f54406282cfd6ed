"""The parts of a `.dyq` file to an IntegerProgram again: the inverse of `packed.pack_program`.

Used by `targets.dyq`. Takes nothing on trust: references, counts and shapes are checked while reading, and what was
read is packed again and compared with the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.container import TensorSpec, type_from_flags
from dyadiq.core.errors import GraphError
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.integer import INTEGER_OPS, WIDE_BIAS, IntegerProgram
from dyadiq.ir.packed import pack_program
from dyadiq.ir.packed_tables import (
    ATTRIBUTES,
    CHANNEL_SCALES,
    ONE_SCALE,
    PARAMS,
    TABLES,
    param_name,
    usual_node_name,
    usual_output,
)
from dyadiq.ir.serialize import tuples_from_lists
from dyadiq.ir.shapes import infer_shape

__all__ = ["unpack_program"]


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
    if not same or any(not np.array_equal(array(s.name), v, equal_nan=True) for s, v in tensors if s.name in TABLES):
        raise ValueError("its structure and tables are not those that its program asks for")
    return program


class _Reader:
    """Builds tensors, parameters and nodes of a file in the order in which `pack_program` took them apart."""

    def __init__(
        self, document: Mapping[str, Any], specs: Mapping[str, TensorSpec], array: Callable[[str], NDArray[Any]]
    ) -> None:
        n_tensors = len(document["inputs"]) + len(document["nodes"])
        weights = [name for name in specs if name not in TABLES]
        self.array = array
        self.names = {n_tensors + i: name for i, name in enumerate(weights)}
        self.next_constant = n_tensors + len(weights)
        self.tables = {name: array(name) if name in specs else np.empty(0) for name in TABLES}
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
        return values[:count].reshape(shape).astype(np.float64 if TABLES[table] is None else np.int64)

    def _add_tensor(self, name: str, shape: tuple[int, ...]) -> None:
        """Add a tensor with the next type, scale and zero point.

        Raises:
            ValueError: Its name is none, or a table is too short.
        """
        if not isinstance(name, str):
            raise ValueError(f"name {name!r} of a tensor")
        bits, flags = self._take("@type", (2,)).tolist()
        scale_shape = () if flags & ONE_SCALE else shape[:1] if flags & CHANNEL_SCALES else None
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
        node_name = usual_node_name(op, first, self.makers) if name is None else name
        names = [self._parameter(op, i, item, node_name, first) for i, item in enumerate(inputs)]
        fixed_names = [attr for attr in INTEGER_OPS[op] if attr not in ATTRIBUTES]
        attrs = dict(zip(fixed_names, tuples_from_lists(list(fixed)), strict=True))
        attrs |= {attr: int(self._take(ATTRIBUTES[attr])) for attr in INTEGER_OPS[op] if attr in ATTRIBUTES}
        made = usual_output(name, names) if output is None else output
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
        table, usual = PARAMS[op][i - 1]
        named = bool(item) and isinstance(item[-1], str)
        name = item[-1] if named else param_name(usual, node, first)
        self.names[self.next_constant] = name
        self.next_constant += 1
        self.params[name] = self._take(table, item[:-1] if named else item)
        if table == "@bias" and self.wide_biases:
            self.types[name] = WIDE_BIAS
        return name
