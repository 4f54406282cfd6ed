"""Which nodes of a program become one step of the engine, decided on structure and proven ranges alone.

Used by `compile`. Three patterns, where nobody else reads what lies between:

    conv2d | linear -> requantize
    conv2d | linear -> requantize -> add (a second branch) -> clip         the residual comes with the epilogue
    [clip ->] requantize ... -> add -> clip                                a join of any number of branches

A clip inside a pattern is left out only where it is proven to change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.qtype import QType
from dyadiq.ir.graph import Graph, Node
from dyadiq.ir.proof import Bound

__all__ = ["BranchPlan", "Fusion", "Fusions", "find_fusions", "reads_rows"]


@dataclass(frozen=True)
class BranchPlan:
    """A summand of a join: what is read, and the nodes that are done to it on the way."""

    source: str
    clip: Node | None = None
    requantize: Node | None = None


@dataclass(frozen=True)
class Fusion:
    """Nodes that are one step.

    Attributes:
        last: The node whose output the step makes; the step takes its place in the order.
        dot: The convolution or linear layer, if there is one.
        requantize: The requantize of its accumulator; None where the accumulator is stored.
        branches: The other summands of an add.
        finish: The node that clips at the end; None where nothing does.
    """

    last: Node
    dot: Node | None = None
    requantize: Node | None = None
    branches: tuple[BranchPlan, ...] = ()
    finish: Node | None = None


@dataclass
class Fusions:
    """All steps of several nodes, by the name of their last one, and the nodes that appear in no step of their own."""

    steps: dict[str, Fusion] = field(default_factory=dict)
    absorbed: set[str] = field(default_factory=set)


class _Finder:
    def __init__(self, graph: Graph, bounds: Mapping[str, Bound]) -> None:
        self.graph, self.bounds = graph, bounds
        self.maker = {node.output: node for node in graph.nodes}
        self.place = {node.name: at for at, node in enumerate(graph.nodes)}
        self.readers: dict[str, list[Node]] = {name: [] for name in graph.tensors}
        for node in graph.nodes:
            for name in node.inputs:
                if name in self.readers:
                    self.readers[name].append(node)
        self.found = Fusions()

    def only_reader(self, name: str, op: str) -> Node | None:
        """Return the reader of a tensor if it is the only one, of this operator, and the tensor no output."""
        readers = self.readers[name]
        if name in self.graph.outputs or len(readers) != 1 or readers[0].op != op:
            return None
        return readers[0]

    def clips_nothing(self, node: Node) -> bool:
        """Whether a requantize or clip is proven never to reach its limits; never for signs."""
        qtype = self.graph.tensors[node.output].qtype
        if qtype is None or qtype.bipolar:
            return False
        low, high = _before_clipping(self.graph, node, self.bounds[node.inputs[0]])
        return bool(low.min() >= node.attrs["clip_min"] and high.max() <= node.attrs["clip_max"])

    def branch(self, name: str) -> tuple[BranchPlan, list[Node]]:
        """Return the summand that a tensor of an add is, and the nodes that it takes with it."""
        requantize = self.maker.get(name)
        alone = requantize is not None and requantize.op == "requantize" and self.only_reader(name, "add") is not None
        if requantize is None or not alone or requantize.attrs["zero_point"] != 0 or _is_sign(self.graph, requantize):
            return BranchPlan(name), []
        source = requantize.inputs[0]
        clip = self.maker.get(source)
        if (
            clip is not None
            and clip.op == "clip"
            and self.only_reader(source, "requantize") is not None
            and self.clips_nothing(clip)
        ):
            return BranchPlan(clip.inputs[0], clip, requantize), [clip, requantize]
        return BranchPlan(source, None, requantize), [requantize]

    def take(self, fusion: Fusion, absorbed: list[Node]) -> None:
        self.found.steps[fusion.last.name] = fusion
        self.found.absorbed.update(node.name for node in absorbed)

    def dots(self) -> None:
        """Find what follows every convolution and linear layer."""
        for node in self.graph.nodes:
            requantize = self.only_reader(node.output, "requantize") if node.op in ("conv2d", "linear") else None
            if requantize is None or self.residual(node, requantize):
                continue
            self.take(Fusion(requantize, node, requantize, (), requantize), [node])

    def residual(self, dot: Node, requantize: Node) -> bool:
        """Take an add of two branches into the epilogue of the later one, if it is this convolution."""
        add = self.only_reader(requantize.output, "add")
        if add is None or len(add.inputs) != 2 or add.inputs[0] == add.inputs[1] or requantize.attrs["zero_point"]:
            return False
        finish = self.only_reader(add.output, "clip")
        (other,) = (name for name in add.inputs if name != requantize.output)
        if finish is None or not self.clips_nothing(requantize) or self.is_later_dot(other, dot):
            return False
        branch, taken = self.branch(other)
        source = self.maker[branch.source]
        if source.op in ("conv2d", "linear"):
            branch, taken = BranchPlan(other), []  # its accumulator is requantized by its own step
        elif source.name in self.found.absorbed:
            return False
        self.take(Fusion(finish, dot, requantize, (branch,), finish), [dot, requantize, add, *taken])
        return True

    def is_later_dot(self, name: str, dot: Node) -> bool:
        """Whether a branch comes from the accumulator of a convolution that stands behind this one."""
        made = self.maker[name]
        if made.op != "requantize":
            return False
        source = self.maker[made.inputs[0]]
        return source.op in ("conv2d", "linear") and self.place[source.name] > self.place[dot.name]

    def joins(self) -> None:
        """Find the adds that no convolution took."""
        for node in self.graph.nodes:
            if node.op != "add" or node.name in self.found.absorbed:
                continue
            finish = self.only_reader(node.output, "clip")
            branches, absorbed = [], [node] if finish is not None else []
            for name in node.inputs:
                made = self.maker[name]
                if made.name in self.found.steps or made.name in self.found.absorbed or node.inputs.count(name) > 1:
                    branches.append(BranchPlan(name))
                    continue
                branch, taken = self.branch(name)
                branches.append(branch)
                absorbed += taken
            self.take(Fusion(finish or node, None, None, tuple(branches), finish), absorbed)


def find_fusions(graph: Graph, bounds: Mapping[str, Bound]) -> Fusions:
    """Return which nodes become one step."""
    finder = _Finder(graph, bounds)
    finder.dots()
    finder.joins()
    return finder.found


def reads_rows(graph: Graph, dot: Node) -> bool:
    """Whether a convolution alone reads an input of few channels, whose rows without padding are fewer quads."""
    source, weight, *_ = dot.inputs
    _, n_in, _, width = graph.params[weight].shape
    (maker,) = (node for node in graph.nodes if node.output == source)
    readers = [node.name for node in graph.nodes if source in node.inputs]
    alone = maker.op == "quantize" and readers == [dot.name] and source not in graph.outputs
    return alone and n_in < 4 and dot.attrs["groups"] == 1 and dot.attrs["dilation"][1] == 1 and width > 1


def _is_sign(graph: Graph, node: Node) -> bool:
    qtype: QType | None = graph.tensors[node.output].qtype
    return qtype is not None and qtype.bipolar


def _before_clipping(graph: Graph, node: Node, x: Bound) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    zero_point = node.attrs["zero_point"]
    if node.op == "clip":
        return x.low + zero_point, x.high + zero_point
    multiplier, shift = (np.asarray(graph.params[name], dtype=np.int64) for name in node.inputs[1:])
    rounding = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
    low, high = (((edge * multiplier + rounding) >> shift) + zero_point for edge in (x.low, x.high))
    return low, high
