"""Target dyq: programs come back equal, files have the size that was promised, damage is refused."""

import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest

from dyadiq.core.container import read_container, write_container
from dyadiq.core.errors import ArtifactError, ExportError, GraphError, StorageError
from dyadiq.core.qtype import QType
from dyadiq.ir.integer import IntegerProgram
from dyadiq.ir.packed import pack_program
from dyadiq.ir.reference import run_reference
from dyadiq.targets.dyq import DyqTarget, dyq_size_bytes, dyq_size_parts, read_dyq, write_dyq
from mapped import is_mapped
from programs import PROGRAMS, ProgramBuilder, raw_inputs


def linear_program(qtype, n_in=7, n_out=3):
    """One linear layer with weights of a type, every end value among them."""
    rng = np.random.default_rng(qtype.bits)
    b = ProgramBuilder(rng)
    out = b.requantize(b.linear(b.input((n_in,), QType(4, signed=True)), n_out, qtype), QType(8, signed=True))
    program = b.program(out)
    (weight,) = program.graph.param_types
    program.graph.params[weight].flat[:2] = [qtype.qmin, qtype.qmax]
    return program


def assert_same_program(got, program):
    """All is equal up to inner scales: those per channel of tensors that are no output are not stored."""
    a, b = got.graph, program.graph
    assert (a.dialect, a.inputs, a.outputs, a.nodes) == (b.dialect, b.inputs, b.outputs, b.nodes)
    assert (got.spec_version, a.param_types) == (program.spec_version, b.param_types)
    assert set(a.params) == set(b.params)
    for name, values in b.params.items():
        assert (a.params[name].dtype, a.params[name].shape) == (values.dtype, values.shape)
        assert np.array_equal(a.params[name], values)
    assert set(a.tensors) == set(b.tensors)
    for name, info in b.tensors.items():
        other = a.tensors[name]
        assert (other.shape, other.qtype, other.zero_point) == (info.shape, info.qtype, info.zero_point)
        kept = info.scale is not None and (info.scale.ndim == 0 or name in program.graph.outputs)
        assert kept == (other.scale is not None)
        assert not kept or (other.scale.shape, other.scale.tobytes()) == (info.scale.shape, info.scale.tobytes())


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_comes_back_and_runs_to_the_same_integers(tmp_path, name):
    program = PROGRAMS[name](np.random.default_rng(0))
    target = DyqTarget()
    assert target.check(program) == []
    (file,) = target.write(program, tmp_path / "out")
    assert file == tmp_path / "out" / "program.dyq"
    assert_same_program(read_dyq(file), program)
    inputs = raw_inputs(program, np.random.default_rng(1))
    expected = run_reference(program, inputs)
    got = target.emulate(tmp_path / "out", inputs)
    assert set(got) == set(expected)
    for output, codes in expected.items():
        assert np.array_equal(got[output], codes)


@pytest.mark.parametrize("name", PROGRAMS)
def test_bytes_are_equal_when_a_read_program_is_written_again(tmp_path, name):
    write_dyq(PROGRAMS[name](np.random.default_rng(0)), tmp_path / "a.dyq")
    write_dyq(read_dyq(tmp_path / "a.dyq"), tmp_path / "b.dyq")
    assert (tmp_path / "a.dyq").read_bytes() == (tmp_path / "b.dyq").read_bytes()


@pytest.mark.parametrize("scale", [np.array([0.1, 0.2, 0.3]), np.array(0.1), None])
def test_scale_of_an_output_comes_back(tmp_path, scale):
    b = ProgramBuilder(np.random.default_rng(0))
    out = b.linear(b.input((7,)), 3)
    program = b.program(out)
    program.graph.tensors[out] = replace(program.graph.tensors[out], scale=scale)
    write_dyq(program, tmp_path / "p.dyq")
    back = read_dyq(tmp_path / "p.dyq")
    assert_same_program(back, program)
    codes = {out: np.array([[1, -2, 3]])}
    assert np.array_equal(back.dequantize(codes)[out], program.dequantize(codes)[out])


@pytest.mark.parametrize("name", PROGRAMS)
def test_size_is_known_without_writing(tmp_path, name):
    program = PROGRAMS[name](np.random.default_rng(0))
    fixed, parts = dyq_size_parts(program)
    assert write_dyq(program, tmp_path / "p.dyq") == (tmp_path / "p.dyq").stat().st_size
    assert fixed + sum(parts.values()) == dyq_size_bytes(program) == (tmp_path / "p.dyq").stat().st_size


@pytest.mark.parametrize("bits", range(1, 33))
@pytest.mark.parametrize("kind", ["int", "uint", "narrow"])
def test_every_width_round_trips_at_the_promised_size(tmp_path, bits, kind):
    qtype = QType(bits, signed=kind != "uint", narrow=kind == "narrow" and bits > 1)
    program = linear_program(qtype)
    fixed, parts = dyq_size_parts(program)
    assert fixed == dyq_size_parts(linear_program(QType(8, signed=True)))[0]
    size = write_dyq(program, tmp_path / "p.dyq")
    assert size == fixed + sum(parts.values()) == (tmp_path / "p.dyq").stat().st_size
    assert_same_program(read_dyq(tmp_path / "p.dyq"), program)


