"""What has been read of an ONNX file of a float network, and one node of it. Used by `onnx_import*` only."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from dyadiq.ir.capture_builder import Call, GraphBuilder, Ref
from dyadiq.ir.capture_ops import translate
from dyadiq.ir.onnx_file import DamagedError

__all__ = ["Network", "OnnxNode", "Order", "Rule", "plain_name"]


@dataclass(frozen=True, slots=True)
class OnnxNode:
    """One node of the file.

    Attributes:
        op: Operator.
        output: Its first output.
        inputs: Names, empty for one left out.
        attrs: Attributes.
        path: Where it stands in the model.
    """

    op: str
    output: str
    inputs: tuple[str, ...]
    attrs: Mapping[str, Any]
    path: str

    @property
    def where(self) -> str:
        """What to call it in messages."""
        return f"{self.op} in {self.path!r} (makes {self.output})"

    def ints(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        """Return an attribute that is a list of integers."""
        return tuple(int(v) for v in self.attrs.get(name, default))


@dataclass(frozen=True, slots=True)
class Order:
    """A tensor that is another one with its axes, or its elements, in another order (`onnx_import_orders`).

    Attributes:
        base: The other one.
        axes: Its axes without the batch, in the order of this one's.
        features: Of a vector: which element of the base each one is.
    """

    base: str
    axes: tuple[int, ...]
    features: tuple[int, ...] = ()


@dataclass
class Network:
    """What has been read so far.

    Attributes:
        builder: The graph.
        constants: Numbers by name.
        known: Tensors that something made.
        failed: Those that could not be made, which is noted.
        batches: Sizes of dimension 0 that the file fixes.
        activations: Operator and input of every sigmoid, for products with its own input.
        orders: Tensors that were transposed, which the builder does not know.
        features: Vectors whose elements a linear layer has weights for in another order.
    """

    builder: GraphBuilder
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    batches: set[int] = field(default_factory=set)
    activations: dict[str, tuple[str, str]] = field(default_factory=dict)
    orders: dict[str, Order] = field(default_factory=dict)
    features: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def problem(self, where: str, reason: str) -> None:
        """Note why the file cannot be read."""
        self.builder.fail(Call(f"problem {where}", where, {}), reason)

    def fail(self, node: OnnxNode, reason: str) -> None:
        """Note why a node cannot be represented."""
        self.problem(node.where, reason)
        self.failed.add(node.output)

    def call(self, node: OnnxNode, operator: str, args: Mapping[str, Any], result: str = "", shape: Any = None) -> Ref:
        """Add what a call of torch means and return its result, by default the node's."""
        name = result or node.output
        call = Call(name, operator, args, shape, None, 1, node.path, node.path, True, f"makes {node.output}", node.op)
        translate(self.builder, call)
        self.known.add(name)
        return Ref(name)

    def param(self, name: str, array: NDArray[Any]) -> Ref:
        """Make a parameter known, in the type of activations if it is some float type, and return it.

        Raises:
            DamagedError: It is of integers.
        """
        dtype = self.builder.dtype.removeprefix("torch.")
        ref = Ref(f"parameter {name}")
        if array.dtype.kind not in "f":
            raise DamagedError(f"parameter {name!r} is {array.dtype}, expected float32")
        self.builder.add_param(ref.name, plain_name(name), array.astype(dtype), self.builder.dtype)
        return ref

    def constant(self, node: OnnxNode, i: int, what: str) -> NDArray[Any] | None:
        """Return an input that must be constant; None if it is left out.

        Raises:
            DamagedError: It depends on the network's input.
        """
        if i >= len(node.inputs) or not node.inputs[i]:
            return None
        if node.inputs[i] not in self.constants:
            raise DamagedError(f"{what} is computed by the network, expected a constant")
        return self.constants[node.inputs[i]]

    def x(self, node: OnnxNode, i: int = 0) -> Ref:
        """Return an input.

        Raises:
            DamagedError: There is none.
        """
        if i >= len(node.inputs) or not node.inputs[i]:
            raise DamagedError(f"has no input {i}")
        return Ref(node.inputs[i])

    def shape(self, ref: Ref) -> tuple[int, ...]:
        """Return the seen shape of an activation, without the batch."""
        order = self.orders.get(ref.name)
        if order is None:
            return self.builder.view(ref).shape
        shape = self.builder.view(Ref(order.base)).shape
        return tuple(shape[a] for a in order.axes)


Rule = Callable[[Network, OnnxNode], None]


def plain_name(name: str) -> str:
    """Return a name of letters, digits, underscores and single dots.

    Example:
        >>> plain_name("onnx::Conv_12"), plain_name("/fc/..weight")
        ('onnx_Conv_12', 'fc_.weight')
    """
    return re.sub(r"\.+", ".", re.sub(r"[^\w.]+", "_", name)).strip("._") or "node"
