"""What capture builds a Graph with: records of torch's calls, and the graph so far with all its problems.

Used by `ir.capture` (fills it) and `ir.capture_ops` (the rules of single operators). No torch.

Views need care. A `Value` is a graph tensor as the user sees it: a reshape only changes the shape seen, until it is
``[N, F]`` (a flatten node) or the tensor's own shape again. Values that share memory share a `storage`; after an
in-place operator the other values of that storage are stale, and reading one is refused rather than guessed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import CaptureError, GraphError
from dyadiq.ir.graph import Graph, Node, TensorInfo
from dyadiq.ir.shapes import Shape, infer_shape

__all__ = ["Call", "GraphBuilder", "Ref", "UnsupportedError", "Value"]


class UnsupportedError(CaptureError):
    """Why one call cannot be represented; an empty reason means that it was reported already."""


@dataclass(frozen=True, slots=True)
class Ref:
    """The result of another call, a graph input or a parameter, by its name in the exported program."""

    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """One operator call of the exported program.

    Attributes:
        name: Name of its result in the exported program.
        operator: For example ``aten.relu_.default``.
        args: All arguments by the names of the operator's schema, defaults filled in, results as `Ref`.
        shape: Of the result, batch included, symbolic sizes as strings; None if it is not one tensor.
        dtype: Of the result, ``torch.float32``; None if it is not one tensor.
        n_users: How many calls read the result.
        module: Path of the module that makes the call; empty for the model itself.
        call_id: Tells two calls of one module apart.
        is_leaf: Whether that module has no children.
        source: ``file:line`` of the user's code, or the module path.
        title: What to call the operator in messages; empty: by its name.
    """

    name: str
    operator: str
    args: Mapping[str, Any]
    shape: tuple[int | str, ...] | None = None
    dtype: str | None = None
    n_users: int = 1
    module: str = ""
    call_id: str = ""
    is_leaf: bool = False
    source: str = ""
    title: str = ""

    @property
    def is_inplace(self) -> bool:
        """Whether it writes into its first argument: ``aten.add_.Tensor``."""
        name = self.operator.split(".")[1] if self.operator.count(".") >= 2 else ""
        return name.endswith("_") and not name.endswith("__")

    @property
    def functional_operator(self) -> str:
        """The operator that does the same and writes into nothing."""
        if not self.is_inplace:
            return self.operator
        namespace, name, overload = self.operator.split(".", 2)
        return f"{namespace}.{name[:-1]}.{overload}"

    @property
    def refs(self) -> Iterator[Ref]:
        """All results that it reads."""
        for value in self.args.values():
            for item in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(item, Ref):
                    yield item


@dataclass(frozen=True, slots=True)
class Value:
    """A graph tensor as the user sees it.

    Attributes:
        tensor: Name of the graph tensor.
        shape: Seen shape without the batch; other than the tensor's own while a reshape is pending.
        batch: Size of dimension 0, usually symbolic.
        storage: Values of one storage share memory, or may.
    """

    tensor: str
    shape: Shape
    batch: int | str
    storage: str


class GraphBuilder:
    """The graph so far, and everything found that a Graph cannot hold."""

    def __init__(self, model_name: str, dtype: str = "torch.float32") -> None:
        """Start empty; activations are of this dtype."""
        self.dtype = dtype
        self.param_arrays: dict[str, NDArray[Any]] = {}
        self._problems: list[str] = []
        self._model_name = model_name
        self._inputs: list[str] = []
        self._nodes: list[Node] = []
        self._tensors: dict[str, TensorInfo] = {}
        self._values: dict[str, Value] = {}
        self._params: dict[str, str] = {}
        self._param_dtypes: dict[str, str] = {}
        self._constants: set[str] = set()
        self._failed: set[str] = set()
        self._stale: set[str] = set()
        self._named_calls: set[str] = set()

    def add_input(self, name: str, shape: Sequence[int | str]) -> None:
        """Add a graph input, under the name of the argument of forward."""
        self._inputs.append(name)
        seen = self._seen_shape(shape)
        self._tensors[name] = TensorInfo(seen)
        self._values[name] = Value(name, seen, shape[0], name)

    def add_param(self, ref: str, name: str, array: NDArray[Any], dtype: str) -> None:
        """Make a parameter or buffer known, with its dtype in torch; it enters the graph when a node reads it."""
        self._params[ref] = name
        self._param_dtypes[name] = dtype
        self.param_arrays[name] = array

    def add_constant(self, ref: str) -> None:
        """Make a tensor known that is neither parameter nor buffer."""
        self._constants.add(ref)

    def neutral_param(self, name: str, like: str, value: float) -> str:
        """Add a parameter that the model does not have, all of one value and shaped like another; return its name."""
        self.param_arrays[name] = np.full_like(self.param_arrays[like], value)
        return name

    def fail(self, call: Call, reason: str) -> Value:
        """Note why a call cannot be represented, and return a stand-in for its result."""
        if reason:
            where = f" in {call.module!r}" if call.module else ""
            source = f" ({call.source})" if call.source and call.source != call.module else ""
            problem = f"{call.title or call.operator}{where}{source}: {reason}"
            if problem not in self._problems:
                self._problems.append(problem)
        self._failed.add(call.name)
        shape = call.shape or (0,)
        seen = tuple(size for size in shape[1:] if isinstance(size, int))
        self._tensors[f"failed {call.name}"] = TensorInfo(seen)
        return Value(f"failed {call.name}", seen, shape[0], call.name)

    def is_failed(self, ref: Ref) -> bool:
        """Whether a result was found to be unsupported already."""
        return ref.name in self._failed

    def is_activation(self, item: Any) -> bool:
        """Whether an argument is an activation: neither parameter nor plain value."""
        return isinstance(item, Ref) and item.name in self._values

    def check_writes_no_param(self, call: Call) -> None:
        """Check that a call does not change the model.

        Raises:
            UnsupportedError: It writes into a parameter or buffer.
        """
        written = next(call.refs, None) if call.is_inplace else None
        if written is not None and written.name in self._params:
            raise UnsupportedError(
                f"forward writes into {self._params[written.name]!r}, a parameter or buffer; a graph has no state."
            )

    def set_result(self, call: Call, value: Value) -> None:
        """Remember the result of a call; after an in-place call, other views of its memory are stale."""
        if call.is_inplace:
            written = next(call.refs, None)
            storage = self._values[written.name].storage if written and written.name in self._values else None
            self._stale |= {name for name, other in self._values.items() if other.storage == storage}
            value = Value(value.tensor, value.shape, value.batch, call.name)
        self._values[call.name] = value

    def view(self, item: Any) -> Value:
        """Return an activation as the user sees it, reshapes pending.

        Raises:
            UnsupportedError: It is no activation, or shares memory with one that was changed in place.
        """
        if isinstance(item, Ref) and item.name in self._stale:
            raise UnsupportedError(
                "reads a tensor that shares memory with one changed in place before. Use the operator that does not "
                "work in place (inplace=False), or read the changed tensor."
            )
        if not self.is_activation(item):
            what = repr(item)
            if isinstance(item, Ref):
                what = f"parameter {self._params[item.name]!r}" if item.name in self._params else "a constant tensor"
            raise UnsupportedError(f"got {what} where an activation is expected.")
        return self._values[item.name]

    def read(self, item: Any) -> str:
        """Return the graph tensor that an argument names.

        Raises:
            UnsupportedError: It is no activation, is stale, or is a reshape that is no flatten.
        """
        value = self.view(item)
        own = self._tensors[value.tensor].shape
        if value.shape != own:
            raise UnsupportedError(
                f"reads {value.tensor!r} of shape {_with_batch(own)} reshaped to {_with_batch(value.shape)}; "
                "only flattening to [N, F] is supported."
            )
        return value.tensor

    def param(self, item: Any, role: str) -> str:
        """Return the name of the parameter or buffer that an argument is.

        Raises:
            UnsupportedError: It is computed, or a plain tensor attribute.
        """
        if isinstance(item, Ref) and item.name in self._params:
            return self._params[item.name]
        if isinstance(item, Ref) and self.is_failed(item):
            raise UnsupportedError("")
        if isinstance(item, Ref) and item.name in self._constants:
            raise UnsupportedError(f"its {role} is a plain tensor. Register it with register_buffer or as Parameter.")
        raise UnsupportedError(f"its {role} is computed in forward, expected a parameter or buffer of the model.")

    def own_shape(self, tensor: str) -> Shape:
        """Return the shape of a graph tensor, without the batch."""
        return self._tensors[tensor].shape

    def emit(self, call: Call, op: str, inputs: Sequence[str], attrs: Mapping[str, Any] | None = None) -> Value:
        """Append a node and return its result.

        Raises:
            UnsupportedError: Its inputs do not fit the operator.
        """
        name = _unique(self._base_name(call, op), {node.name for node in self._nodes})
        output = _unique(
            name, {*self._tensors, *self.param_arrays}
        )  # an argument of forward may be called like a module
        node = Node(name, op, tuple(inputs), output, dict(attrs or {}), call.source)
        shapes = {i: self._tensors[i].shape for i in inputs if i in self._tensors}
        param_shapes = {i: self.param_arrays[i].shape for i in inputs if i in self.param_arrays}
        try:
            shape = infer_shape(node, shapes, param_shapes)
        except GraphError as err:
            raise UnsupportedError(str(err)) from err
        self._nodes.append(node)
        self._tensors[output] = TensorInfo(shape)
        return Value(output, shape, call.shape[0] if call.shape else "N", call.name)

    def reshape(self, call: Call, value: Value, shape: Sequence[int | str]) -> Value:
        """Return a value seen in another shape; a flatten node if that is ``[N, F]``.

        Raises:
            UnsupportedError: Dimension 0 is not the batch any more.
        """
        if shape[0] != value.batch or any(isinstance(size, str) for size in shape[1:]):
            sizes = f"[{', '.join(map(str, shape))}]".replace(str(value.batch), "N")
            raise UnsupportedError(
                f"reshapes {_with_batch(value.shape)} to {sizes}, which does not keep dimension 0 as the batch. "
                "Use x.flatten(1) or x.view(x.size(0), -1)."
            )
        seen = self._seen_shape(shape)
        own = self._tensors[value.tensor].shape
        if seen != own and seen == (math.prod(own),):
            flat = self.emit(call, "flatten", [value.tensor])
            return Value(flat.tensor, seen, value.batch, value.storage)
        return Value(value.tensor, seen, value.batch, value.storage)

    def finish(self, outputs: Sequence[Any], meta: Mapping[str, Any] | None = None) -> Graph:
        """Return the graph.

        Raises:
            CaptureError: Every problem met, in the order of the program.
        """
        names: list[str] = []
        for position, item in enumerate(outputs):
            try:
                name = self.read(item)
            except UnsupportedError as err:
                self._problems.append(f"output {position}: {err} Return tensors that the model computes, nothing else.")
                continue
            if name in names:
                self._problems.append(f"output {position}: {name!r} is an output already. Return each tensor once.")
            names.append(name)
        used = dict.fromkeys(i for node in self._nodes for i in node.inputs if i in self.param_arrays)
        for name in used:
            self._check_values(name)
        if self._problems:
            lines = "".join(f"\n  {i}. {problem}" for i, problem in enumerate(self._problems, start=1))
            raise CaptureError(f"{self._model_name} cannot be captured, for {len(self._problems)} reason(s):{lines}")
        graph = Graph(
            "float",
            tuple(self._inputs),
            tuple(names),
            tuple(self._nodes),
            self._tensors,
            {name: self.param_arrays[name] for name in used},
            meta=dict(meta or {}),
        )
        return graph.without_unused(self._nodes)

    def _check_values(self, name: str) -> None:
        array = self.param_arrays[name]
        dtype = self._param_dtypes.get(name, self.dtype)
        if dtype != self.dtype:
            self._problems.append(f"parameter {name!r} is {dtype}, but the inputs are {self.dtype}. Use model.float().")
        elif not np.isfinite(array).all():
            n_bad = int((~np.isfinite(array)).sum())
            self._problems.append(
                f"parameter {name!r} holds {n_bad} values that are NaN or infinite, of {array.size}. "
                "Did training diverge, or is the checkpoint damaged?"
            )

    def _seen_shape(self, shape: Sequence[int | str]) -> Shape:
        return tuple(int(size) for size in shape[1:])

    def _base_name(self, call: Call, op: str) -> str:
        """A module without children names its first node of a call; other nodes add their operator."""
        if call.is_leaf and call.module and call.call_id not in self._named_calls:
            self._named_calls.add(call.call_id)
            return call.module
        return f"{call.module}:{op}" if call.module else op


def _unique(base: str, taken: Collection[str]) -> str:
    name, n_repeats = base, 0
    while name in taken:
        n_repeats += 1
        name = f"{base}:{n_repeats}"
    return name


def _with_batch(shape: Shape) -> str:
    return f"[{', '.join(map(str, ('N', *shape)))}]"
