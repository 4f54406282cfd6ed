"""The library built for one program alone: its operators, one instruction set, and what it says of other programs."""

import shutil
import subprocess

import numpy as np
import pytest

from c_library import HEADERS, compiled, guide, outputs, worth
from dyadiq.engine import compile_program, write_engine_file
from dyadiq.ir.reference import run_reference
from embedded import embedded
from programs import PROGRAMS, ProgramBuilder

missing = [tool for tool in ("cmake", "cc", "c++") if not shutil.which(tool)]
pytestmark = pytest.mark.skipif(
    bool(missing) or not HEADERS.is_dir(), reason=f"{' and '.join(missing) or 'native/engine'} missing"
)


def configured(build, **options):
    """What CMake says of options."""
    flags = [f"-D{key}={value}" for key, value in {"CMAKE_BUILD_TYPE": "Debug", **options}.items()]
    return subprocess.run(["cmake", "-S", HEADERS, "-B", build, *flags], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The guide's program with a library for the jet tagger and nothing else, and what CMake said."""
    folder = tmp_path_factory.mktemp("small")
    write_engine_file(compile_program(embedded("jets")[0]), folder / "jets.dyqe")
    told = configured(folder / "build", DYADIQ_PROGRAMS=folder / "jets.dyqe", DYADIQ_ISAS="portable")
    assert told.returncode == 0, told.stderr
    subprocess.run(["cmake", "--build", folder / "build", "--parallel", "2"], check=True, capture_output=True)
    binary = compiled(guide("c"), folder / "run", ".c", library=folder / "build/libdyadiq_engine.a")
    return binary, folder / "jets.dyqe", told.stdout


def test_its_program_gives_the_integers_of_the_reference(small, tmp_path):
    binary, path, told = small
    assert "dyadiq_engine runs quantize direct\n" in told
    program, inputs = embedded("jets")
    for sample in range(2):
        one = {key: values[sample : sample + 1] for key, values in inputs.items()}
        (tmp_path / "x.f32").write_bytes(b"".join(values.tobytes() for values in one.values()))
        assert outputs(binary, path, tmp_path / "x.f32") == worth(program, run_reference(program, one))


@pytest.mark.parametrize(
    ("name", "operator"), [("conv_pool", "max_pool"), ("zero_points", "generic"), ("residual", "sum_pool")]
)
def test_a_program_of_other_operators_is_refused_with_the_name_of_one(small, name, operator, tmp_path):
    binary, *_ = small
    write_engine_file(compile_program(PROGRAMS[name](np.random.default_rng(0))), tmp_path / "p.dyqe")
    done = subprocess.run([binary, tmp_path / "p.dyqe", "x", "1"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        f"this library was built without an operator of the program: {operator}\n",
    )


def test_kernels_that_were_left_out_are_none_of_this_machine(small, monkeypatch):
    binary, path, _ = small
    monkeypatch.setenv("DYADIQ_ISA", "avx2")
    done = subprocess.run([binary, path, "x", "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "this machine has no such kernels" in done.stderr


def test_steps_and_kinds_of_convolutions_are_found_in_a_program(tmp_path):
    b = ProgramBuilder(np.random.default_rng(0))
    program = b.program(b.conv2d(b.input((8, 6, 6)), 8, 3, padding=1))
    algorithms = {node.name: "sparse4x4" for node in program.graph.nodes if node.op == "conv2d"}
    write_engine_file(compile_program(program, algorithms=algorithms), tmp_path / "p.dyqe")
    told = configured(tmp_path / "build", DYADIQ_PROGRAMS=tmp_path / "p.dyqe", DYADIQ_ISAS="portable")
    assert "dyadiq_engine runs quantize quads sparse4x4\n" in told.stdout


def test_options_that_mean_nothing_are_refused_by_cmake(tmp_path):
    (tmp_path / "text").write_text("no program")
    for options, words in (
        ({"DYADIQ_ISAS": "avx1024"}, "no kernels of this target are called avx1024; expected some of portable"),
        ({"DYADIQ_PROGRAMS": tmp_path / "none"}, "DYADIQ_PROGRAMS: there is no file"),
        ({"DYADIQ_PROGRAMS": tmp_path / "text"}, "holds no compiled program. Export it with --to engine."),
    ):
        told = configured(tmp_path / words.split()[-1], **options)
        assert told.returncode != 0
        assert words in " ".join(told.stderr.split())
