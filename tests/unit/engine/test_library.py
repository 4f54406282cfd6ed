"""The library for programs in C: the guide's own programs, compiled by the system's compilers, and every status."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from c_library import compiled, guide, outputs, worth
from dyadiq.core.errors import MissingToolError
from dyadiq.core.native import native_state
from dyadiq.engine import EngineProgram, available_isas, compile_program, library, library_folder, write_engine_file
from dyadiq.ir.reference import run_reference
from embedded import embedded
from programs import PROGRAMS

HERE = Path(__file__).parent


def has_library():
    try:
        return library_folder().is_dir() and native_state().module is not None  # built of these sources, both
    except MissingToolError:
        return False


pytestmark = pytest.mark.skipif(
    not has_library() or not shutil.which("cc") or not shutil.which("c++"),
    reason="libdyadiq_engine.a was not built, or there is no C compiler",
)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guide")
    return [(compiled(guide("c"), folder / "c", ".c"), threads) for threads in ("1", "3")] + [
        (compiled(guide("cpp"), folder / "cpp", ".cpp"), "2")
    ]


@pytest.mark.parametrize("name", ["digits", "jets", "cnn"])
def test_programs_of_the_guide_give_the_integers_of_the_reference(name, programs, tmp_path):
    program, inputs = embedded(name)
    write_engine_file(compile_program(program), tmp_path / "p.dyqe")
    for sample in range(2):
        one = {key: values[sample : sample + 1] for key, values in inputs.items()}
        (tmp_path / "x.f32").write_bytes(b"".join(values.tobytes() for values in one.values()))
        expected = worth(program, run_reference(program, one))
        for binary, threads in programs:
            assert outputs(binary, tmp_path / "p.dyqe", tmp_path / "x.f32", threads) == expected


def test_every_status_is_returned_with_words(tmp_path):
    program = PROGRAMS["residual"](np.random.default_rng(0))
    write_engine_file(compile_program(program), tmp_path / "p.dyqe")
    (tmp_path / "bad.dyqe").write_bytes((tmp_path / "p.dyqe").read_bytes()[:-1])
    (tmp_path / "empty.dyqe").write_bytes(b"")
    binary = compiled((HERE / "statuses.c").read_text(), tmp_path / "statuses", ".c")
    subprocess.run([binary, *(tmp_path / f"{name}.dyqe" for name in ("p", "bad", "empty", "none"))], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="forbids system calls as only Linux can")
@pytest.mark.parametrize("isa", available_isas())
def test_a_run_allocates_nothing_and_in_one_thread_calls_no_system(isa, tmp_path, monkeypatch):
    program, _ = embedded("digits")
    write_engine_file(compile_program(program), tmp_path / "p.dyqe")
    binary = compiled((HERE / "quiet.c").read_text(), tmp_path / "quiet", ".c", "-D_GNU_SOURCE")
    monkeypatch.setenv("DYADIQ_ISA", isa)
    done = subprocess.run([binary, tmp_path / "p.dyqe"], check=False, timeout=60)
    if done.returncode == 77:
        pytest.skip("this system does not let a process forbid itself system calls")
    assert done.returncode == 0  # -9: killed at the first system call


def test_what_steps_made_is_what_the_reference_made(tmp_path):
    program, inputs = embedded("digits")
    write_engine_file(compile_program(program), tmp_path / "p.dyqe")
    graph = program.graph
    output = {node.name: node.output for node in graph.nodes}
    expected = run_reference(program, inputs, taps=[node.output for node in graph.nodes])
    for threads in (1, 3):
        seen = 0
        for op, name, codes in EngineProgram(tmp_path / "p.dyqe", threads=threads).tensors(inputs):
            if op not in ("fill", "output"):
                wanted = expected[output[name]]
                assert np.array_equal(codes, wanted.reshape(len(wanted), -1)), (op, name)
                seen += 1
        assert seen > 5


def test_a_library_that_was_not_built_is_named(monkeypatch):
    monkeypatch.setattr(library, "_LIBRARY", "libnothing.a")
    with pytest.raises(MissingToolError, match=r"'libnothing.a of dyadiq' is not installed. Run: pip install \."):
        library_folder()
