"""The loader against damaged and hostile files: refused or harmless, never a crash."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from dyadiq.core.container import read_container
from dyadiq.core.errors import ArtifactError, DataError
from dyadiq.core.native import native_state
from dyadiq.engine import EngineProgram, available_isas, compile_program, write_engine_file
from dyadiq.engine.plan import EnginePlan
from programs import PROGRAMS

pytestmark = pytest.mark.skipif(not available_isas(), reason=f"the engine was not built: {native_state().found}")


def written(name, path):
    plan = compile_program(PROGRAMS[name](np.random.default_rng(0)))
    write_engine_file(plan, path)
    return plan


def test_every_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "p.dyqe"
    written("mlp", path)
    data = bytearray(path.read_bytes())
    module = native_state().module
    for at in range(0, len(data), 7):
        damaged = np.frombuffer(bytes(data), dtype=np.uint8).copy()
        damaged[at] ^= 1 << at % 8
        with pytest.raises(ValueError, match=r".+"):  # the native reader alone, without the Python one before it
            module.Engine(aligned(damaged), "", 1)


def aligned(data):
    room = np.zeros(len(data) + 64, dtype=np.uint8)
    start = -room.ctypes.data % 64
    room[start : start + len(data)] = data
    return room[start : start + len(data)]


def test_checksums_of_every_length_are_those_of_zlib(tmp_path):
    rng = np.random.default_rng(0)
    plan = compile_program(PROGRAMS["mlp"](rng))
    lengths = sorted({*range(1, 70), *(64 * n + d for n in (2, 4, 5, 8, 12, 16, 65) for d in (-1, 0, 1, 17))})
    plan.payloads += [(f"unused{n}", rng.integers(-128, 128, n).astype(np.int8)) for n in lengths]
    write_engine_file(plan, tmp_path / "p.dyqe")
    native_state().module.Engine(aligned(np.fromfile(tmp_path / "p.dyqe", dtype=np.uint8)), "", 1)


@pytest.mark.parametrize("n_bytes", [0, 1, 63, 64, 65, 128, 1000])
def test_short_files_are_refused(n_bytes, tmp_path):
    path = tmp_path / "p.dyqe"
    written("mlp", path)
    data = np.frombuffer(path.read_bytes(), dtype=np.uint8)[:n_bytes]
    with pytest.raises(ValueError, match=r".+"):
        native_state().module.Engine(aligned(data), "", 1)


class Hostile(EnginePlan):
    """A plan whose words were changed, behind right checksums."""

    def __init__(self, plan, words):
        super().__init__(plan.inputs, plan.outputs, payloads=plan.payloads, types=plan.types)
        self._words = words

    def words(self):
        return self._words


@pytest.mark.parametrize("name", ["conv_pool", "residual", "joins", "pow2_cnn", "zero_points", "grids"])
def test_hostile_plans_are_refused_or_harmless(name, tmp_path):
    rng = np.random.default_rng(sum(map(ord, name)))
    path = tmp_path / "p.dyqe"
    plan = written(name, path)
    words, module, refused, ran = plan.words(), native_state().module, 0, 0
    strange = [-(2**31), -1, 0, 1, 2, 3, 4, 16, 63, 64, 128, 255, 256, 65535, 2**20, 2**24, 2**31 - 1]
    for _ in range(240):
        changed = words.copy()
        for at in rng.integers(0, len(words), rng.integers(1, 4)):
            near = int(np.clip(int(changed[at]) + rng.integers(-2, 3), -(2**31), 2**31 - 1))
            changed[at] = rng.choice(strange) if rng.random() < 0.7 else near
        changed = changed[: rng.integers(1, len(words) + 1)] if rng.random() < 0.1 else changed
        write_engine_file(Hostile(plan, changed), path)
        data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        try:
            engine = module.Engine(aligned(data), "", 2)
            if engine.arena_bytes > 1 << 24:
                continue
            inputs = [np.zeros((1, int(np.prod(shape)))) for _, shape in plan.inputs]
            engine.run(inputs, [np.empty((1, int(np.prod(shape))), np.int32) for _, shape in plan.outputs])
            ran += 1
        except (ValueError, MemoryError):
            refused += 1
    assert refused > 40
    assert ran > 16  # such as changed zero points: other integers, inside the arena


def test_an_input_without_a_range_of_codes_is_refused(tmp_path):
    path = tmp_path / "p.dyqe"
    plan = written("conv_pool", path)
    words = plan.words()
    (step,) = (s for s in plan.steps if s.op == "quantize")
    (at,) = (i for i in range(len(words)) if words[i : i + len(step.words)].tolist() == list(step.words))
    qmin, qmax = words[at + 4 : at + 6].tolist()
    words[at + 4 : at + 6] = qmax, qmin
    write_engine_file(Hostile(plan, words), path)
    with pytest.raises(ValueError, match="codes of an input have no range"):
        native_state().module.Engine(aligned(np.fromfile(path, dtype=np.uint8)), "", 1)


@pytest.mark.parametrize("name", ["conv_pool", "residual", "joins", "pow2_cnn"])
def test_buffers_of_one_step_that_overlap_are_refused(name, tmp_path):
    path = tmp_path / "p.dyqe"
    plan = written(name, path)
    words = plan.words()
    first = 8 + len(plan.inputs) + len(plan.outputs)
    words[first : first + 10 * len(plan.buffers) : 10] = 0  # all at the start of the arena
    write_engine_file(Hostile(plan, words), path)
    with pytest.raises(ValueError, match="a step writes over what it reads"):
        native_state().module.Engine(aligned(np.fromfile(path, dtype=np.uint8)), "", 1)


def test_structure_that_is_no_json_is_refused(tmp_path):
    path = tmp_path / "p.dyqe"
    written("mlp", path)
    container = read_container(path)
    structure = json.loads(container.structure)
    data = path.read_bytes()
    old = json.dumps(structure, separators=(",", ":")).encode()
    new = old.replace(b'{"engine"', b'["engine"')
    body = bytearray(data.replace(old, new))
    n_tensors = len(container.specs)
    names = sum(len(name.encode()) for name in container.specs)
    end = 64 + 64 * n_tensors + -(-names // 64) * 64 + -(-len(new) // 64) * 64
    body[40:44] = zlib.crc32(body[64:end]).to_bytes(4, "little")
    body[60:64] = zlib.crc32(body[:60]).to_bytes(4, "little")
    path.write_bytes(body)
    with pytest.raises(ArtifactError, match="holds no compiled program"):
        EngineProgram(path)


def test_input_that_is_not_finite_is_noticed(tmp_path):
    path = tmp_path / "p.dyqe"
    plan = written("mlp", path)
    ((name, shape),) = plan.inputs
    values = np.zeros((2, *shape))
    values[1, 0] = np.inf
    with pytest.raises(DataError, match="NaN or infinite"):
        EngineProgram(path).run({name: values})


CORPUS = sorted((Path(__file__).parents[3] / "native/fuzz/corpus").glob("*"))


def test_what_fuzzing_found_is_refused_or_runs():
    """Every file of the corpus, on all kernels; native/fuzz/run does the same with sanitizers."""
    assert CORPUS
    module = native_state().module
    for path in CORPUS:
        data = aligned(np.frombuffer(path.read_bytes(), dtype=np.uint8))
        for isa in available_isas():
            try:
                engine = module.Engine(data, isa, 1)
            except (ValueError, MemoryError):
                break
            assert engine.isa == isa
