"""From an integer program to what the engine runs: tensors get places, nodes become steps, weights their layout.

Used by `file` and target `engine`; the runtime in native/engine reads the result. What is fused, `fuse` says; where
buffers lie, `arena`; what cannot be compiled, `limits`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.errors import ConfigError, UnknownNameError
from dyadiq.engine.arena import place_
from dyadiq.engine.fuse import BranchPlan, Fusion
from dyadiq.engine.lowering import BASELINES, Lowering, lower_input
from dyadiq.engine.places import Places
from dyadiq.engine.plan import NONE, Branch, Buffer, EnginePlan, Finish, Step, TensorRef
from dyadiq.engine.single import single_words
from dyadiq.engine.weights import ALGORITHMS, Dot, KernelWeights, choose_weights, find_weights
from dyadiq.engine.winograd import WINOGRAD_AXES, winograd_scratch
from dyadiq.ir.graph import Graph, Node
from dyadiq.ir.integer import IntegerProgram, effective_weight
from dyadiq.ir.proof import Bound, prove

__all__ = ["compile_program"]


def compile_program(program: IntegerProgram, *, algorithms: Mapping[str, str] = MappingProxyType({})) -> EnginePlan:
    """Return the plan of a program that `find_uncompilable` has nothing against.

    Args:
        program: What to compile.
        algorithms: Of `weights.ALGORITHMS`, or of `lowering.BASELINES`, by the name of a convolution or linear layer;
            the rule of `choose_weights` decides on the others, and on nothing but the program, so that files are the
            same on every machine.

    Raises:
        ConfigError: An algorithm cannot run its layer.
        ProofError: A tensor may leave its declared type.
        GraphError: Buffers would overlap (a bug).
        UnknownNameError: There is no such layer or algorithm.
    """
    dots = [node.name for node in program.graph.nodes if node.op in ("conv2d", "linear")]
    for name, algorithm in algorithms.items():
        if name not in dots:
            raise UnknownNameError("convolution or linear layer", name, dots)
        if algorithm not in (*ALGORITHMS, *BASELINES):
            raise UnknownNameError("algorithm", algorithm, (*ALGORITHMS, *BASELINES))
    return _Compiler(program.graph, prove(program), algorithms).compile()


class _Compiler(Places):
    def __init__(self, graph: Graph, bounds: Mapping[str, Bound], algorithms: Mapping[str, str]) -> None:
        super().__init__(graph, bounds)
        self.algorithms = algorithms
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
        known = None if scale is None else np.array(scale, dtype=np.float64).ravel()
        return NONE if known is None else self.plan.payload_index(f"{name}.scale", known)

    def step(
        self, op: str, name: str, reads: Sequence[TensorRef], writes: Sequence[TensorRef], words: Sequence[int]
    ) -> Step:
        """Append a step, and before the first that writes a buffer with margins one that fills them."""
        for ref in writes:
            if any(self.plan.buffers[ref.buffer].margins) and ref.buffer not in self.filled:
                self.filled.add(ref.buffer)
                self.plan.steps.append(Step("fill", name, (), (ref,), [ref.buffer]))
        self.plan.steps.append(Step(op, name, tuple(reads), tuple(writes), [int(word) for word in words]))
        return self.plan.steps[-1]

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

    def emit_dot(self, fusion: Fusion, node: Node) -> None:
        """Append a convolution; a linear layer is one whose kernel is the whole plane.

        Raises:
            ConfigError: The algorithm asked for cannot run it.
        """
        x, out = self.ref(node.inputs[0]), self.ref(fusion.last.output)
        dot, padding = self.dot(node, x, out)
        found, algorithm = find_weights(dot), self.algorithms.get(node.name)
        choices = tuple(found)
        try:
            if algorithm in BASELINES:
                lowering = lower_input(dot, algorithm)
                x, padding, dot = self.emit_lowering(node, algorithm, x, padding, lowering), (0, 0), lowering.dot
                kernel = find_weights(dot)["direct"]
            else:
                kernel = choose_weights(dot, found, algorithm)
        except ConfigError as err:
            raise ConfigError(f"{node.name}: {err}") from err
        weight, bias, ordered = dot.weight, kernel.bias(dot), kernel.ordered
        if kernel.binary is not None:
            x, padding = self.emit_bits(node, x, padding, dot), (0, 0)
        if kernel.algorithm == "sparse4x4":
            x, padding = self.emit_quads(node, x, padding, dot), (0, 0)
        geometry = [*weight.shape[2:], *dot.stride, *dot.dilation, *padding, kernel.groups]
        words, writes = [kernel.kind, self.index(x), self.index(out), *geometry], [out]
        words.append(self.plan.payload_index(f"{node.name}.weight", kernel.values, kernel.qtype))
        if kernel.table is not None:
            words.append(self.plan.payload_index(f"{node.name}.table", kernel.table))
        if kernel.places is not None:
            words.append(self.payload(f"{node.name}.places", kernel.places))
        if kernel.algorithm in WINOGRAD_AXES:
            self.plan.buffers.append(Buffer(False, *winograd_scratch(dot.plane, x.channels)))
            writes.append(TensorRef(len(self.plan.buffers) - 1, 0, 1, 0))
            words += [dot.codes[0] + x.code_offset, writes[1].buffer]
        if kernel.binary is not None:
            words += [kernel.binary.both, kernel.binary.factor]
        words.append(self.payload(f"{node.name}.bias", ordered(bias)))
        words_of_end, reads = self.end_of_dot(fusion, node, kernel, bias)
        step = self.step("conv", fusion.last.name, [x, *reads], writes, words + words_of_end)
        step.layer, step.algorithm, step.choices = node.name, algorithm or kernel.algorithm, choices

    def emit_lowering(
        self, node: Node, algorithm: str, x: TensorRef, padding: Sequence[int], lowering: Lowering
    ) -> TensorRef:
        """Append the copy of an input that a convolution reads instead, and return where it lies."""
        height, width = lowering.kernel
        channels = height * width * x.channels
        self.plan.buffers.append(Buffer(False, *lowering.plane, channels))
        copied = TensorRef(len(self.plan.buffers) - 1, 0, channels, x.code_offset)
        words = [self.index(x), self.index(copied), *lowering.words, *padding]
        step = self.step("lower", node.name, (x,), (copied,), words)
        step.layer, step.algorithm = node.name, algorithm
        return copied

    def emit_bits(self, node: Node, x: TensorRef, padding: Sequence[int], dot: Dot) -> TensorRef:
        """Append what makes bits of an input and its margins, and return where they lie."""
        window = zip(dot.plane, dot.stride, dot.weight.shape[2:], dot.dilation, strict=True)
        height, width = ((out - 1) * stride + (kernel - 1) * step + 1 for out, stride, kernel, step in window)
        channels = -(-x.channels // 32) * 4
        self.plan.buffers.append(Buffer(False, height, width, channels))
        bits = TensorRef(len(self.plan.buffers) - 1, 0, channels, 0)
        words = [self.index(x), self.index(bits), *padding, dot.codes[0] + x.code_offset]
        step = self.step("bits", node.name, (x,), (bits,), words)
        step.layer, step.algorithm = node.name, "binary"
        return bits

    def emit_quads(self, node: Node, x: TensorRef, padding: Sequence[int], dot: Dot) -> TensorRef:
        """Append what lays an input and its margins out by quads, and return where they lie."""
        self.plan.buffers.append(Buffer(False, *dot.quad_plane.size, x.channels))
        quads = TensorRef(len(self.plan.buffers) - 1, 0, x.channels, x.code_offset)
        words = [self.index(x), self.index(quads), *dot.stride, *padding]
        step = self.step("quads", node.name, (x,), (quads,), words)
        step.layer, step.algorithm = node.name, "sparse4x4"
        return quads

    def dot(self, node: Node, x: TensorRef, out: TensorRef) -> tuple[Dot, Sequence[int]]:
        """Return what kernels of a convolution or linear layer depend on, and its padding."""
        weight = effective_weight(self.graph, node)
        bias = np.asarray(self.graph.params[node.inputs[2]], dtype=np.int64)
        source, made = self.plan.buffers[x.buffer], self.plan.buffers[out.buffer]
        bound, a = self.bounds[node.inputs[0]], node.attrs
        codes, plane = (int(bound.low.min()), int(bound.high.max())), (made.height, made.width)
        bipolar = self.qtype(node.inputs[0]).bipolar
        if node.op == "linear":
            weight = weight.reshape(len(weight), x.channels, source.height, source.width)
            ends = bipolar or codes[1] - codes[0] == 1
            dot = Dot(weight, bias, 1, source.wide, x.code_offset, codes=codes, plane=plane, only_ends=ends)
            return dot, (0, 0)
        if any(a["padding"]):
            bipolar = bipolar and a["pad_value"] in codes
            codes = min(codes[0], a["pad_value"]), max(codes[1], a["pad_value"])
        stride, dilation, wide = tuple(a["stride"]), tuple(a["dilation"]), source.wide
        dot = Dot(weight, bias, a["groups"], wide, x.code_offset, stride, dilation, codes, plane, source.dense)
        row = a["padding"][1], source.width
        dot = replace(dot, only_ends=bipolar or codes[1] - codes[0] == 1, row=row)
        return dot, a["padding"]

    def end_of_dot(
        self, fusion: Fusion, dot: Node, kernel: KernelWeights, bias: NDArray[np.int64]
    ) -> tuple[list[int], list[TensorRef]]:
        """Return the words of what becomes of an accumulator, and what is read for it."""
        if fusion.requantize is None:
            return [NONE, NONE, 0, *Finish().words(), 0, NONE], []
        out, ordered, n = self.ref(fusion.last.output), kernel.ordered, len(bias)
        dyadic, finish = self.dyadic(fusion.requantize, n), self.finish(fusion.finish)
        words = [*self.dyadic_words(dot.name, *map(ordered, dyadic)), 1, *finish.words(), len(fusion.branches)]
        branches = [self.branch(plan, n) for plan in fusion.branches]  # at most one
        for branch in branches:
            words += self.branch_words(f"{dot.name}.residual", branch.with_channels(ordered))
        singles = None
        if kernel.reads_memory and not (self.plan.buffers[out.buffer].wide and branches):
            summand = None
            for plan, branch in zip(fusion.branches, branches, strict=True):
                source = self.bounds[plan.source]
                summand = (branch, (source.low, source.high), self.plan.buffers[branch.x.buffer].wide)
            bound = self.bounds[dot.output]
            singles = single_words(dyadic, (bound.low, bound.high), bias, finish, out.code_offset, summand)
        rows = [] if singles is None else [ordered(row.astype(np.int64)) for row in singles]
        words.append(self.payload(f"{dot.name}.single", np.stack(rows)) if rows else NONE)
        return words, [branch.x for branch in branches]

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
