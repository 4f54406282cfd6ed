"""Write small compiled programs of every step and kind of weights into a folder: where fuzzing starts.

    python tests/fuzz_seeds.py FOLDER [--apart]

Run by native/fuzz/run and native/sanitize/threads. The programs are those of the tests. With --apart their buffers lie
64 bytes apart: kernels may read that far behind one, and what they find there decides nothing, but ThreadSanitizer
would report that another thread writes the next one.
"""

import sys
from pathlib import Path

import numpy as np

from dyadiq.core.qtype import QType
from dyadiq.engine import compile_program, write_engine_file
from dyadiq.engine.arena import check_arena, find_offsets, lifetimes
from dyadiq.engine.lowering import BASELINES
from few_values import FewValues
from programs import INT4N, INT8, PROGRAMS, UINT8, ProgramBuilder, multipliers
from sparse_weights import thin


def small(rng, name):
    """One convolution of every kind on a small plane."""
    b = ProgramBuilder(rng)
    x = b.input((32, 3, 4), UINT8)
    y = b.requantize(b.conv2d(x, 17, 3, padding=1, qtype=QType.parse(name)), INT8, multipliers(rng, 17, 16))
    z = b.conv2d(y, 17, 3, padding=1)
    thin(b, rng, 0.3)
    scale = b.scale(z).max() * 701.3
    z = b.clip(b.add(b.branch(z, scale, 16), b.branch(y, scale, 16)), UINT8)
    z = b.requantize(b.conv2d(z, 17, 3, 1, 1, 1, 17), UINT8, multipliers(rng, 17, 16))
    return b.program(b.linear(b.flatten(z), 5))


# Weights, codes and kernels of Winograd convolutions, of two axes and of one.
WINOGRAD = (("bipolar", "uint6"), ("int4n", "int6"))
WINOGRAD_1D = (("bipolar", "uint7", 3), ("int6n", "int7", (1, 3)), ("int4n", "uint6", (3, 1)))


def winograd(rng, name, codes, kernel=3):
    """Winograd convolutions with every ending, of a plane with odd sides."""
    padding = tuple(side // 2 for side in (kernel if isinstance(kernel, tuple) else (kernel, kernel)))
    b = ProgramBuilder(rng)
    x = b.input((17, 9, 11), QType.parse(codes), scale=1.0)
    y = b.requantize(
        b.conv2d(x, 33, kernel, padding=padding, qtype=QType.parse(name)), QType.parse(codes), multipliers(rng, 33, 16)
    )
    z = b.conv2d(y, 33, kernel, padding=padding, qtype=INT4N)
    scale = b.scale(z).max() * 701.3
    z = b.clip(b.add(b.branch(z, scale, 16), b.branch(y, scale, 16)), UINT8)
    return b.program(z, b.conv2d(y, 5, kernel, qtype=INT4N))


def write(plan, path):
    """Write a compiled program, its buffers apart where that is asked for."""
    if "--apart" in sys.argv[2:]:
        sizes = [buffer.n_bytes + 64 for buffer in plan.buffers]
        offsets = find_offsets(sizes, lifetimes(plan))
        for buffer, offset in zip(plan.buffers, offsets, strict=True):
            buffer.offset = offset
        ends = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
        plan.arena_bytes = -(-max(ends) // 64) * 64
        check_arena(plan)
    write_engine_file(plan, path)


def rows(rng):
    """A convolution that reads rows of dense pixels."""
    b = ProgramBuilder(rng)
    x = b.input((3, 6, 9), UINT8)
    return b.program(b.requantize(b.conv2d(x, 17, 5, 2, padding=2), UINT8, multipliers(rng, 17, 16)))


def bits(rng, name, codes):
    """Convolutions of bits that end as sums, as codes, with a residual and as signs; words of which one is not full."""
    b = ProgramBuilder(rng)
    x = b.input((40, 4, 5), QType.parse(codes))

    def conv(kernel):
        y = b.conv2d(x, 40, kernel, qtype=QType.parse(name))
        weight = b.params[b.nodes[-1].inputs[1]]
        weight[:] = rng.choice([-1 if name == "bipolar" else 0, 1], weight.shape)
        return y

    y, z = conv(1), conv(3)
    scale = b.scale(y).max() * 701.3
    outputs = [z, b.requantize(z, UINT8, multipliers(rng, 40, 16)), b.requantize(conv((1, 3)), QType.parse("bipolar"))]
    return b.program(*outputs, b.clip(b.add(b.branch(y, scale, 16), b.branch(x, scale, 16)), INT8))


def quads(rng):
    """Weights in blocks of 4 outputs, over planes of every stride, with a residual and without."""
    b = ProgramBuilder(rng)
    x = b.input((7, 11, 9), UINT8)
    y = b.conv2d(x, 17, 3, padding=1)
    thin(b, rng, 0.3, outputs=4)
    y = b.requantize(y, INT8, multipliers(rng, 17, 16))
    z = b.conv2d(y, 17, 1)
    scale = b.scale(z).max() * 701.3
    z = b.clip(b.add(b.branch(z, scale, 16), b.branch(y, scale, 16)), UINT8)
    return b.program(z, b.conv2d(z, 20, 3, (1, 2), padding=1, dilation=(2, 1)))


def powers(rng):
    """Weights that are powers of two, as places in a table; of rows of dense pixels, and of whole quads."""
    b = FewValues(rng)
    y = b.requantize(b.conv2d(b.input((3, 5, 7), UINT8), 20, 3, padding=1), INT8, multipliers(rng, 20, 16))
    z = b.conv2d(y, 17, (1, 3))
    return b.program(z, b.requantize(z, UINT8))


def main():
    """Write all of them."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in PROGRAMS.items():
        if name != "wide":
            write(compile_program(make(np.random.default_rng(0))), folder / f"{name}.dyqe")
    for name in ("bipolar", "int2n", "int4n", "int8"):
        program = small(np.random.default_rng(0), name)
        write(compile_program(program), folder / f"weights_{name}.dyqe")
    write(compile_program(rows(np.random.default_rng(0))), folder / "rows.dyqe")
    for name, codes in (("bipolar", "bipolar"), ("int2n", "uint1")):
        program = bits(np.random.default_rng(0), name, codes)
        algorithms = {node.name: "binary" for node in program.graph.nodes if node.op in ("conv2d", "linear")}
        write(compile_program(program, algorithms=algorithms), folder / f"bits_{name}.dyqe")
    program = powers(np.random.default_rng(0))
    algorithms = {node.name: "codebook" for node in program.graph.nodes if node.op == "conv2d"}
    write(compile_program(program, algorithms=algorithms), folder / "codebook.dyqe")
    program = quads(np.random.default_rng(0))
    algorithms = {node.name: "sparse4x4" for node in program.graph.nodes if node.op == "conv2d"}
    write(compile_program(program, algorithms=algorithms), folder / "quads.dyqe")
    for name in BASELINES:
        program = rows(np.random.default_rng(0))
        algorithms = {node.name: name for node in program.graph.nodes if node.op == "conv2d"}
        write(compile_program(program, algorithms=algorithms), folder / f"{name}.dyqe")
    for algorithm, all_words in (("winograd", WINOGRAD), ("winograd1d", WINOGRAD_1D)):
        for words in all_words:
            program = winograd(np.random.default_rng(0), *words)
            algorithms = {node.name: algorithm for node in program.graph.nodes if node.op == "conv2d"}
            write(compile_program(program, algorithms=algorithms), folder / f"{algorithm}_{words[0]}.dyqe")


if __name__ == "__main__":
    main()
