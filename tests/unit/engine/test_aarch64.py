"""The NEON kernels: the library compiled for aarch64 and run by qemu, with the reference's integers."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from dyadiq.core.qtype import QType
from dyadiq.engine import compile_program, write_engine_file
from dyadiq.ir.reference import run_reference
from few_values import FewValues
from fuzz_seeds import WINOGRAD, WINOGRAD_1D, winograd
from programs import INT8, PROGRAMS, UINT8, ProgramBuilder, multipliers
from sparse_weights import thin

ENGINE = Path(__file__).parents[3] / "native/engine"
COMPILER, RUNNER = "aarch64-linux-gnu-g++", "qemu-aarch64"
missing = [tool for tool in (COMPILER, RUNNER) if not shutil.which(tool)]
pytestmark = pytest.mark.skipif(
    bool(missing) or not ENGINE.is_dir(),
    reason=f"{' and '.join(missing)} missing: apt-get install g++-aarch64-linux-gnu qemu-user",
)
N_SAMPLES = 2
# Processors of qemu: without dot products and with them.
PLAIN, DOT = "cortex-a53", "cortex-a76"
FLAGS = ["-std=c++20", "-O2", "-ffp-contract=off", "-DDYADIQ_AARCH64", f"-I{ENGINE.parent}", f"-I{ENGINE}"]


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    """The program of cross.cpp with the whole library, for aarch64."""
    folder = tmp_path_factory.mktemp("aarch64")
    sources = [*sorted(ENGINE.glob("*.cpp")), *sorted(ENGINE.glob("kernels/portable*.cpp"))]
    sources += [ENGINE / "kernels/neon.cpp", ENGINE / "kernels/neondot.cpp", Path(__file__).with_name("cross.cpp")]
    for source in sources:
        extra = ["-march=armv8.2-a+dotprod"] if source.stem == "neondot" else []
        subprocess.run([COMPILER, *FLAGS, *extra, "-c", source, "-o", folder / f"{source.stem}.o"], check=True)
    objects = [folder / f"{source.stem}.o" for source in sources]
    subprocess.run([COMPILER, "-static", *objects, "-lpthread", "-o", folder / "cross"], check=True)
    return folder / "cross"


def widths(rng):
    """Packed, sparse and one-bit weights, residuals of both types, depthwise, pools; sizes around those of vectors."""
    b = ProgramBuilder(rng, worst=bool(rng.integers(2)))
    size = int(rng.choice([1, 7, 15, 17, 33]))
    x = b.input((32, 5, size), UINT8 if rng.integers(2) else INT8, scale=0.03)
    outputs = []
    for name in ("bipolar", "int2n", "int4n", "int8"):
        y = b.conv2d(x, 33, 3, padding=1, qtype=QType.parse(name))
        outputs += [y, b.requantize(y, UINT8, multipliers(rng, 33, 16))]
    y = b.conv2d(x, 48, 3, 1, 1)
    thin(b, rng, 0.3)
    y = b.requantize(y, INT8, multipliers(rng, 48, 16))
    z = b.conv2d(y, 48, 1)
    scale = b.scale(z).max() * 701.3
    outputs.append(b.clip(b.add(b.branch(z, scale, 16), b.branch(y, scale, 16)), UINT8))
    outputs.append(b.requantize(b.conv2d(y, 48, 3, 1, 1, 1, 48), UINT8, multipliers(rng, 48, 16)))
    bits = b.requantize(b.conv2d(x, 40, 1), QType.parse("uint1"))  # whose next layer counts them, by the rule
    outputs.append(b.conv2d(bits, 33, 3, padding=1, qtype=QType.parse("bipolar")))
    outputs += [b.max_pool2d(y, 3, 2, padding=1), b.sum_pool2d(x, 2, 1, padding=1), b.linear(b.flatten(x), 17)]
    return b.program(*outputs)


def blocks(rng):
    """Weights in blocks of 4 outputs, whose inputs lie by quads of channels."""
    b = ProgramBuilder(rng, worst=bool(rng.integers(2)))
    x = b.input((17, 5, int(rng.choice([1, 7, 15, 17, 33]))), UINT8 if rng.integers(2) else INT8, scale=0.03)
    y = b.conv2d(x, 33, 3, (1, 2), padding=1)
    thin(b, rng, 0.3, outputs=4)
    y = b.requantize(y, INT8, multipliers(rng, 33, 16))
    z = b.conv2d(y, 33, 1)
    scale = b.scale(z).max() * 701.3
    return b.program(z, b.clip(b.add(b.branch(z, scale, 16), b.branch(y, scale, 16)), UINT8))


def powers(rng):
    """Weights that lie in a table, by the rule: of rows of dense pixels, and of whole quads."""
    b = FewValues(rng)
    y = b.requantize(b.conv2d(b.input((3, 8, 9), UINT8), 33, 3, padding=1), INT8, multipliers(rng, 33, 16))
    return b.program(b.conv2d(y, 17, (1, 3)))


def run(runner, processor, isa, prefixes):
    command = [RUNNER, "-cpu", processor, str(runner), isa, str(N_SAMPLES), *map(str, prefixes)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("processor", "isa"), [(PLAIN, "neon"), (DOT, "neondot"), (DOT, "neon"), (PLAIN, "portable")])
def test_every_feature_equals_the_reference(processor, isa, runner, tmp_path):
    rng = np.random.default_rng(0)
    programs = [make(rng) for name, make in PROGRAMS.items() if name != "wide"]
    programs += [widths(np.random.default_rng(seed)) for seed in range(8)] + [powers(np.random.default_rng(0))]
    by_name = [(blocks(np.random.default_rng(seed)), "sparse4x4") for seed in range(4)]
    by_name += [(winograd(rng, *words), "winograd") for words in WINOGRAD]
    by_name += [(winograd(rng, *words), "winograd1d") for words in WINOGRAD_1D]
    algorithms = [{} for _ in programs]
    for program, algorithm in by_name:
        programs.append(program)
        algorithms.append({node.name: algorithm for node in program.graph.nodes if node.op == "conv2d"})
    expected, prefixes = [], []
    for at, program in enumerate(programs):
        prefixes.append(tmp_path / str(at))
        write_engine_file(compile_program(program, algorithms=algorithms[at]), f"{prefixes[-1]}.dyqe")
        inputs = {}
        for i, name in enumerate(program.graph.inputs):
            shape = (N_SAMPLES, *program.graph.tensors[name].shape)
            inputs[name] = rng.normal(size=shape).astype(np.float32) * 4
            inputs[name].tofile(f"{prefixes[-1]}.in{i}")
        expected.append(run_reference(program, inputs))
    done = run(runner, processor, isa, prefixes)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(done.stdout.split()) == {isa}
    for program, prefix, codes in zip(programs, prefixes, expected, strict=True):
        for i, name in enumerate(program.graph.outputs):
            found = np.fromfile(f"{prefix}.out{i}", dtype=np.int32).reshape(codes[name].shape)
            assert np.array_equal(found, codes[name]), (prefix.name, name)


def test_the_best_kernels_are_those_the_processor_has(runner, tmp_path):
    program = PROGRAMS["mlp"](np.random.default_rng(0))
    write_engine_file(compile_program(program), tmp_path / "p.dyqe")
    for i, name in enumerate(program.graph.inputs):
        np.zeros((N_SAMPLES, *program.graph.tensors[name].shape), dtype=np.float32).tofile(tmp_path / f"p.in{i}")
    assert [run(runner, cpu, "best", [tmp_path / "p"]).stdout.split() for cpu in (PLAIN, DOT)] == [
        ["neon"],
        ["neondot"],
    ]
    refused = run(runner, PLAIN, "neondot", [tmp_path / "p"])
    assert refused.returncode == 1
    assert "this machine has no such kernels: neondot" in refused.stdout
