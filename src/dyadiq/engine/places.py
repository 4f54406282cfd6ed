"""Where the tensors of a program lie: in buffers, some side by side or in the place of another, and their margins.

Used by `compile`, whose compiler is one of these; offsets in the arena come later (`arena`).
"""

from __future__ import annotations

from collections.abc import Mapping

from dyadiq.core.qtype import QType
from dyadiq.engine.fuse import find_fusions, reads_rows
from dyadiq.engine.plan import Buffer, EnginePlan, TensorRef
from dyadiq.ir.graph import Graph, Node
from dyadiq.ir.proof import Bound

__all__ = ["Places"]


class Places:
    """A plan that is being made, and where tensors of the program lie in it."""

    def __init__(self, graph: Graph, bounds: Mapping[str, Bound]) -> None:
        self.graph, self.bounds = graph, bounds
        self.fusions = find_fusions(graph, bounds)
        self.maker = {node.output: node for node in graph.nodes}
        self.plan = EnginePlan(
            tuple((name, tuple(graph.tensors[name].shape)) for name in graph.inputs),
            tuple((name, tuple(graph.tensors[name].shape)) for name in graph.outputs),
        )
        self.refs: dict[str, TensorRef] = {}
        self.aliases: dict[str, str] = {}  # flattened tensors that need no step of their own

    def plane(self, name: str) -> tuple[int, int, int]:
        """Return channels, rows and columns of a tensor."""
        shape = self.graph.tensors[name].shape
        return (shape[0], 1, 1) if len(shape) == 1 else (shape[0], shape[1], shape[2])

    def qtype(self, name: str) -> QType:
        """Return the type of a tensor of the program."""
        qtype = self.graph.tensors[name].qtype
        assert qtype is not None, name  # proven before
        return qtype

    def ref(self, name: str) -> TensorRef:
        """Return where a tensor lies; it gets a buffer when it is first asked for."""
        name = self.aliases.get(name, name)
        if name not in self.refs:
            self.refs[name] = self.new_ref(name)
        return self.refs[name]

    def new_ref(self, name: str) -> TensorRef:
        """Return a tensor in a buffer of its own."""
        channels, height, width = self.plane(name)
        self.plan.buffers.append(Buffer(self.is_wide(name), height, width, channels))
        return TensorRef(len(self.plan.buffers) - 1, 0, channels, self.code_offset(name))

    def is_wide(self, name: str) -> bool:
        """Whether a tensor is int32: what does not fit bytes, and sums, which are taken where they lie."""
        return self.qtype(name).bits > 8 or self.maker[name].op in ("conv2d", "linear", "sum_pool2d")

    def code_offset(self, name: str) -> int:
        """Return what is added to codes in memory."""
        return 128 if self.qtype(name).signed and not self.is_wide(name) else 0

    def index(self, ref: TensorRef) -> int:
        """Return the index of a tensor in the plan."""
        return self.plan.tensor_index(ref)

    def find_aliases(self) -> None:
        """Let flattened tensors be their sources: where there is one pixel, or only linear layers read them."""
        for node in self.graph.nodes:
            if node.op != "flatten":
                continue
            source = self.aliases.get(node.inputs[0], node.inputs[0])
            readers = [other for other in self.graph.nodes if node.output in other.inputs]
            flat = self.plane(source)[1:] == (1, 1)
            if flat or (node.output not in self.graph.outputs and readers and all(r.op == "linear" for r in readers)):
                self.aliases[node.output] = source

    def share_concats(self) -> None:
        """Let the inputs of a concat lie side by side, so that it is no work; outer ones first."""
        for node in reversed(self.graph.nodes):
            if node.op != "concat":
                continue
            whole, first = self.ref(node.output), 0
            for name in node.inputs:
                channels = self.plane(name)[0]
                if (
                    name not in self.refs
                    and name not in self.aliases
                    and self.is_wide(name) == self.is_wide(node.output)
                ):
                    self.refs[name] = TensorRef(
                        whole.buffer, whole.first_channel + first, channels, self.code_offset(name)
                    )
                first += channels

    def note_margins(self, node: Node) -> None:
        """Give what a convolution reads the margins it needs."""
        fusion = self.fusions.steps.get(node.name)
        dot = fusion.dot if fusion is not None else None
        if dot is None or dot.op != "conv2d":
            return
        a, (_, height, width) = dot.attrs, self.plane(dot.inputs[0])
        kernel = self.graph.params[dot.inputs[1]].shape[2:]
        _, *out = self.plane(dot.output)
        after = [
            (out[i] - 1) * a["stride"][i]
            - a["padding"][i]
            + (kernel[i] - 1) * a["dilation"][i]
            + 1
            - (height, width)[i]
            for i in (0, 1)
        ]
        ref = self.ref(dot.inputs[0])
        buffer = self.plan.buffers[ref.buffer]
        buffer.dense = reads_rows(self.graph, dot)
        needed = (*a["padding"], max(0, after[0]), max(0, after[1]))
        if any(needed):
            top, left, bottom, right = (max(old, new) for old, new in zip(buffer.margins, needed, strict=True))
            buffer.margins = (top, left, bottom, right)
            buffer.fill = int(a["pad_value"]) + ref.code_offset
