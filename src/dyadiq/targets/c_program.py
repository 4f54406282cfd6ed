"""From an integer program to C99: one call a step, weights as constant arrays, offsets into one arena.

Used by target `c`. The engine's fusion (`engine.fuse`) decides what is one step, its placement (`engine.arena`) where
tensors lie; the kernels are those of `c_kernels`. Sums are int32 where that is proven, else int64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyadiq.core.qtype import QType
from dyadiq.engine.arena import find_offsets
from dyadiq.engine.fuse import BranchPlan, Fusion, find_fusions
from dyadiq.ir.graph import Node
from dyadiq.ir.integer import IntegerProgram, effective_weight
from dyadiq.ir.proof import prove
from dyadiq.targets.c_files import HEADER, SOURCE
from dyadiq.targets.c_kernels import CODE_TYPES, KERNELS, STRUCTURES, dot_kernel, needed_helpers

__all__ = ["CSource", "generate"]

_ALIGNMENT = 8
_INT32, _INT64 = 2**31 - 1, 2**63 - 1
_NO_WINDOW = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "pad_value": 0, "groups": 1}


@dataclass(frozen=True, slots=True)
class CSource:
    """What is written.

    Attributes:
        header: Text of the header.
        source: Text of the program.
        arena_bytes: Memory that a run works in.
        weight_bytes: Of all constant arrays.
    """

    header: str
    source: str
    arena_bytes: int
    weight_bytes: int


@dataclass
class _Call:
    """One step: its text, and the tensors that it touches."""

    text: str
    tensors: tuple[str, ...]


def generate(program: IntegerProgram, prefix: str) -> CSource:
    """Return a program as C99.

    Args:
        program: The program; its outputs have at most 32 bits, its multipliers at most 31.
        prefix: Of public names.

    Raises:
        ProofError: A tensor may leave its declared type.
    """
    return _Writer(program, prefix).write()


class _Writer:
    def __init__(self, program: IntegerProgram, prefix: str) -> None:
        self.graph, self.bounds, self.prefix = program.graph, prove(program), prefix
        self.fusions = find_fusions(self.graph, self.bounds)
        self.constants: list[str] = []
        self.constant_bytes = 0
        self.calls: list[_Call] = []
        self.kernels: dict[str, str] = {}
        self.aliases: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self.places: dict[str, int] = {}

    def write(self) -> CSource:
        """Return the texts."""
        self.find_aliases()
        for node in self.graph.nodes:
            fusion = self.fusions.steps.get(node.name)
            if fusion is None and node.op in ("conv2d", "linear"):
                fusion = Fusion(node, node)
            if node.name in self.fusions.absorbed:
                continue
            if fusion is not None:
                self.fused(fusion)
            else:
                _EMITTERS[node.op](self, node)
        for at, name in enumerate(self.graph.outputs):
            channels, pixels = self.plane(name)[0], self.n_pixels(name)
            self.call("give", [pixels, channels, self.at(name), self.type_of(name), f"codes{at}"], [name])
        offsets, arena_bytes = self.placed()
        return CSource(self.header(arena_bytes), self.source(offsets), arena_bytes, self.constant_bytes)

    # Tensors

    def find_aliases(self) -> None:
        """Let flattened tensors be their sources: where there is one pixel, or only linear layers read them."""
        for node in self.graph.nodes:
            if node.op == "flatten":
                source = self.source_of(node.inputs[0])
                readers = [other for other in self.graph.nodes if node.output in other.inputs]
                only_linear = bool(readers) and all(reader.op == "linear" for reader in readers)
                if self.n_pixels(source) == 1 or (node.output not in self.graph.outputs and only_linear):
                    self.aliases[node.output] = source

    def source_of(self, name: str) -> str:
        """Return the tensor whose memory a tensor has."""
        return self.aliases.get(name, name)

    def plane(self, name: str) -> tuple[int, int, int]:
        """Return channels, rows and columns."""
        shape = self.graph.tensors[name].shape
        return (shape[0], 1, 1) if len(shape) == 1 else (shape[0], shape[1], shape[2])

    def n_pixels(self, name: str) -> int:
        """Return rows times columns."""
        return self.plane(name)[1] * self.plane(name)[2]

    def qtype(self, name: str) -> QType:
        """Return the type of codes."""
        qtype = self.graph.tensors[name].qtype
        assert qtype is not None, name  # proven before
        return qtype

    def c_type(self, name: str) -> str:
        """Return the smallest C type that holds a tensor's codes."""
        qtype = self.qtype(name)
        signed = qtype.signed or qtype.bipolar
        if qtype.bits <= 16:
            return f"{'' if signed else 'u'}int{8 if qtype.bits <= 8 else 16}"
        return "int32" if qtype.bits <= 32 - (not signed) else "int64"

    def type_of(self, name: str) -> int:
        """Return the number of that type."""
        return CODE_TYPES[self.c_type(name)]

    def place(self, name: str) -> str:
        """Return the name that a tensor's offset has in the program's text."""
        return f"t{self.places.setdefault(self.source_of(name), len(self.places))}"

    def at(self, name: str) -> str:
        """Return where a tensor lies."""
        return f"arena + {self.place(name)}"

    # Texts

    def constant(self, kind: str, ctype: str, values: NDArray[Any]) -> str:
        """Enter a constant array and return its name."""
        name = self.new_name(kind)
        numbers = [str(int(v)) if abs(int(v)) <= _INT32 else f"{int(v)}LL" for v in np.ravel(values)]
        lines = [",".join(numbers[i : i + 24]) for i in range(0, len(numbers), 24)]
        self.constants.append(f"static const {ctype}_t {name}[{len(numbers)}] = {{\n" + ",\n".join(lines) + "};\n")
        self.constant_bytes += len(numbers) * np.dtype(ctype).itemsize
        return name

    def structure(self, ctype: str, values: str, count: str = "") -> str:
        """Enter a constant structure, or an array of them, and return its name."""
        name = self.new_name(ctype.removesuffix("_t"))
        self.constants.append(f"static const {ctype} {name}{count} = {{{values}}};\n")
        return name

    def new_name(self, kind: str) -> str:
        """Return a name that nothing else has."""
        self.counts[kind] = self.counts.get(kind, -1) + 1
        return f"{kind}_{self.counts[kind]}"

    def call(self, kernel: str, arguments: Sequence[Any], tensors: Sequence[str], before: str = "") -> None:
        """Append a step."""
        if kernel in KERNELS:
            self.kernels[kernel] = KERNELS[kernel]
        text = f"    {before}{kernel}({', '.join(str(argument) for argument in arguments)});\n"
        self.calls.append(_Call(text, tuple(dict.fromkeys(map(self.source_of, tensors)))))

    def finish(self, name: str, node: Node | None) -> str:
        """Enter where a step's sums go."""
        a = {"zero_point": 0, "clip_min": -_INT64, "clip_max": _INT64} if node is None else node.attrs
        sign = int(node is not None and self.qtype(name).bipolar)
        limits = ", ".join(f"{int(a[key])}LL" for key in ("zero_point", "clip_min", "clip_max"))
        return self.structure("finish_t", f"{self.place(name)}, {self.type_of(name)}, {sign}, {limits}")

    def dyadic(self, node: Node) -> tuple[str, str, int]:
        """Enter multipliers and shifts; return their names, and whether there is one for each channel."""
        multiplier, shift = (np.ravel(self.graph.params[name]) for name in node.inputs[1:])
        multiplier, shift = np.broadcast_arrays(multiplier, shift)
        names = self.constant("multiplier", "int32", multiplier), self.constant("shift", "uint8", shift)
        return (*names, int(len(shift) > 1))

    def branch(self, plan: BranchPlan) -> str:
        """Return the text of a summand."""
        before = 0 if plan.clip is None else int(plan.clip.attrs["zero_point"])
        multiplier, shift, each, low, high = "0", "0", 0, -_INT64, _INT64
        if plan.requantize is not None:
            multiplier, shift, each = self.dyadic(plan.requantize)
            low, high = (int(plan.requantize.attrs[key]) for key in ("clip_min", "clip_max"))
        numbers = f"{before}LL, {low}LL, {high}LL, {multiplier}, {shift}"
        return f"{self.place(plan.source)}, {self.type_of(plan.source)}, {each}, {numbers}"

    def window(self, x: tuple[int, int, int], y: tuple[int, int, int], kernel: Sequence[int], a: Any) -> str:
        """Enter a window."""
        sizes = [x[1], x[2], x[0], y[1], y[2], y[0], *kernel, *a["stride"], *a["padding"], *a["dilation"]]
        return self.structure("window_t", ", ".join(str(int(size)) for size in sizes))

    # Steps

    def fused(self, fusion: Fusion) -> None:
        """Append the step of several nodes."""
        name = fusion.last.output
        finish = self.finish(name, fusion.finish)
        sources = [plan.source for plan in fusion.branches]
        if fusion.dot is None:
            self.join(name, finish, [self.branch(plan) for plan in fusion.branches], sources)
            return
        dot = fusion.dot
        a, x = {**_NO_WINDOW, **dot.attrs}, self.source_of(dot.inputs[0])
        weight = effective_weight(self.graph, dot)
        if dot.op == "linear":  # its kernel is the whole plane of what it reads
            weight = weight.reshape(len(weight), *self.plane(x))
        bias, bound = np.asarray(self.graph.params[dot.inputs[2]], dtype=np.int64), self.bounds[dot.output]
        most = max(int(np.abs(v).max()) for v in (bound.low, bound.high, bound.partial, bias))
        total = "int32" if most <= _INT32 else "int64"
        kinds = ("int8", "int16", "int32", "int64")
        weight_type = next(t for t in kinds if np.iinfo(t).min <= weight.min() <= weight.max() <= np.iinfo(t).max)
        kernel, text = dot_kernel(self.c_type(x), weight_type, total)
        self.kernels[kernel] = text
        plane = self.plane(dot.output) if dot.op == "conv2d" else (len(weight), 1, 1)
        window = self.window(self.plane(x), plane, weight.shape[2:], a)
        multiplier, shift, each = self.dyadic(fusion.requantize) if fusion.requantize is not None else ("0", "0", 0)
        branches = [self.branch(plan) for plan in fusion.branches]  # at most one
        residual = f"&{self.structure('branch_t', branches[0])}" if branches else "0"
        arrays = self.constant("weight", weight_type, weight.transpose(0, 2, 3, 1)), self.constant("bias", total, bias)
        arguments = [f"&{window}", a["groups"], f"{int(a['pad_value'])}LL", *arrays, multiplier, shift, each, residual]
        self.call(kernel, [*arguments, f"&{finish}", self.at(x), "arena"], [x, name, *sources])

    def join(self, name: str, finish: str, branches: Sequence[str], sources: Sequence[str]) -> None:
        """Append a sum of branches."""
        table = self.structure("branch_t", ", ".join(f"{{{branch}}}" for branch in branches), f"[{len(branches)}]")
        sizes = [self.n_pixels(name), self.plane(name)[0]]
        self.call("join", [table, len(branches), *sizes, f"&{finish}", "arena"], [*sources, name])

    def rescale(self, node: Node) -> None:
        """Append a requantize or clip that stands alone."""
        source = node.inputs[0]
        branch = self.branch(BranchPlan(source, None, None))
        if node.op == "requantize":
            multiplier, shift, each = self.dyadic(node)
            limits = f"0LL, {-_INT64}LL, {_INT64}LL"  # it is clipped once, at the end
            branch = f"{self.place(source)}, {self.type_of(source)}, {each}, {limits}, {multiplier}, {shift}"
        self.join(node.output, self.finish(node.output, node), [branch], [source])

    def quantize(self, node: Node) -> None:
        """Append an input quantizer."""
        out, qtype = node.output, self.qtype(node.output)
        channels, height, width = self.plane(out)
        scale, zero_point = float(self.graph.params[node.inputs[1]]), int(self.graph.params[node.inputs[2]])
        grid = "0"
        if len(node.inputs) > 3:
            grid = self.constant("grid", "int32", np.stack([self.graph.params[name] for name in node.inputs[3:6]]))
        ends = f"{int(qtype.bipolar)}, 0LL, {qtype.qmin}LL, {qtype.qmax}LL"
        finish = self.structure("finish_t", f"{self.place(out)}, {self.type_of(out)}, {ends}")
        x = f"x{self.graph.inputs.index(node.inputs[0])}"
        arguments = [x, scale.hex(), f"{zero_point}LL", grid, height, width, channels, f"&{finish}", "arena"]
        self.call("quantize", arguments, [out], before="strange |= ")

    def pool(self, node: Node) -> None:
        """Append a pool."""
        x, y = node.inputs[0], node.output
        a = {**_NO_WINDOW, **node.attrs}
        window = self.window(self.plane(x), self.plane(y), a["kernel"], a)
        if node.op == "max_pool2d":
            self.call("max_pool", [f"&{window}", self.at(x), self.at(y), self.type_of(y)], [x, y])
            return
        factor = self.graph.params[node.inputs[2]] if len(node.inputs) > 2 else None
        bias = f"{int(self.graph.params[node.inputs[1]])}LL"
        factors = "0" if factor is None else self.constant("factor", "int32", factor)
        places = [self.at(x), self.type_of(x), self.at(y), self.type_of(y)]
        self.call("sum_pool", [f"&{window}", f"{int(a['pad_value'])}LL", bias, factors, *places], [x, y])

    def lookup(self, node: Node) -> None:
        """Append a lookup."""
        x, y = node.inputs[0], node.output
        table = self.constant("table", "int32", self.graph.params[node.inputs[1]])
        n_codes = self.n_pixels(y) * self.plane(y)[0]
        places = [self.at(x), self.type_of(x), self.at(y), self.type_of(y)]
        self.call("lookup", [table, f"{int(node.attrs['first'])}LL", n_codes, *places], [x, y])

    def pad(self, node: Node) -> None:
        """Append a padding."""
        x, y, before = node.inputs[0], node.output, node.attrs["before"]
        window = self.window(self.plane(x), self.plane(y), (1, 1), {**_NO_WINDOW, "padding": before[1:]})
        value = f"{int(node.attrs['pad_value'])}LL"
        self.call("pad", [f"&{window}", before[0], value, self.at(x), self.at(y), self.type_of(y)], [x, y])

    def concat(self, node: Node) -> None:
        """Append a copy for every input."""
        first, y = 0, node.output
        for x in node.inputs:
            channels = self.plane(x)[0]
            sizes = [self.n_pixels(y), channels, self.plane(y)[0], first]
            self.call("place", [*sizes, self.at(x), self.at(y), self.type_of(y)], [x, y])
            first += channels

    def flatten(self, node: Node) -> None:
        """Append a reordering, where the flattened tensor is not its source."""
        if node.output not in self.aliases:
            x, y = node.inputs[0], node.output
            arguments = [self.n_pixels(x), self.plane(x)[0], self.at(x), self.at(y), self.type_of(y)]
            self.call("flatten", arguments, [x, y])

    # Files

    def placed(self) -> tuple[dict[str, int], int]:
        """Return the offset of every tensor, and the bytes of the arena."""
        spans: dict[str, tuple[int, int]] = {}
        for step, call in enumerate(self.calls):
            for name in call.tensors:
                spans[name] = (spans.get(name, (step, step))[0], step)
        sizes = [self.n_pixels(n) * self.plane(n)[0] * np.dtype(self.c_type(n)).itemsize for n in spans]
        offsets = find_offsets(sizes, list(spans.values()), _ALIGNMENT)
        ends = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
        return dict(zip(spans, offsets, strict=True)), max(ends, default=0)

    def parameters(self) -> str:
        """Return the parameters of the public function."""
        inputs = [f"const {self.prefix}_real* x{i}" for i in range(len(self.graph.inputs))]
        outputs = [f"int32_t* codes{i}" for i in range(len(self.graph.outputs))]
        return ", ".join([*inputs, *outputs, "unsigned char* arena"])

    def header(self, arena_bytes: int) -> str:
        """Return the text of the header."""
        upper, lines = self.prefix.upper(), []
        for kind, names in (("INPUT", self.graph.inputs), ("OUTPUT", self.graph.outputs)):
            for i, name in enumerate(names):
                shape = self.graph.tensors[name].shape
                lines.append(f"#define {upper}_{kind}{i}_SIZE {int(np.prod(shape))} /* {name}: {list(shape)} */")
        return HEADER.format(
            prefix=self.prefix, upper=upper, sizes="\n".join(lines), arena=arena_bytes, parameters=self.parameters()
        )

    def source(self, offsets: Mapping[str, int]) -> str:
        """Return the text of the program."""
        calls = "".join(call.text for call in self.calls)
        kernels = "\n".join(self.kernels.values()).replace("REAL*", f"{self.prefix}_real*")
        places = ",\n".join(f"    {self.place(name)} = {offset}" for name, offset in offsets.items())
        arena = f"/* Where tensors lie in the arena. */\nenum {{\n{places}\n}};\n"
        body = "\n".join([STRUCTURES, *needed_helpers(kernels), kernels, arena, "".join(self.constants)])
        return SOURCE.format(prefix=self.prefix, body=body, parameters=self.parameters(), calls=calls)


_EMITTERS: Mapping[str, Callable[[_Writer, Node], None]] = MappingProxyType(
    {
        "quantize": _Writer.quantize,
        "requantize": _Writer.rescale,
        "clip": _Writer.rescale,
        "max_pool2d": _Writer.pool,
        "sum_pool2d": _Writer.pool,
        "lookup": _Writer.lookup,
        "pad": _Writer.pad,
        "concat": _Writer.concat,
        "flatten": _Writer.flatten,
    }
)
