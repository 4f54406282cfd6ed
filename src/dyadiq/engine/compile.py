"""From an integer program to what the engine runs: tensors get places, nodes become steps, weights their layout.

Used by `file` and target `engine`; the runtime in native/engine reads the result. What is fused, `fuse` says; where
buffers lie, `arena`. The engine computes in int32 (64 bits between accumulator and code); a program with wider
tensors is refused, node by node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.qtype import QType
from dyadiq.engine.arena import place_
from dyadiq.engine.fuse import BranchPlan, Fusion, find_fusions
from dyadiq.engine.plan import INT32_RANGE, NONE, Branch, Buffer, EnginePlan, Finish, Step, TensorRef
from dyadiq.engine.single import single_words
from dyadiq.engine.weights import choose_weights
from dyadiq.ir.graph import Graph, Node
from dyadiq.ir.integer import IntegerProgram, effective_weight
from dyadiq.ir.proof import Bound, prove

__all__ = ["compile_program", "find_uncompilable"]

_INT32 = INT32_RANGE[1]


def find_uncompilable(program: IntegerProgram) -> list[tuple[Node, str]]:
    """Return the nodes that the engine cannot run, each with the reason.

    Raises:
        ProofError: A tensor may leave its declared type.
    """
    bounds, found = prove(program), []
    for node in program.graph.nodes:
        bound = bounds[node.output]
        if int(max(np.abs(bound.low).max(), np.abs(bound.high).max(), bound.partial.max())) > _INT32:
            found.append((node, "its values or partial sums may leave 32 bits. Use fewer bits"))
        elif any(abs(int(node.attrs.get(key, 0))) > _INT32 for key in ("zero_point", "clip_min", "clip_max")):
            found.append((node, "its limits leave 32 bits. Use fewer bits"))
    return found


def compile_program(program: IntegerProgram, *, sparse: bool = True) -> EnginePlan:
    """Return the plan of a program that `find_uncompilable` has nothing against.

    Args:
        program: What to compile.
        sparse: Whether weights with many blocks of zeros, 16 outputs by 4 inputs, become sparse ones.

    Raises:
        ProofError: A tensor may leave its declared type.
        GraphError: Buffers would overlap (a bug).
    """
    return _Compiler(program.graph, prove(program), sparse=sparse).compile()


class _Compiler:
    def __init__(self, graph: Graph, bounds: Mapping[str, Bound], *, sparse: bool) -> None:
        self.graph, self.bounds, self.sparse = graph, bounds, sparse
        self.fusions = find_fusions(graph, bounds)
        self.maker = {node.output: node for node in graph.nodes}
        self.plan = EnginePlan(
            tuple((name, tuple(graph.tensors[name].shape)) for name in graph.inputs),
            tuple((name, tuple(graph.tensors[name].shape)) for name in graph.outputs),
        )
        self.refs: dict[str, TensorRef] = {}
        self.aliases: dict[str, str] = {}  # flattened tensors that need no step of their own
        self.filled: set[int] = set()

    def compile(self) -> EnginePlan:
        """Return the placed plan."""
        self.find_aliases()
        self.share_concats()
        steps = [node for node in self.graph.nodes if node.name not in self.fusions.absorbed]
        for node in steps:
            if self.fusions.steps.get(node.name) is None and node.op in ("conv2d", "linear"):
                self.fusions.steps[node.name] = Fusion(node, node)
        for node in steps:  # margins first: every buffer is filled once, before anything is written into it
            self.note_margins(node)
        for node in steps:
            fusion = self.fusions.steps.get(node.name)
            if fusion is not None:
                self.emit_fusion(fusion)
            else:
                _EMITTERS[node.op](self, node)
        for at, (name, _) in enumerate(self.plan.outputs):
            ref = self.ref(name)
            words = [self.index(ref), at, self.output_scale(name), self.graph.tensors[name].zero_point]
            self.step("output", name, (ref,), (), words)
        place_(self.plan)
        return self.plan

    def output_scale(self, name: str) -> int:
        """Enter what steps of an output are worth, one number or one a channel; none where that is not known."""
        scale = self.graph.tensors[name].scale
        if scale is None:
            return NONE
        return self.plan.payload_index(f"{name}.scale", np.array(scale, dtype=np.float64).ravel())

    # Places

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
        needed = (*a["padding"], max(0, after[0]), max(0, after[1]))
        if any(needed):
            top, left, bottom, right = (max(old, new) for old, new in zip(buffer.margins, needed, strict=True))
            buffer.margins = (top, left, bottom, right)
            buffer.fill = int(a["pad_value"]) + ref.code_offset

    # Steps

    def step(
        self, op: str, name: str, reads: Sequence[TensorRef], writes: Sequence[TensorRef], words: Sequence[int]
    ) -> None:
        """Append a step, and before the first that writes a buffer with margins one that fills them."""
        for ref in writes:
            if any(self.plan.buffers[ref.buffer].margins) and ref.buffer not in self.filled:
                self.filled.add(ref.buffer)
                self.plan.steps.append(Step("fill", name, (), (ref,), [ref.buffer]))
        self.plan.steps.append(Step(op, name, tuple(reads), tuple(writes), [int(word) for word in words]))

    def payload(self, name: str, values: NDArray[np.int64] | NDArray[np.int32]) -> int:
        """Enter int32 values."""
        return self.plan.payload_index(name, np.ascontiguousarray(values).astype(np.int32).ravel())

    def dyadic_words(
        self, name: str, multiplier: NDArray[np.int64] | None, shift: NDArray[np.int64] | None
    ) -> list[int]:
        """Return the words of a rescaling."""
        if multiplier is None or shift is None:
            return [NONE, NONE]
        return [self.payload(f"{name}.multiplier", multiplier), self.payload(f"{name}.shift", shift)]

    def branch_words(self, name: str, branch: Branch) -> list[int]:
        """Return the words of a summand."""
        words = [self.index(branch.x), branch.before, *self.dyadic_words(name, branch.multiplier, branch.shift)]
        return [*words, branch.low, branch.high]

    def branch(self, plan: BranchPlan, channels: int) -> Branch:
        """Return a summand with its numbers, one an output channel."""
        x, before = self.ref(plan.source), 0 if plan.clip is None else int(plan.clip.attrs["zero_point"])
        if plan.requantize is None:
            return Branch(x, before)
        multiplier, shift = self.dyadic(plan.requantize, channels)
        a = plan.requantize.attrs
        return Branch(x, before, multiplier, shift, a["clip_min"], a["clip_max"])

    def dyadic(self, node: Node, channels: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return multiplier and shift of a requantize, one an output channel."""
        multiplier, shift = (np.asarray(self.graph.params[name], dtype=np.int64) for name in node.inputs[1:])
        return np.broadcast_to(multiplier, (channels,)), np.broadcast_to(shift, (channels,))

    def finish(self, node: Node | None) -> Finish:
        """Return the end of a step; a sum that nothing clips is stored as it is."""
        if node is None:
            return Finish()
        a = node.attrs
        return Finish(a["zero_point"], a["clip_min"], a["clip_max"], sign=self.qtype(node.output).bipolar)

    def emit_fusion(self, fusion: Fusion) -> None:
        """Append the step of several nodes."""
        if fusion.dot is not None:
            self.emit_dot(fusion, fusion.dot)
            return
        out = self.ref(fusion.last.output)
        branches = [self.branch(plan, out.channels) for plan in fusion.branches]
        self.emit_join(fusion.last, branches, self.finish(fusion.finish))

    def emit_join(self, node: Node, branches: Sequence[Branch], finish: Finish) -> None:
        """Append a join that makes the output of a node."""
        out = self.ref(node.output)
        words = [self.index(out), *finish.words(), len(branches)]
        for at, branch in enumerate(branches):
            words += self.branch_words(f"{node.name}.{at}", branch)
        self.step("join", node.name, [branch.x for branch in branches], (out,), words)

    def emit_dot(self, fusion: Fusion, dot: Node) -> None:
        """Append a convolution; a linear layer is one whose kernel is the whole plane."""
        x, out = self.ref(dot.inputs[0]), self.ref(fusion.last.output)
        weight = effective_weight(self.graph, dot)
        bias = np.asarray(self.graph.params[dot.inputs[2]], dtype=np.int64)
        if dot.op == "linear":
            buffer = self.plan.buffers[x.buffer]
            weight = weight.reshape(len(weight), x.channels, buffer.height, buffer.width)
            geometry, groups = [buffer.height, buffer.width, 1, 1, 1, 1, 0, 0], 1
        else:
            a = dot.attrs
            geometry, groups = [*weight.shape[2:], *a["stride"], *a["dilation"], *a["padding"]], a["groups"]
        wide = self.plan.buffers[x.buffer].wide
        kernel = choose_weights(weight, bias, groups, wide=wide, code_offset=x.code_offset, sparse=self.sparse)
        if kernel.reads_memory:
            bias = bias - x.code_offset * weight.reshape(len(weight), -1).sum(axis=1)
        ordered = kernel.ordered
        words = [kernel.kind, self.index(x), self.index(out), *geometry, groups]
        words.append(self.plan.payload_index(f"{dot.name}.weight", kernel.values, kernel.qtype))
        if kernel.places is not None:
            words.append(self.payload(f"{dot.name}.places", kernel.places))
        words.append(self.payload(f"{dot.name}.bias", ordered(bias)))
        if fusion.requantize is None:
            self.step("conv", fusion.last.name, [x], (out,), [*words, NONE, NONE, 0, *Finish().words(), 0, NONE])
            return
        dyadic, finish, reads = self.dyadic(fusion.requantize, len(weight)), self.finish(fusion.finish), [x]
        words += [*self.dyadic_words(dot.name, *map(ordered, dyadic)), 1, *finish.words(), len(fusion.branches)]
        branches = [self.branch(plan, len(weight)) for plan in fusion.branches]  # at most one
        for branch in branches:
            words += self.branch_words(f"{dot.name}.residual", branch.with_channels(ordered))
            reads.append(branch.x)
        singles = None
        if kernel.reads_memory and not (self.plan.buffers[out.buffer].wide and branches):
            summand = None
            for plan, branch in zip(fusion.branches, branches, strict=True):
                source = self.bounds[plan.source]
                summand = (branch, (source.low, source.high), self.plan.buffers[branch.x.buffer].wide)
            bound = self.bounds[dot.output]
            singles = single_words(dyadic, (bound.low, bound.high), bias, finish, out.code_offset, summand)
        single = [ordered(row.astype(np.int64)) for row in singles] if singles is not None else None
        words.append(NONE if single is None else self.payload(f"{dot.name}.single", np.stack(single)))
        self.step("conv", fusion.last.name, reads, (out,), words)

    def quantize(self, node: Node) -> None:
        """Append an input quantizer."""
        out, qtype = self.ref(node.output), self.qtype(node.output)
        scale = np.asarray(self.graph.params[node.inputs[1]], dtype=np.float64).ravel()
        grid = NONE
        if len(node.inputs) > 3:
            grid = self.payload(f"{node.name}.grid", np.stack([self.graph.params[name] for name in node.inputs[3:6]]))
        words = [self.graph.inputs.index(node.inputs[0]), self.index(out)]
        words.append(self.plan.payload_index(f"{node.name}.scale", scale))
        zero_point = int(self.graph.params[node.inputs[2]])
        words += [zero_point, qtype.qmin, qtype.qmax, int(qtype.bipolar), grid]
        self.step("quantize", node.name, (), (out,), words)

    def rescale(self, node: Node) -> None:
        """Append a requantize or clip that stands alone."""
        x, out = self.ref(node.inputs[0]), self.ref(node.output)
        multiplier, shift = self.dyadic(node, out.channels) if node.op == "requantize" else (None, None)
        self.emit_join(node, [Branch(x, 0, multiplier, shift)], self.finish(node))

    def pool(self, node: Node) -> None:
        """Append a pool."""
        x, out, a = self.ref(node.inputs[0]), self.ref(node.output), node.attrs
        words = [self.index(x), self.index(out), *a["kernel"], *a["stride"]]
        if node.op == "max_pool2d":
            self.step("max_pool", node.name, (x,), (out,), [*words, *a["dilation"], *a["padding"]])
            return
        words += [*a["padding"], a["pad_value"], int(self.graph.params[node.inputs[1]])]
        factor = self.graph.params[node.inputs[2]] if len(node.inputs) > 2 else None
        words.append(NONE if factor is None else self.payload(f"{node.name}.factor", factor))
        self.step("sum_pool", node.name, (x,), (out,), words)

    def lookup(self, node: Node) -> None:
        """Append a lookup."""
        x, out = self.ref(node.inputs[0]), self.ref(node.output)
        table = self.payload(f"{node.name}.table", self.graph.params[node.inputs[1]])
        words = [self.index(x), self.index(out), node.attrs["first"], table]
        self.step("lookup", node.name, (x,), (out,), words)

    def pad(self, node: Node) -> None:
        """Append a padding."""
        x, out = self.ref(node.inputs[0]), self.ref(node.output)
        words = [self.index(x), self.index(out), *node.attrs["before"], node.attrs["pad_value"]]
        self.step("pad", node.name, (x,), (out,), words)

    def concat(self, node: Node) -> None:
        """Append a copy for every input that does not lie in its place already."""
        whole, first = self.ref(node.output), 0
        for name in node.inputs:
            x = self.ref(name)
            place = TensorRef(whole.buffer, whole.first_channel + first, x.channels, whole.code_offset)
            if x != place:
                self.step("copy", node.name, (x,), (place,), [self.index(x), self.index(place)])
            first += x.channels

    def flatten(self, node: Node) -> None:
        """Append a reordering, where the flattened tensor is not its source."""
        if node.output in self.aliases:
            return
        x, out = self.ref(node.inputs[0]), self.ref(node.output)
        self.step("flatten", node.name, (x,), (out,), [self.index(x), self.index(out)])


_EMITTERS: Mapping[str, Callable[[_Compiler, Node], None]] = MappingProxyType(
    {
        "quantize": _Compiler.quantize,
        "requantize": _Compiler.rescale,
        "clip": _Compiler.rescale,
        "max_pool2d": _Compiler.pool,
        "sum_pool2d": _Compiler.pool,
        "lookup": _Compiler.lookup,
        "pad": _Compiler.pad,
        "concat": _Compiler.concat,
        "flatten": _Compiler.flatten,
    }
)