def test_bytes_are_equal_when_programs_are_and_provenance_is_not(tmp_path):
    program = PROGRAMS["mlp"](np.random.default_rng(0))
    write_dyq(program, tmp_path / "a.dyq")
    write_dyq(replace(program, provenance={"seed": 1}), tmp_path / "b.dyq")
    assert (tmp_path / "a.dyq").read_bytes() == (tmp_path / "b.dyq").read_bytes()


def test_weights_can_be_read_in_place(tmp_path):
    write_dyq(linear_program(QType(3, signed=True)), tmp_path / "p.dyq")
    container = read_container(tmp_path / "p.dyq")
    (weight,) = [name for name, spec in container.specs.items() if spec.qtype == QType(3, signed=True)]
    assert is_mapped(container.payload(weight))
    assert container.payload(weight).ctypes.data % 64 == 0
    assert container.payload(weight).size == (7 * 3 * 3 + 7) // 8


def test_check_lists_every_reason_at_once(tmp_path):
    program = PROGRAMS["mlp"](np.random.default_rng(0))
    params = dict(program.graph.params)
    for node in program.graph.nodes:
        if node.op == "linear":
            params[node.inputs[2]] = params[node.inputs[2]] + 2**31
    broken = IntegerProgram(program.graph.replace(params=params))
    with pytest.raises(ExportError, match=r"target 'dyq' cannot express 3 nodes(.*\n.*it is stored as int32){3}"):
        DyqTarget().check(broken)
    with pytest.raises(ExportError, match="it is stored as int32"):
        write_dyq(broken, tmp_path / "p.dyq")
    assert not list(tmp_path.iterdir())


def test_check_refuses_when_graph_is_not_legal():
    program = PROGRAMS["mlp"](np.random.default_rng(0))
    with pytest.raises(GraphError, match="nowhere"):
        DyqTarget().check(IntegerProgram(program.graph.replace(outputs=("nowhere",))))


def test_emulate_says_so_when_there_is_no_file(tmp_path):
    with pytest.raises(ArtifactError, match=r"there is no file .*program\.dyq. Write the program first"):
        DyqTarget().emulate(tmp_path, {})


def test_write_says_so_when_a_file_is_in_the_way(tmp_path):
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(StorageError, match="a file is in the way"):
        DyqTarget().write(PROGRAMS["mlp"](np.random.default_rng(0)), tmp_path / "out")


def test_read_refuses_when_a_byte_is_flipped(tmp_path):
    write_dyq(linear_program(QType(3, signed=True)), tmp_path / "p.dyq")
    data = bytearray((tmp_path / "p.dyq").read_bytes())
    for position in range(0, len(data), 7):
        damaged = data.copy()
        damaged[position] ^= 16
        (tmp_path / "q.dyq").write_bytes(damaged)
        with pytest.raises(ArtifactError):
            read_dyq(tmp_path / "q.dyq")


@pytest.mark.parametrize(
    "structure", [b"", b"[]", b"{", b"{}", b"\xff", b"[" * 100_000, b'{"inputs":3}', b'{"inputs":[[1]],"nodes":[[]]}']
)
def test_read_refuses_when_file_holds_no_program(tmp_path, structure):
    _, tensors = pack_program(linear_program(QType(3, signed=True)))
    write_container(tmp_path / "p.dyq", structure, tensors)
    with pytest.raises(ArtifactError, match="holds no legal integer program"):
        read_dyq(tmp_path / "p.dyq")


def test_read_refuses_when_tables_are_missing(tmp_path):
    structure, tensors = pack_program(linear_program(QType(3, signed=True)))
    for spec, _ in tensors[:-1]:
        write_container(tmp_path / "p.dyq", structure, [pair for pair in tensors if pair[0] != spec])
        with pytest.raises(ArtifactError, match=f"table '{spec.name}' is too short"):
            read_dyq(tmp_path / "p.dyq")
    write_container(tmp_path / "p.dyq", structure, tensors[:-1])
    with pytest.raises(ArtifactError, match=r"linear1 \(linear\): parameter 'p0' has shape"):
        read_dyq(tmp_path / "p.dyq")


def test_read_refuses_when_graph_is_not_legal(tmp_path):
    write_dyq(linear_program(QType(3, signed=True)), tmp_path / "p.dyq")
    data = (tmp_path / "p.dyq").read_bytes()
    # Same length, another shape of the input: sizes and checksums are right, the program is not.
    edited = bytearray(data.replace(b'["x0",7]', b'["x0",8]'))
    assert edited != data
    n_tensors, _, name_bytes, structure_bytes = struct.unpack_from("<IQQQ", edited, 12)
    end = 64 + 64 * n_tensors + -(-name_bytes // 64) * 64 + -(-structure_bytes // 64) * 64
    struct.pack_into("<I", edited, 40, zlib.crc32(edited[64:end]))
    struct.pack_into("<I", edited, 60, zlib.crc32(edited[:60]))
    (tmp_path / "p.dyq").write_bytes(edited)
    with pytest.raises(ArtifactError, match=r"holds no legal integer program: linear1 \(linear\): parameter"):
        read_dyq(tmp_path / "p.dyq")


def test_read_refuses_when_program_follows_a_newer_specification(tmp_path):
    program = linear_program(QType(3, signed=True))
    write_dyq(IntegerProgram(program.graph, spec_version=4), tmp_path / "p.dyq")
    with pytest.raises(ArtifactError, match=r"version 4 of the integer .*, this Dyadiq implements versions up to 3"):
        read_dyq(tmp_path / "p.dyq")
